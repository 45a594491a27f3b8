"""What `bnretrofit verify` does, and what `retrofit` and `fold` do before they write."""

from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from bnretrofit.batches import checked_device
from bnretrofit.capture import Graph
from bnretrofit.checkpoints import read_header
from bnretrofit.comparison import Report
from bnretrofit.data import ImageBatches
from bnretrofit.differences import Accuracy
from bnretrofit.errors import UsageError, VerificationError
from bnretrofit.exporting.onnx_files import OnnxModel
from bnretrofit.preprocessing import Preprocessing
from bnretrofit.trials.inputs import RANDOM_SAMPLES
from bnretrofit.verification import NO_MORE, Checks, verify_labelled
from bnretrofit.workflows.images import ImageChoice, accuracy_labels, batches_of, notes_on
from bnretrofit.workflows.input_files import read_inputs
from bnretrofit.workflows.opening import ModelChoice, Opened, example_for, open_model, part_of

__all__ = [
    "Compared",
    "compare",
    "difference_outside",
    "failed",
    "open_both",
    "preprocessing_of",
    "verify_checkpoints",
    "with_the_rest",
]


ONNX = ".onnx"
IMAGENET = 1000


@dataclass(frozen=True, slots=True)
class Compared:
    """What verification found.

    Attributes:
        report: The report.
        accuracy: Top-1 accuracy of both models, 0 to 1; None where the images' folders do not say their classes.
        notes: What was assumed.
    """

    report: Report
    accuracy: tuple[float, float] | None
    notes: tuple[str, ...] = ()


def compare(
    a: nn.Module,
    b: nn.Module,
    batches: ImageBatches,
    checks: Checks = NO_MORE,
    *,
    graphs: tuple[Graph, Graph] | None = None,
) -> Compared:
    """Compare two models on images, counting top-1 hits where the folders name the classes."""
    # With unreadable images among them the labels would no longer be those of the outputs.
    counted = None if batches.max_bad_images else Accuracy(cache(partial(accuracy_labels, batches)))
    report = verify_labelled(a, b, batches, checks, accuracy=counted, graphs=graphs)
    shares = None if counted is None else counted.shares()
    return Compared(report, shares, _uncounted(batches, counted) if shares is None else ())


def _uncounted(batches: ImageBatches, counted: Accuracy | None) -> tuple[str, ...]:
    """Why no hits were counted on images that have classes."""
    classes = batches.files.classes
    if classes and counted is None:
        return ("accuracy is not told where images may be left out (--max-bad-images)",)
    outputs = None if counted is None else counted.outputs
    if not classes or outputs is None:
        return ()
    known = ", nor are all named by WordNet ids" if outputs == IMAGENET else ""
    return (f"accuracy is not told: the images have {len(classes)} classes, not the models' {outputs}{known}",)


def failed(what: str, report: Report) -> VerificationError:
    """The error of a result that is not what it must be, with what was found."""
    error = VerificationError(what, why=report.reason, where=report.layer)
    error.report = report.to_json()
    return error


def verify_checkpoints(
    a: Path,
    b: Path,
    models: tuple[ModelChoice, ModelChoice],
    images: ImageChoice,
    checks: Checks = NO_MORE,
    *,
    replayed: Path | None = None,
    device: str = "cpu",
) -> Compared:
    """Compare two checkpoints.

    Without images, both run on random and extreme inputs alone. A file without a header is taken to be the model that
    the other file's header names, if the user does not say.

    Args:
        a: The reference.
        b: The checkpoint to judge.
        models: What the user said of each.
        images: What both are run on.
        checks: What to do besides.
        replayed: A file of inputs that an earlier verification kept, to run instead of images.
        device: Where to run.

    Returns:
        The report and the accuracies.

    Raises:
        RetrofitError: A file cannot be read, or the images cannot.
    """
    first, second = open_both(a, b, models)
    preprocessing = preprocessing_of(first, second, images)
    if replayed is not None and images.folder is not None:
        raise UsageError("--inputs and -d exclude each other", remedy="run one after the other")
    target = checked_device(device)
    left, right = first.model.to(target), second.model.to(target)
    notes = (*first.notes, *second.notes)
    if images.folder is None:
        example = example_for(preprocessing, left)
        example = example.expand(RANDOM_SAMPLES, *example.shape[1:])
        given = [] if replayed is None else read_inputs(replayed)
        report = verify_labelled(left, right, given, checks, example=example)
        report = with_the_rest(report, first, second)
        tried = f"no images were given (-d): random and extreme inputs {'and ' * bool(given)}"
        tried += "those of the file were tried" if given else "alone were tried"
        return Compared(report, None, (*notes, tried))
    batches = batches_of(images, preprocessing)
    compared = compare(left, right, batches, checks)
    report = with_the_rest(compared.report, first, second)
    return replace(compared, report=report, notes=(*notes, *compared.notes, *notes_on(batches)))


def preprocessing_of(first: Opened, second: Opened, images: ImageChoice) -> Preprocessing:
    """How images are prepared, by the file that says it: the first, unless only the second does."""
    says = [opened.checkpoint is not None and opened.checkpoint.header is not None for opened in (first, second)]
    return images.preprocessing((second if says[1] and not says[0] else first).preprocessing)


def open_both(a: Path, b: Path, models: tuple[ModelChoice, ModelChoice]) -> tuple[Opened, Opened]:
    """Open two files; one that does not say what it is, is what the other says.

    Raises:
        RetrofitError: A file cannot be read, or nothing says what it is.
    """
    if ONNX in (a.suffix, b.suffix):
        return _open_beside_onnx(a, b, models)
    if models[0].name is None and read_header(a) is None:
        second = open_model(b, models[1])
        return _same_part(open_model(a, replace(models[0], name=str(second.name))), second)
    first = open_model(a, models[0])
    if models[1].name is None and read_header(b) is None:
        return _same_part(first, open_model(b, replace(models[1], name=str(first.name))))
    return _same_part(first, open_model(b, models[1]))


def _open_beside_onnx(a: Path, b: Path, models: tuple[ModelChoice, ModelChoice]) -> tuple[Opened, Opened]:
    """A checkpoint and the ONNX file that is held against it, either way round."""
    if a.suffix == b.suffix:
        raise UsageError(
            "both are ONNX files", why="neither says how images are prepared", remedy="pass a checkpoint as A"
        )
    path, model, exported = (b, models[1], a) if a.suffix == ONNX else (a, models[0], b)
    opened = open_model(path, model)
    other = replace(opened, model=OnnxModel(exported), checkpoint=None, plan=None, whole=None, submodule="", notes=())
    opened = replace(opened, whole=None, submodule="")
    return (other, opened) if a.suffix == ONNX else (opened, other)


def _same_part(first: Opened, second: Opened) -> tuple[Opened, Opened]:
    """The part that one file says it was made of, in both."""
    names = {first.submodule, second.submodule} - {""}
    if len(names) > 1:
        raise UsageError(
            "the files were made of different parts of the model", why=f"of {' and of '.join(sorted(names))}"
        )
    name = "".join(names)
    return tuple(opened if opened.submodule == name else part_of(opened, name) for opened in (first, second))  # type: ignore[return-value]


def difference_outside(first: Opened, second: Opened) -> tuple[str, str] | None:
    """Where models of which parts are compared differ besides: a sentence, and the module; None if nowhere."""
    if first.whole is None or second.whole is None:
        return None
    inside = f"{first.submodule}."
    a, b = (
        {name: tensor for name, tensor in opened.whole.state_dict().items() if not name.startswith(inside)}  # type: ignore[union-attr]
        for opened in (first, second)
    )
    other = next(
        (name for name in [*a, *b] if name not in a or name not in b or not torch.equal(a[name], b[name])), None
    )
    if other is None:
        return None
    return f"the tensor '{other}' outside '{first.submodule}' differs", other.rpartition(".")[0]


def with_the_rest(report: Report, first: Opened, second: Opened) -> Report:
    """The report on a part, failed if the models differ outside it."""
    outside = difference_outside(first, second)
    if outside is None:
        return report
    why, layer = outside
    return replace(report, passed=False, proved=False, reason=why, difference=why, layer=layer)
