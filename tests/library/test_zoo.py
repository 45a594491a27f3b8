"""Names -> models: every kind of name, and what is said of those that are none."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bnretrofit import zoo
from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.preprocessing import Preprocessing

FACTORIES = """
from torch import nn

def rgb(num_classes=3): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(num_classes))
def grey(): return nn.Conv2d(1, 4, 3)
def dense(): return nn.Linear(4, 2)
def broken(): raise ValueError("no weights here")
def text(): return "a model"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(FACTORIES)
    return path


@pytest.mark.parametrize(
    ("text", "library", "name"),
    [
        ("torchvision:vgg16", "torchvision", "vgg16"),
        ("timm:vgg16.tv_in1k", "timm", "vgg16.tv_in1k"),
        ("hf-hub:org/name@rev", "hf-hub", "org/name@rev"),
        ("bnretrofit:digits_vgg11", "bnretrofit", "digits_vgg11"),
        ("bnretrofit:cifar10_vgg16", "bnretrofit", "cifar10_vgg16"),
        ("some/nets.py:factory", "file", "some/nets.py:factory"),
    ],
)
def test_a_name_says_its_library_and_is_written_as_it_was(text: str, library: str, name: str) -> None:
    found = zoo.parse_model(text)
    assert (found.library, found.name, found.note) == (library, name, None)
    assert str(found) == text


def test_a_folder_is_named_by_its_path(tmp_path: Path) -> None:
    assert zoo.parse_model(f"local-dir:{tmp_path}") == zoo.ModelName("local-dir", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "full", "note"),
    [
        ("vgg16", "torchvision:vgg16", "'vgg16' was taken as torchvision:vgg16 (timm has one too: timm:vgg16)"),
        ("googlenet", "torchvision:googlenet", "'googlenet' was taken as torchvision:googlenet"),
        ("convnext_atto", "timm:convnext_atto", "'convnext_atto' was taken as timm:convnext_atto"),
        ("vgg16.tv_in1k", "timm:vgg16.tv_in1k", "'vgg16.tv_in1k' was taken as timm:vgg16.tv_in1k"),
    ],
)
def test_a_bare_name_is_looked_up_and_what_was_taken_is_noted(text: str, full: str, note: str) -> None:
    found = zoo.parse_model(text)
    assert (str(found), found.note) == (full, note)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("torchvision:vgg61", "torchvision has no model 'vgg61'. Did you mean vgg"),
        ("timm:convnext_ato", "Did you mean convnext_a"),
        ("vgg61", "no model is called 'vgg61'. Did you mean"),
        ("torchvison:vgg16", "unknown kind of model 'torchvison:'"),
        ("bnretrofit:other", "digits_vgg11"),
        ("local-dir:/no/such/folder", "does not exist"),
        ("", "no model is called ''"),
    ],
)
def test_a_name_that_is_none_is_refused_with_what_is_near(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        zoo.parse_model(text)


def test_an_architecture_alone_takes_no_memory() -> None:
    built = zoo.build(zoo.parse_model("torchvision:vgg16"), device="meta")
    assert all(parameter.is_meta for parameter in built.model.parameters())
    assert not built.model.training


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torchvision:squeezenet1_1", ((3, 224, 224), "bilinear", 0.875)),
        ("torchvision:efficientnet_b0", ((3, 224, 224), "bicubic", 0.875)),
        ("timm:vgg16", ((3, 224, 224), "bilinear", 0.875)),
        ("timm:vit_tiny_patch16_224", ((3, 224, 224), "bicubic", 0.9)),
        ("bnretrofit:digits_vgg11", ((3, 32, 32), "bilinear", 1.0)),
        ("bnretrofit:cifar10_vgg16", ((3, 32, 32), "bilinear", 1.0)),
    ],
)
def test_preprocessing_is_the_library_s_own(name: str, expected: tuple[object, ...]) -> None:
    found = zoo.build(zoo.parse_model(name), device="meta").preprocessing
    assert (found.input_size, found.interpolation, pytest.approx(found.crop_pct, abs=0.01)) == expected


def test_the_number_of_classes_can_be_chosen() -> None:
    for name in ("torchvision:squeezenet1_1", "timm:resnet18"):
        built = zoo.build(zoo.parse_model(name), num_classes=7, device="cpu")
        assert built.model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


@pytest.mark.parametrize("bundled", ["digits_vgg11", "cifar10_vgg16"])
def test_the_bundled_weights_are_loaded_where_asked_for(bundled: str) -> None:
    name = zoo.parse_model(f"bnretrofit:{bundled}")
    first, second = (zoo.build(name, weights="DEFAULT").model.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_weights_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UsageError, match="IMAGENET1K_V1"):
        zoo.build(zoo.parse_model("torchvision:alexnet"), weights="IMAGENET1K_V7")


def test_a_saved_timm_folder_is_built(tmp_path: Path) -> None:
    config = {"architecture": "resnet10t", "num_classes": 5, "pretrained_cfg": {"input_size": [3, 96, 96]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    built = zoo.build(zoo.parse_model(f"local-dir:{tmp_path}"), device="meta")
    assert built.model.get_parameter("fc.weight").shape[0] == 5
    assert built.preprocessing.input_size == (3, 96, 96)


def test_a_factory_of_a_file_is_run_where_it_is_trusted(file: Path) -> None:
    built = zoo.build(zoo.parse_model(f"{file}:grey"), trust_code=True)
    assert isinstance(built.model, nn.Conv2d)
    assert built.preprocessing == Preprocessing((1, None, None))
    assert zoo.build(zoo.parse_model(f"{file}:dense"), trust_code=True).preprocessing.input_size[0] == 3
    with pytest.raises(UsageError, match="trust-code"):
        zoo.build(zoo.parse_model(f"{file}:grey"))


def test_a_factory_that_fails_is_named_with_its_reason(file: Path) -> None:
    for factory, words in (("broken", "ValueError: no weights here"), ("text", "returned a str")):
        with pytest.raises(InputRejectedError, match=words):
            zoo.build(zoo.parse_model(f"{file}:{factory}"), trust_code=True)
    with pytest.raises(UsageError, match="Did you mean grey"):
        zoo.build(zoo.parse_model(f"{file}:gray"), trust_code=True)
    file.write_text("import nothing_like_this")
    with pytest.raises(InputRejectedError, match="ModuleNotFoundError"):
        zoo.build(zoo.parse_model(f"{file}:grey"), trust_code=True)


def test_two_files_of_one_name_are_two_modules(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "nets.py").write_text("from torch import nn\ndef grey(): return nn.Conv2d(1, 9, 3)\n")
    first, second = (
        zoo.build(zoo.parse_model(f"{path}:grey"), trust_code=True).model
        for path in (file, tmp_path / "other" / "nets.py")
    )
    assert [len(model.get_parameter("bias")) for model in (first, second)] == [4, 9]


def test_imagenet_s_classes_are_in_their_usual_order() -> None:
    classes = zoo.imagenet_classes()
    assert len(classes) == 1000
    # Tench, English springer, parachute.
    assert (classes["n01440764"], classes["n02102040"], classes["n03888257"]) == (0, 217, 701)
