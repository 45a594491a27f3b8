"""Each verb at a point, ready to be timed, and its floor: what cannot be done without."""

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import bnretrofit
from benchmarks.growth_networks import batches, chain
from benchmarks.growth_points import CALIBRATE, FOLD, FOLD_FILE, PLAN, VERIFY, Point

__all__ = ["FLOORS", "Contest", "calibration", "contest"]

Contest = tuple[Callable[[], object], Callable[[], object]]

FLOORS = {
    PLAN: "`make_plan`. The floor is one `torch.export` of the network",
    CALIBRATE: "`calibrate`. The floor is the plain forward pass over the same images, in the faster layout",
    FOLD: "`fold` of a network that has a BatchNorm after each convolution. The floor is one `torch.export` of it",
    VERIFY: "`verify` of the network against itself with norms, which is equal. The floor is two plain forward passes",
    FOLD_FILE: "`fold_checkpoint`, which checks what it writes. The floor is a plain copy of the file",
}
"""By verb: what is measured, and beside what."""

FACTORY = """\
from benchmarks.growth_networks import chain


def network():
    return chain({depth}, {width}, norms=True)
"""


def contest(point: Point) -> AbstractContextManager[Contest]:
    """A verb's work at a point and the floor's; what both need is made before."""
    contests = {PLAN: planning, CALIBRATE: calibration, FOLD: folding, VERIFY: verification, FOLD_FILE: file_folding}
    return contests[point.verb](point)


@contextmanager
def planning(point: Point) -> Iterator[Contest]:
    model, (example, *_) = chain(point.depth, point.width), batches(point)
    yield partial(bnretrofit.make_plan, model, example), partial(export, model, example)


@contextmanager
def calibration(point: Point, rank: int = 0, *, across_ranks: bool = False) -> Iterator[Contest]:
    """One rank's share: every so many batches, one."""
    model, given = chain(point.depth, point.width), batches(point)[rank :: point.ranks]
    plan = bnretrofit.make_plan(model, given[0][:1])
    last = chain(point.depth, point.width).to(memory_format=torch.channels_last)
    given_last = [batch.contiguous(memory_format=torch.channels_last) for batch in given]
    work = partial(bnretrofit.calibrate, model, plan, given, across_ranks=across_ranks)
    yield work, partial(forward, [last], given_last)


@contextmanager
def folding(point: Point) -> Iterator[Contest]:
    model, (example, *_) = chain(point.depth, point.width, norms=True), batches(point)
    yield partial(bnretrofit.fold, model, example), partial(export, model, example)


@contextmanager
def verification(point: Point) -> Iterator[Contest]:
    """A network against itself with norms: equal, as it should be."""
    model, given = chain(point.depth, point.width), batches(point)
    other = bnretrofit.retrofit(model, given[:1])
    yield partial(bnretrofit.verify, model, other, given), partial(forward, [model, other], given)


@contextmanager
def file_folding(point: Point) -> Iterator[Contest]:
    from safetensors.torch import save_file

    from bnretrofit.workflows.folding import FoldChoice, fold_checkpoint
    from bnretrofit.workflows.images import ImageChoice
    from bnretrofit.workflows.opening import ModelChoice

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, output, copied = (folder / f"{name}.safetensors" for name in ("source", "output", "copied"))
        save_file(chain(point.depth, point.width, norms=True).state_dict(), source)
        factory = folder / "factory.py"
        factory.write_text(FACTORY.format(depth=point.depth, width=point.width))
        chosen = ModelChoice(f"{factory}:network", trust_code=True), ImageChoice(None, img_size=point.pixels)
        work = partial(fold_checkpoint, source, *chosen, output, FoldChoice(), overwrite=True)
        yield work, partial(copy, source, copied)


def export(model: nn.Module, example: Tensor) -> None:
    # Without the search for garbage among all objects of the process, which the library leaves out, too.
    gc.disable()
    try:
        with torch.no_grad():
            torch.export.export(model, (example,), strict=False)
    finally:
        gc.enable()


def forward(models: list[nn.Module], given: list[Tensor]) -> None:
    with torch.inference_mode():
        for batch in given:
            for model in models:
                model(batch)


def copy(source: Path, output: Path) -> None:
    """Also onto the disk, as every file of ours is before it gets its name."""
    shutil.copyfile(source, output)
    with output.open("rb") as file:
        os.fsync(file.fileno())
