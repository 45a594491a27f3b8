"""`bnretrofit finetune` and `run` where something is unusual: images that cannot be read, heads, splits, data sets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from timm.data.dataset import IterableImageDataset
from torch import nn

from bnretrofit.training.rate_range import RateRange
from bnretrofit.training_data import timm_datasets
from bnretrofit.training_data.streamed import StreamedSet
from bnretrofit.workflows import finetuning
from tests.commands import factories
from tests.commands.running import draw_classes, equal, factory, run, save_state, tensors_of
from tests.library.test_training_data_streams import Reader

SHORT = ("--epochs", 1, "-b", 8, "--device", "cpu")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_state(tmp_path_factory.mktemp("plain") / "plain.pth", factories.plain())


def named(plain: Path) -> tuple[object, ...]:
    return (plain, "-m", factory("plain"), "--trust-code")


def test_a_run_that_found_its_rate_goes_on_although_an_image_cannot_be_read(plain: Path, tmp_path: Path) -> None:
    folder = draw_classes(tmp_path / "train")
    (folder / "class0" / "0.png").write_bytes(b"no image")
    options = ("-d", folder, "-o", tmp_path / "run", *SHORT, "--lr", "auto", "--max-bad-images", 1)
    done = run("finetune", *named(plain), *options, "--json")
    assert done.code == 0, done.err
    assert done.document["data"]["bad_images_total"] == 1
    before = (tmp_path / "run" / "best.safetensors").read_bytes()
    again = run("finetune", *named(plain), *options, "--resume")
    assert again.code == 0, again.err
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == before


def test_patience_without_validation_is_refused_before_a_rate_is_searched_for(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[object] = []
    monkeypatch.setattr(finetuning, "find_rate", searched.append)
    options = ("-d", draw_classes(tmp_path / "train"), "-o", tmp_path / "run", *SHORT, "--patience", 1)
    refused = run("finetune", *named(plain), *options, "--lr", "auto")
    assert (refused.code, searched) == (2, [])
    assert "patience waits for a better accuracy, and there is nothing to validate with" in refused.error


FIXED = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
"""


def test_a_new_head_that_nobody_could_open_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(FIXED)
    five = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    checkpoint = save_state(tmp_path / "five.pth", five)
    folder = draw_classes(tmp_path / "train")
    options = ("-m", f"{tmp_path / 'nets.py'}:net", "--trust-code", "--num-classes", 3, "-o", tmp_path / "run", *SHORT)
    done = run("finetune", checkpoint, *options, "-d", folder)
    assert (done.code, "num_classes" in done.err, "Give the factory an argument" in done.err) == (2, True, True)
    assert not (tmp_path / "run").exists()


def test_a_new_head_that_would_not_be_trained_is_refused(plain: Path, tmp_path: Path) -> None:
    folder = draw_classes(tmp_path / "train", classes=5, each=4)
    options = ("--num-classes", 5, "--train", "bn", "-o", tmp_path / "run", *SHORT)
    refused = run("finetune", *named(plain), "-d", folder, *options)
    assert (refused.code, "--train bn does not train the new last layer of 5 outputs" in refused.error) == (2, True)
    assert "Take --train bn+head" in refused.error
    assert not (tmp_path / "run").exists()


def test_a_new_head_that_timm_has_drawn_is_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def undownloaded(name: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
        made: nn.Module = create(name, pretrained=False, **options)
        return made

    monkeypatch.setattr(timm, "create_model", undownloaded)
    model = ("-m", "timm:resnet10t.c3_in1k", "--weights", "DEFAULT", "--num-classes", 3)
    data = ("-d", draw_classes(tmp_path / "train"), "-o", tmp_path / "run", "--img-size", 32, "--steps", 0, "-b", 8)
    refused = run("finetune", *model, *data, "--train", "bn", "--device", "cpu")
    assert (refused.code, "the new last layer of 3 outputs" in refused.err) == (2, True), refused.err
    done = run("finetune", *model, *data, "--train", "bn+head", "--device", "cpu")
    assert done.code == 0, done.err


def test_images_of_a_size_that_the_network_does_not_run_on_are_refused(tmp_path: Path) -> None:
    folder, digits = draw_classes(tmp_path / "train"), ("-m", "bnretrofit:digits_vgg11", "--weights", "DEFAULT")
    asked = (*digits, "-d", folder, "--img-size", 4, *SHORT)
    refused = run("finetune", *asked, "-o", tmp_path / "run")
    said = (
        "the VGG does not run on float32 images of shape (3, 4, 4): Given input size: (64x1x1). Calculated output size"
    )
    assert (refused.code, refused.error[: len(said)]) == (4, said)
    assert refused.error.endswith("that it takes (--img-size)")
    assert not (tmp_path / "run").exists()
    all_of_it = run("run", *asked, "-o", tmp_path / "all")
    assert (all_of_it.code, "--img-size" in all_of_it.error, "Given input size" in all_of_it.error) == (4, True, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--warmup-steps", 7), "error: --warmup-steps is 7, and the run has 3 steps"),
        (("--min-lr", 50), "error: --min-lr is 50, and --lr is "),
    ],
)
def test_settings_are_held_against_what_is_known_later(
    plain: Path, tmp_path: Path, options: tuple[object, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[object] = []

    def found(*_: object) -> RateRange:
        searched.append(options)
        return RateRange((), (), 0.5, None)

    monkeypatch.setattr(finetuning, "find_rate", found)
    asked = ("finetune", *named(plain), "-d", draw_classes(tmp_path / "train"), "-o", tmp_path / "run", *SHORT)
    refused = run(*asked, "--lr", "auto", *options)
    assert (refused.code, said in refused.err) == (2, True), refused.err
    # The number of steps is known before a rate is searched for.
    assert bool(searched) is ("--min-lr" in options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--model-ema-decay", 1), "--model-ema-decay is 1.0. Take a number of at least 0 and below 1"),
        (("--smoothing", 2), "--smoothing is 2.0. Take a number of at least 0 and below 1"),
        (("--model-ema-warmup",), "--model-ema-warmup would do nothing without --model-ema-decay: "),
        (("--min-lr", 0.001, "--sched", "constant"), "--min-lr and --sched constant exclude each other: "),
        (("--min-lr", 1), "--min-lr is 1, and --lr is 0.01: the rate falls from --lr to --min-lr. "),
        (("--bn-momentum", 0.1, "--bn-stats", "frozen"), "--bn-momentum and --bn-stats frozen exclude each other: "),
        (("--bn-momentum", 0.1), "--bn-momentum would do nothing: the network has no norms"),
        (
            ("--bn-momentum", 0.1, "--train", "head"),
            "--bn-momentum and --train head exclude each other: where the head ",
        ),
    ],
    ids=str,
)
def test_settings_that_are_refused_are_told_as_options(
    plain: Path, tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    folder = draw_classes(tmp_path / "train")
    refused = run("finetune", *named(plain), "-d", folder, "-o", tmp_path / "run", *SHORT, *options)
    assert (refused.code, refused.error[: len(said)]) == (2, said)


def test_the_bundled_network_takes_other_classes(tmp_path: Path) -> None:
    folder, digits = draw_classes(tmp_path / "train"), ("-m", "bnretrofit:digits_vgg11", "--weights", "DEFAULT")
    trained = ("--num-classes", 3, "--mean", 0.5, "--std", 0.5, "--img-size", 32)
    done = run("finetune", *digits, *trained, "-d", folder, "-o", tmp_path / "run", *SHORT)
    assert done.code == 0, done.err
    assert run("fold", tmp_path / "run", "-o", tmp_path / "folded.safetensors").code == 0


def test_hidden_folders_beside_the_splits_make_no_classes_of_them(plain: Path, tmp_path: Path) -> None:
    draw_classes(tmp_path / "data" / "train")
    draw_classes(tmp_path / "data" / "val", each=4)
    (tmp_path / "data" / ".ipynb_checkpoints").mkdir()
    done = run("finetune", *named(plain), "-d", tmp_path / "data", "-o", tmp_path / "run", *SHORT, "--json")
    assert done.code == 0, done.err
    assert (done.document["data"]["images"], done.document["data"]["val_images"]) == (24, 12)


def test_a_data_set_of_torchvision_s_is_found_in_its_folder(plain: Path, tmp_path: Path) -> None:
    folder = draw_classes(tmp_path / "images")
    beside = run("finetune", *named(plain), "-d", folder, "--data-dir", folder, "-o", tmp_path / "run", *SHORT)
    assert (beside.code, "are for data sets by timm's name" in beside.err) == (2, True), beside.err
    asked = ("finetune", *named(plain), "-d", "torch/image_folder", "-o", tmp_path / "run", *SHORT)
    refused = run(*asked)
    assert (refused.code, "--data-dir" in refused.err) == (2, True), refused.err
    done = run(*asked, "--data-dir", folder, "--json")
    assert done.code == 0, done.err
    assert done.document["data"]["images"] == 24
    args = (tmp_path / "run" / "args.yaml").read_text()
    assert str(folder) in args
    resumed = run("finetune", "--config", tmp_path / "run" / "args.yaml", *named(plain), "-o", tmp_path / "again")
    assert resumed.code == 0, resumed.err
    assert equal(*(tensors_of(tmp_path / name / "best.safetensors") for name in ("run", "again")))


class Coloured(Reader):
    """Its 40 images in colour."""

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        for image, label in super().__iter__():
            yield image.convert("RGB"), label


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_of_a_stream_it_is_not_told_which_images_fill_no_step(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create_dataset(_name: str, root: str, split: str, *, input_img_mode: str, **options: Any) -> Any:
        assert input_img_mode == "RGB"
        return IterableImageDataset(root, reader=Coloured(split, 40, breaks=False, **options))

    monkeypatch.setitem(timm_datasets.PACKAGES, "wds", "torch")
    monkeypatch.setattr("timm.data.dataset_factory.create_dataset", create_dataset)
    asked = (
        "-d",
        "wds/shards",
        "--steps",
        2,
        "-b",
        4,
        "--grad-accum-steps",
        3,
        "-j",
        0,
        "--aug",
        "none",
        "--num-classes",
        2,
    )
    done = run("finetune", *named(plain), *asked, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    assert "left out" not in done.err
    # With other workers an epoch of it may be longer, and the run another one.
    with monkeypatch.context() as patched:
        patched.setattr(StreamedSet, "batches_per_epoch", lambda *_: 5)
        other = run("finetune", *named(plain), *asked, "-o", tmp_path / "run", "--resume")
    assert (other.code, "steps_per_epoch was 3 and is 5" in other.err) == (2, True), other.err
    assert run("finetune", *named(plain), *asked, "-o", tmp_path / "run", "--resume").code == 0


def test_a_batch_of_one_image_is_enough_where_no_statistics_are_taken(plain: Path, tmp_path: Path) -> None:
    one = ("-d", draw_classes(tmp_path / "train"), "--steps", 2, "-b", 1, "--device", "cpu")
    assert run("finetune", *named(plain), *one, "-o", tmp_path / "without").code == 0
    assert run("retrofit", *named(plain), "-d", tmp_path / "train", "-o", tmp_path / "bn.safetensors").code == 0
    frozen = run("finetune", tmp_path / "bn.safetensors", "--trust-code", *one, "-o", tmp_path / "frozen")
    assert frozen.code == 0, frozen.err
    asked = (*one, "-o", tmp_path / "batch", "--bn-stats", "batch")
    refused = run("finetune", tmp_path / "bn.safetensors", "--trust-code", *asked)
    assert (refused.code, "a batch of 1 image" in refused.err) == (2, True), refused.err


def test_run_judges_what_it_folds_as_it_judged_what_it_trained(plain: Path, tmp_path: Path) -> None:
    folder = draw_classes(tmp_path / "train")
    split = ("-d", folder, "--val-split", 0.25, *SHORT)
    done = run("run", *named(plain), *split, "-o", tmp_path / "split", "--json")
    assert done.code == 0, done.err
    best, judged = done.document["best"]["evaluation"], done.document["judged"]
    assert (judged["images"], judged["top1"]) == (6, best["top1"])
    assert judged["loss"] == pytest.approx(best["loss"], rel=1e-5)
    assert done.document["report"]["passed"]
    assert done.document["accuracy"] == [judged["top1"]] * 2
    text = run("run", *named(plain), *split, "-o", tmp_path / "split", "--resume")
    assert text.out.splitlines()[5].split()[0] == "folded"
    # A class that is not validated with, and an image that cannot be read.
    some = draw_classes(tmp_path / "val", classes=2, each=4)
    (some / "class0" / "0.png").write_bytes(b"no image")
    data = ("-d", folder, "--val", some, *SHORT, "--max-bad-images", 1)
    done = run("run", *named(plain), *data, "-o", tmp_path / "some", "--json")
    assert done.code == 0, done.err
    assert done.document["judged"]["images"] == done.document["best"]["evaluation"]["images"] == 7


def test_run_calibrates_on_what_is_trained_on_alone(plain: Path, tmp_path: Path) -> None:
    folder = draw_classes(tmp_path / "train")
    split = ("--val-split", 0.25, "--epochs", 0, "-b", 8)
    assert run("run", *named(plain), "-d", folder, *split, "-o", tmp_path / "split").code == 0
    assert run("retrofit", *named(plain), "-d", folder, "-o", tmp_path / "all.safetensors").code == 0
    one, other = (
        tensors_of(path) for path in (tmp_path / "split" / "retrofitted.safetensors", tmp_path / "all.safetensors")
    )
    assert one.keys() == other.keys()
    assert not equal(one, other)
