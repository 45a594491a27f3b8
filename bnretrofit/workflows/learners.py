"""An opened checkpoint and labelled images -> a network that can learn from them: its head, its labels, its inputs."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bnretrofit.copies import independent_copy
from bnretrofit.training import TrainingConfig
from bnretrofit.training.devices import process_rank
from bnretrofit.training.evaluation import classes_of
from bnretrofit.training.heads import replace_head
from bnretrofit.training.norm_mode import smallest_batch
from bnretrofit.training_data import TrainingSource, open_training
from bnretrofit.training_data.source import TrainingSet
from bnretrofit.workflows.labels import labels_for
from bnretrofit.workflows.opening import ModelChoice, Opened, example_for
from bnretrofit.workflows.own_heads import check_head_learns, check_heads, has_new_head
from bnretrofit.workflows.training_choices import DataChoice

__all__ = ["Learner", "example_of", "learner"]


@dataclass(frozen=True, slots=True)
class Learner:
    """A network that can learn from its images.

    Attributes:
        opened: What it came from, with the number of classes that it has now.
        network: All of it, with tensors of its own; in eval mode, on the CPU.
        samples: What it learns from, labelled as its outputs are.
        source: What the user said of these.
        record: What is recorded of them, before any of them was read: what cannot be read is found anew by whoever goes
            on with a run, and told in the end.
        notes: What was assumed, to be told to the user.
    """

    opened: Opened
    network: nn.Module
    samples: TrainingSet
    source: TrainingSource
    record: dict[str, Any]
    notes: tuple[str, ...]


@contextmanager
def learner(
    opened: Opened, model: ModelChoice, data: DataChoice, config: TrainingConfig, device: str | None
) -> Iterator[Learner]:
    """Open the images, and fit network and labels to one another.

    Args:
        opened: The checkpoint.
        model: What the user said of it; another number of classes than it has gives it a new last layer.
        data: What it learns from.
        config: How.
        device: "cpu", or None for what there is.

    Raises:
        RetrofitError: The message says what does not fit.
    """
    network = independent_copy(opened.model if opened.whole is None else opened.whole)
    # On GPUs statistics are those of all ranks.
    together = 1 if device == "cpu" or not torch.cuda.is_available() else process_rank()[1]
    min_batch = smallest_batch(network, config, data.images.batch_size * together)
    source = data.source(opened.preprocessing, min_batch)
    with closing(open_training(source)) as given:
        record, notes = given.record(), [given.promise]
        example = example_of(given, source, network)
        source = replace(source, preprocessing=source.preprocessing.seen(example))
        classes = model.num_classes
        if classes is not None and has_new_head(opened, classes, classes_of(network, example)):
            check_head_learns(config.train, classes)
        if classes is not None and classes != classes_of(network, example):
            head = replace_head(network, example, classes, config.seed)
            opened = replace(opened, num_classes=classes)
            check_heads(network, opened, trust_code=model.trust_code)
            notes.append(f"'{head}' is a new layer of {classes} outputs")
        labels = labels_for(given.classes, classes_of(network, example))
        samples = given if labels is None else given.relabelled(labels)
        yield Learner(opened, network, samples, source, record, tuple(notes))


def example_of(samples: TrainingSet, source: TrainingSource, network: nn.Module) -> Tensor:
    """A batch of one image: of the size that the preprocessing says or, without one, as the first image has it."""
    if source.preprocessing.input_size[1] is not None:
        return example_for(source.preprocessing, network)
    images = next(iter(samples.calibration_batches(1 + source.max_bad_images)), None)
    # What gives no batch is refused with its reason when training begins.
    return example_for(source.preprocessing, network) if images is None else images[:1]
