"""What `bnretrofit run` does: retrofit, fine-tune, fold and verify, in one folder from which it can be gone on with."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from bnretrofit.batches import checked_device
from bnretrofit.checkpoints import read, read_header
from bnretrofit.checkpoints.places import FOLDED, RETROFITTED, TRAINING
from bnretrofit.errors import UsageError, VerificationError
from bnretrofit.image_files import ImageFiles, find_images
from bnretrofit.originals import check_originals
from bnretrofit.sites import Plan
from bnretrofit.training import TrainingConfig
from bnretrofit.training.devices import process_rank
from bnretrofit.training.evaluation import Evaluation, classes_of, evaluate
from bnretrofit.training_data import open_training
from bnretrofit.training_data.folders import taken_apart
from bnretrofit.training_data.splits import split
from bnretrofit.workflows.comparing import Compared, verify_checkpoints
from bnretrofit.workflows.finetuning import Finetuned, finetune_checkpoint
from bnretrofit.workflows.folding import FoldChoice, fold_checkpoint
from bnretrofit.workflows.labels import labels_for
from bnretrofit.workflows.opening import ModelChoice, Opened, architecture, example_for, open_model
from bnretrofit.workflows.own_heads import with_own_head
from bnretrofit.workflows.planned import PlanChoice
from bnretrofit.workflows.rehearsing import rehearse
from bnretrofit.workflows.retrofitting import retrofit_checkpoint
from bnretrofit.workflows.run_folder import BEST, STATE, check_apart, check_there, check_weights_elsewhere, opened_run
from bnretrofit.workflows.run_settings import check_settings, settings_written
from bnretrofit.workflows.training_choices import DataChoice, RunChoice
from bnretrofit.zoo import place_in

__all__ = ["FOLDED", "RETROFITTED", "TRAINING", "Ran", "run_checkpoint"]

IMAGES = 1000
"""So many training images are calibrated on."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What was done.

    Attributes:
        finetuned: How training went.
        compared: The folded result against the fine-tuned one, on what is validated with, or else on training images.
        judged: What the folded result achieves on what the fine-tuned one was judged with; None without validation.
        folder: Where it all is.
        stock: The architecture that the folded file was loaded into, strictly.
        done_before: Steps that an earlier call had finished.
    """

    finetuned: Finetuned
    compared: Compared
    judged: Evaluation | None
    folder: Path
    stock: str
    done_before: tuple[str, ...]

    @property
    def folded(self) -> Path:
        """The result."""
        return self.folder / FOLDED


def run_checkpoint(
    path: Path | None,
    model: ModelChoice,
    data: DataChoice,
    plan: PlanChoice,
    config: TrainingConfig,
    run: RunChoice,
    tell: Callable[[str], None],
) -> Ran:
    """Take a checkpoint through all of it.

    Args:
        path: The checkpoint; None for the library's own weights.
        model: What the user said of it.
        data: What it learns from; a folder, whose images are calibrated on too.
        plan: Which layers get a norm.
        config: How it is trained.
        run: Where it is kept.
        tell: Called with each sentence that the user should read while it goes on.

    Returns:
        What came of it. The folder holds `folded.safetensors`, which loads strictly into the stock architecture.

    Raises:
        RetrofitError: The message says what. Steps that were finished are kept, and `--resume` goes on after them.
    """
    if not Path(data.root).is_dir():
        remedy = "retrofit on a folder first, then finetune the result on the stream"
        raise UsageError("run needs a folder of training images", where=data.root, remedy=remedy)
    # The folder as it was given, too: what is put among the splits would not be a split.
    check_apart(run.folder, data.root, data.val)
    root, val = taken_apart(Path(data.root), None if data.val is None else Path(data.val), data.val_split)
    data = replace(data, root=str(root), val=None if val is None else str(val))
    if plan.like is not None:
        why = "the result is to load into the architecture that the checkpoint is of"
        raise UsageError("run takes no --like", why=why, remedy="use retrofit, finetune and fold one by one")
    if process_rank()[1] > 1:
        raise UsageError("run works in one process", remedy="retrofit first, then launch finetune on several")
    check_apart(run.folder, data.root, data.val)
    check_there(run.folder, resume=run.resume)
    check_originals((run.folder / RETROFITTED, run.folder / FOLDED), (path, model.read_from))
    check_weights_elsewhere(run.folder / TRAINING, path, model.read_from)
    with opened_run(run.folder, resume=run.resume):
        return _steps(path, model, data, plan, config, run, tell)


def _steps(
    path: Path | None,
    model: ModelChoice,
    data: DataChoice,
    plan: PlanChoice,
    config: TrainingConfig,
    run: RunChoice,
    tell: Callable[[str], None],
) -> Ran:
    """The steps of a run whose folder is there, but for those that an earlier call has finished."""
    root, val = Path(data.root), None if data.val is None else Path(data.val)
    begun = (run.folder / TRAINING / STATE).is_file()
    check_settings(run.folder, run.options or {}, begun=begun)
    shares = _shares(data)
    retrofitted, folded = run.folder / RETROFITTED, run.folder / FOLDED
    done: list[str] = []
    with settings_written(run.folder, run.options, anew=not begun):
        if not begun:
            rehearse(path, model, data, plan, config, run.device)
        if retrofitted.is_file():
            _check_source(retrofitted, path, model)
            done.append("retrofit")
        else:
            tell("step 1 of 3: retrofit")
            images = replace(data.images, folder=root, files=shares[0], num_images=IMAGES)
            made = retrofit_checkpoint(
                path, with_own_head(path, model), images, plan, retrofitted, device=run.device or "cpu"
            )
            for text in (*made.notes, _inserted(made.plan)):
                tell(text)
    tell("step 2 of 3: finetune")
    training = run.folder / TRAINING
    going_on = replace(run, folder=training, resume=training.is_dir(), options=None)
    known = _own_files(model)
    same = replace(known, num_classes=model.num_classes)
    finetuned = finetune_checkpoint(retrofitted, same, data, config, going_on, tell)
    tell("step 3 of 3: fold and verify")
    best = training / BEST
    some = None if val is not None or shares[1] is not None else IMAGES
    judge = replace(data.images, folder=root if val is None else val, files=shares[1], num_images=some)
    if folded.is_file() and _is_of(folded, best, known):
        done.append("fold")
        compared = verify_checkpoints(best, folded, (known, known), judge, device=run.device or "cpu")
    else:
        choice = FoldChoice()
        compared = fold_checkpoint(
            best, known, judge, folded, choice, overwrite=True, device=run.device or "cpu"
        ).compared
    judged = _judged(open_model(folded, known), data, run.device or "cpu")
    return Ran(finetuned, compared, judged, run.folder, _loaded_strictly(folded, known), tuple(done))


def _inserted(plan: Plan) -> str:
    """How many norms went in, and without any why."""
    if plan.sites:
        return f"inserted {len(plan.sites)} BatchNorm{'s' * (len(plan.sites) > 1)}"
    why = f": '{plan.skips[0].name}', for one, {plan.skips[0].reason}" if plan.skips else ""
    return f"no BatchNorm was inserted, so that the network is fine-tuned as it is{why}"


def _own_files(model: ModelChoice) -> ModelChoice:
    """What has to be said of a run's own files, which say the rest: where the model's file is, seen from here."""
    named = model.name if model.name is not None and place_in(model.name) is not None else None
    return ModelChoice(named, trust_code=model.trust_code)


def _shares(data: DataChoice) -> tuple[ImageFiles | None, ImageFiles | None]:
    """The images that are trained on and those that are set aside; None for both where no share is to be set aside."""
    if data.val is not None or data.val_split is None:
        return None, None
    given = data.images
    files = find_images(Path(data.root), given.max_bad_images)
    if not files.classes:
        # Fine-tuning says what is wrong with them.
        return None, None
    kept, aside = split(files.labels, data.val_split, given.seed)
    return files.taken(kept.tolist()), files.taken(aside.tolist())


def _judged(folded: Opened, data: DataChoice, device: str) -> Evaluation | None:
    """Judge a folded model as the run judged the one with norms: on the same images, with the same labels."""
    source = data.source(folded.preprocessing, min_batch=1)
    with closing(open_training(source)) as given:
        network = folded.model if folded.whole is None else folded.whole
        outputs = classes_of(network, example_for(source.preprocessing, network))
        labels = labels_for(given.classes, outputs)
        batches = (given if labels is None else given.relabelled(labels)).validation()
        return None if batches is None else evaluate(network.to(checked_device(device)), batches)


def _check_source(retrofitted: Path, path: Path | None, model: ModelChoice) -> None:
    """Refuse to go on from a file that was made from another checkpoint.

    Raises:
        UsageError: It was.
    """
    if path is None:
        return
    found = read(path, state_dict_key=model.state_dict_key, use_ema=model.use_ema).digest.result()
    source = (read_header(retrofitted) or {}).get("source") or {}
    if source.get("sha256") != found:
        why, remedy = f"'{retrofitted.name}' was made from another file than {path}", "begin another run"
        raise UsageError("the run was begun with another checkpoint", why=why, remedy=remedy)


def _is_of(folded: Path, best: Path, known: ModelChoice) -> bool:
    """Whether a folded file was made from these weights."""
    header = read_header(folded) or {}
    opened = open_model(best, known)
    if opened.checkpoint is None:
        return False
    source = header.get("source") or {}
    return bool(source.get("sha256") == opened.checkpoint.digest.result())


def _loaded_strictly(folded: Path, known: ModelChoice) -> str:
    """The stock architecture, which has taken all tensors of a file and no other.

    Raises:
        VerificationError: It does not take them.
    """
    opened = open_model(folded, known)
    stock = architecture(replace(known, name=str(opened.name), num_classes=opened.num_classes))
    wanted = {name: tuple(tensor.shape) for name, tensor in stock.model.state_dict().items()}
    tensors = {} if opened.checkpoint is None else opened.checkpoint.tensors
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        names = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        raise VerificationError(
            f"the folded file does not load into the stock {opened.name}",
            where=str(folded),
            why=f"{len(names)} tensors differ, such as {', '.join(names[:3])}",
            remedy="use the file with bnretrofit, or begin another run that leaves layers without a bias out",
        )
    return str(opened.name)
