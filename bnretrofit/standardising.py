"""model + plan + batches -> the model with norms of weight 1 and bias 0 that put out mean 0 and variance 1.

Statistics are measured with the norms in their places, since each changes what the later ones read: see `sweeping`.
"""

import torch
from torch import nn

from bnretrofit.affine import fixed_norm
from bnretrofit.batches import taken
from bnretrofit.copies import share_copy
from bnretrofit.insertion import insert_blank
from bnretrofit.norm_statistics import Batches
from bnretrofit.sites import Plan
from bnretrofit.sweeping import settle

__all__ = ["standardize"]


def standardize(model: nn.Module, plan: Plan, batches: Batches) -> nn.Module:
    """Put a BatchNorm after every site and give it the statistics of what it reads in its place, in eval mode.

    For networks that are not yet trained: the outputs change. How the samples are batched leaves a trace below what
    `unit_outputs.check_unit_outputs` lets pass.

    Args:
        model: The network the plan was made for; it is left as it is.
        plan: Where norms go.
        batches: The calibration set, to be gone through several times; a progress bar goes to stderr.

    Returns:
        The model with norms, which shares the tensors of its argument, in its mode.

    Raises:
        InputRejectedError: The plan does not fit the model, there is no batch, or an activation is not finite.
        VerificationError: The norms are not where the model would run them.
    """
    result = insert_blank(model, plan)
    # A model may write to its buffers while it runs.
    copy = share_copy(result, buffers=False).eval()
    names = [site.norm_name for site in plan.sites]
    norms = {name: copy.get_submodule(name) for name in names}
    with torch.inference_mode():
        settle(copy, norms, batches, next(taken(batches, "calibrate")), "standardize")
    for name, norm in norms.items():
        found, measured = fixed_norm(result.get_submodule(name)), fixed_norm(norm)
        found.mean.copy_(measured.mean)
        found.var.copy_(measured.var)
    return result
