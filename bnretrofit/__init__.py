"""Batch normalisation for networks trained without it: inserted as the identity, fine-tuned, and folded back.

Shapes in this package: N batch, C channels, L tokens, *S spatial dimensions.
"""

from bnretrofit.calibration import calibrate
from bnretrofit.comparison import Report
from bnretrofit.errors import RetrofitError
from bnretrofit.folding import fold, make_fold_plan
from bnretrofit.insertion import insert
from bnretrofit.moments import ChannelStats
from bnretrofit.pipeline import retrofit
from bnretrofit.planning import make_plan
from bnretrofit.sites import FoldPlan, Plan, Site, Skip
from bnretrofit.training import History, TrainingConfig, finetune
from bnretrofit.verification import verify

__all__ = [
    "ChannelStats",
    "FoldPlan",
    "History",
    "Plan",
    "Report",
    "RetrofitError",
    "Site",
    "Skip",
    "TrainingConfig",
    "calibrate",
    "finetune",
    "fold",
    "insert",
    "make_fold_plan",
    "make_plan",
    "retrofit",
    "verify",
]
