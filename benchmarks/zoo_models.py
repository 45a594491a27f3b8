"""A network of the zoo, built with random weights, and what it is called with."""

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchmarks.zoo_list import Entry

__all__ = ["Subject", "subject_of", "tensors_of"]

SIZES = (32, 64, 96, 128, 160, 192, 224, 256, 299, 320)
CLIPS = ((4, 32), (8, 64), (16, 112), (16, 224))  # frames, px
SMALL = 128
NOISE = 0.05
BIAS = 0.25


@dataclass(frozen=True, slots=True)
class Subject:
    """A network that is built, in eval mode.

    Attributes:
        whole: The network.
        part: The submodule that is retrofitted in its place; "" for the whole.
        shape: Of one sample, without the batch: of the smallest that it takes.
    """

    whole: nn.Module
    part: str
    shape: tuple[int, ...]

    @property
    def network(self) -> nn.Module:
        """What is retrofitted: the network, or its part."""
        return self.whole.get_submodule(self.part)

    def inputs(self, samples: int, seed: int) -> Tensor:
        """Random inputs of the network that is retrofitted."""
        return torch.randn(samples, *self.shape, generator=torch.Generator().manual_seed(seed))

    def answers(self, network: nn.Module, inputs: Tensor) -> list[Tensor]:
        """All tensors that the whole answers, with `network` in the place of what is retrofitted."""
        if not self.part:
            return tensors_of(network, inputs.clone())
        whole = copy.deepcopy(self.whole)
        whole.set_submodule(self.part, network)
        # A detector takes a list of images, whose values are between 0 and 1.
        return tensors_of(whole, list(inputs.sigmoid()))


def tensors_of(network: nn.Module, inputs: Any) -> list[Tensor]:
    """All tensors in a network's answer, whatever they are packed in."""
    # Not inference_mode: some networks keep what they compute on the way, and would keep tensors of that mode.
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(network(inputs)) if isinstance(leaf, Tensor)]


def subject_of(entry: Entry) -> Subject:
    """A network with seeded random weights, and the smallest input that it takes.

    Raises:
        ValueError: It takes none of the inputs tried.
    """
    torch.manual_seed(0)
    whole = _built(entry)
    _redraw_constants(whole)
    network = whole.get_submodule(entry.part)
    subject = Subject(whole, entry.part, _taken(network, list(_shapes(entry, whole))))
    _redraw_norms(network, subject.inputs(4, seed=0))
    return subject


def _built(entry: Entry) -> nn.Module:
    built: nn.Module
    if entry.group == "timm":
        import timm

        built = timm.create_model(entry.name, **entry.options)
        return built.eval()
    from torchvision import models

    options: dict[str, Any] = {"weights": None, **entry.options}
    if entry.group in ("segmentation", "detection"):
        options["weights_backbone"] = None
    with warnings.catch_warnings():
        # Two networks of torchvision announce another default for how they are initialised.
        warnings.simplefilter("ignore", FutureWarning)
        built = models.get_model(entry.name, **options)
    return built.eval()


def _redraw_constants(model: nn.Module) -> None:
    """Leave no parameter constant: a residual branch scaled by zero, or a head of zeros, would hide errors in it."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(torch.randn_like(parameter), alpha=NOISE)


def _redraw_norms(network: nn.Module, inputs: Tensor) -> None:
    """BatchNorms as training might have left them: their statistics have to do with what they are given.

    Statistics out of the air would do away with the signal in a dozen layers, and with it every error in them. Each
    norm gets its own when it is reached, so that what follows is measured with it in place.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    handles = [norm.register_forward_pre_hook(_redraw) for norm in norms]
    try:
        tensors_of(network, inputs)
    finally:
        for handle in handles:
            handle.remove()


def _redraw(norm: Any, inputs: tuple[Tensor, ...]) -> None:
    if norm.affine:
        norm.weight.uniform_(0.4, 1.4).mul_(torch.randn_like(norm.weight).sign())
        norm.bias.normal_(std=BIAS)
    if norm.running_mean is not None:
        rows = inputs[0].transpose(0, 1).flatten(1)
        # Not each channel's own mean and variance: on these few inputs they are small by chance in some, and scaling
        # those up in a hundred layers of random weights leaves nothing but rounding.
        mean = rows.mean(1) * torch.empty(len(rows)).uniform_(0.0, 0.3)
        norm.running_mean.copy_(mean)
        norm.running_var.uniform_(0.5, 2.0).mul_((rows - mean[:, None]).square().mean())


def _shapes(entry: Entry, model: Any) -> Iterator[tuple[int, ...]]:
    """Shapes of one sample to try, the smallest first."""
    if entry.group == "timm":
        yield from _shapes_of(model.pretrained_cfg)
    elif entry.group == "video":
        yield from ((3, frames, size, size) for frames, size in CLIPS)
    elif entry.group == "detection":
        yield (3, *model.transform.fixed_size)
    else:
        yield from ((3, size, size) for size in SIZES)


def _shapes_of(config: dict[str, Any]) -> Iterator[tuple[int, ...]]:
    """What timm's configuration allows: the size it names, or a smaller one where it is not fixed."""
    channels, *own = config["input_size"]
    if not config.get("fixed_input_size"):
        if config.get("min_input_size"):
            yield tuple(config["min_input_size"])
        yield (channels, *(min(size, SMALL) for size in own))
    yield (channels, *own)


def _taken(network: nn.Module, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The first of the shapes on which the network answers, and with finite numbers."""
    refusal: Exception | None = None
    for shape in shapes:
        try:
            answers = tensors_of(network, torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)))
        except Exception as error:  # noqa: BLE001 - a network refuses a size by whatever error it likes
            refusal = error
            continue
        if all(bool(answer.isfinite().all()) for answer in answers):
            return shape
    why = "its answers are not finite" if refusal is None else str(refusal)
    raise ValueError(f"it takes none of {', '.join(map(str, shapes))}: {why}") from refusal
