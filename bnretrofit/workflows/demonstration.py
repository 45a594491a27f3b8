"""What `bnretrofit demo` does: the whole story on the bundled checkpoint, offline."""

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from bnretrofit.checkpoints import read
from bnretrofit.errors import UsageError, VerificationError
from bnretrofit.workflows.comparing import Compared, verify_checkpoints
from bnretrofit.workflows.folding import FoldChoice, fold_checkpoint
from bnretrofit.workflows.images import ImageChoice
from bnretrofit.workflows.opening import ModelChoice
from bnretrofit.workflows.planned import PlanChoice
from bnretrofit.workflows.retrofitting import retrofit_checkpoint
from bnretrofit.zoo import bundled_folder

__all__ = ["demonstrate"]

MODEL = "bnretrofit:digits_vgg11"


def demonstrate(output: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Plan, retrofit, verify, fold, verify; every figure is measured as it is said.

    Args:
        output: Where to keep the files; None for a temporary folder.
        say: Takes each line of the story.

    Returns:
        The figures.

    Raises:
        UsageError: The folder is not empty.
        VerificationError: A step did not give what it must.
    """
    start = time.perf_counter()
    folder = bundled_folder()
    if output is not None:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UsageError("the folder exists and is not empty", where=str(output), remedy="choose another name")
        output.mkdir(parents=True, exist_ok=True)
    with nullcontext(str(output)) if output is not None else tempfile.TemporaryDirectory() as name:
        told = _story(folder, Path(name), say)
    told["seconds"] = round(time.perf_counter() - start, 1)
    say(f"\nAll of it took {told['seconds']} s.")
    return told


def _story(folder: Path, work: Path, say: Callable[[str], None]) -> dict[str, Any]:
    # Copies, so that whoever keeps the folder can try every command on them.
    original = Path(shutil.copyfile(folder / "digits_vgg11.safetensors", work / "digits.safetensors"))
    shutil.copytree(folder / "digits", work / "images")
    model, unsaid = ModelChoice(MODEL), ModelChoice()
    training, held_out = ImageChoice(work / "images" / "train"), ImageChoice(work / "images" / "val")
    retrofitted, folded = work / "digits-bn.safetensors", work / "digits-folded.safetensors"

    say("A VGG with 8 conv and 3 dense layers, trained without batch normalisation on handwritten digits.\n")
    done = retrofit_checkpoint(original, model, training, PlanChoice(), retrofitted, overwrite=True)
    say(f"1. plan      {len(done.plan.sites)} layers get a BatchNorm; left alone:")
    for skip in done.plan.skips:
        say(f"             {skip.name}: {skip.reason}")
    say(f"2. retrofit  statistics of {done.calibration_images} training images, one pass; wrote {retrofitted.name}")
    before = _required(
        verify_checkpoints(original, retrofitted, (model, unsaid), held_out), "the retrofitted checkpoint"
    )
    say("3. verify    original and retrofitted, on held-out images:")
    _say_comparison(before, say)
    fold = fold_checkpoint(retrofitted, unsaid, held_out, folded, FoldChoice(), overwrite=True)
    say(f"4. fold      {len(fold.plan.folds)} BatchNorms folded, {len(fold.plan.leaves)} left; wrote {folded.name}")
    after = _required(verify_checkpoints(original, folded, (model, unsaid), held_out), "the folded checkpoint")
    say("5. verify    original and folded:")
    _say_comparison(after, say)
    same, total = _equal_tensors(original, folded)
    say(f"             {same} of {total} tensors are the original's, bit for bit")
    return {
        "sites": len(done.plan.sites),
        "skips": len(done.plan.skips),
        "calibration_images": done.calibration_images,
        "retrofitted": {"report": before.report.to_json(), "accuracy": before.accuracy},
        "folded": {
            "report": after.report.to_json(),
            "accuracy": after.accuracy,
            "equal_tensors": same,
            "tensors": total,
        },
    }


def _required(compared: Compared, what: str) -> Compared:
    if not compared.report.passed:
        raise VerificationError(f"{what} is not the original's equal", why=compared.report.reason)
    return compared


def _say_comparison(compared: Compared, say: Callable[[str], None]) -> None:
    report = compared.report
    say(f"             {'proved equal for every finite input' if report.proved else 'not proved equal'}")
    bits = "bit-identical" if report.bit_identical else f"largest error {report.max_abs_error:.3g}"
    say(f"             {bits} on {report.samples} images and {report.random_samples} random inputs")
    if compared.accuracy is not None:
        say(
            f"             accuracy {100 * compared.accuracy[0]:.2f} % before, {100 * compared.accuracy[1]:.2f} % after"
        )


def _equal_tensors(a: Path, b: Path) -> tuple[int, int]:
    first, second = read(a).tensors, read(b).tensors
    same = sum(name in second and torch.equal(tensor, second[name]) for name, tensor in first.items())
    return same, len(first.keys() | second.keys())
