"""The images to fine-tune on -> batches, so that a resumed run sees what an uninterrupted one would have seen."""

from bnretrofit.training_data.opening import open_training
from bnretrofit.training_data.source import LabelledBatch, TrainingSet, TrainingSource

__all__ = ["LabelledBatch", "TrainingSet", "TrainingSource", "open_training"]
