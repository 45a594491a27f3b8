"""`--submodule`: a part of a network gets its norms, where all of it cannot be captured."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.commands import factories
from tests.commands.running import Place, equal, factory, header_of, rewrite, run, save_state, tensors_of

MODEL = ("-m", factory("detector"), "--trust-code")
PART = ("--submodule", "backbone")


@pytest.fixture
def whole(place: Place) -> Path:
    return save_state(place.folder / "detector.pth", factories.detector())


@pytest.fixture
def part(whole: Path, place: Place) -> Path:
    output = place.out / "bn.safetensors"
    assert run("retrofit", whole, *MODEL, *PART, "-d", place.images, "-o", output).code == 0
    return output


def test_the_whole_cannot_be_captured_and_a_part_can(place: Place) -> None:
    done = run("plan", factory("detector"), "--trust-code")
    assert done.code == 4
    assert "a part of the model may be captured" in done.error
    said = run("plan", factory("detector"), "--trust-code", *PART, "--json").document
    assert [site["name"] for site in said["sites"]] == ["0", "2", "4"]


def test_only_the_part_changes_and_it_comes_back(whole: Path, part: Path, place: Place) -> None:
    assert header_of(part)["submodule"] == "backbone"
    original, made = tensors_of(whole), tensors_of(part)
    assert torch.equal(made["head.weight"], original["head.weight"])
    assert torch.equal(made["backbone.0.layer.weight"], original["backbone.0.weight"])
    images = ("--trust-code", "-d", place.images)
    assert run("verify", whole, part, *images).code == 0
    folded = place.out / "folded.pth"
    assert run("fold", part, *images, "-o", folded).code == 0
    assert equal(tensors_of(folded), original)


def test_a_pth_of_it_is_folded_with_the_same_option(whole: Path, place: Place) -> None:
    made, folded = place.out / "bn.pth", place.out / "folded.pth"
    assert run("retrofit", whole, *MODEL, *PART, "-d", place.images, "-o", made).code == 0
    assert run("fold", made, *MODEL, *PART, "-o", folded).code == 0
    assert equal(tensors_of(folded), tensors_of(whole))


def test_what_lies_outside_the_part_is_compared_too(whole: Path, part: Path, place: Place) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["head.bias"][0] += 1

    other = rewrite(part, place.folder / "other.safetensors", change)
    done = run("verify", whole, other, "--trust-code", "-d", place.images)
    assert done.code == 3
    assert "the tensor 'head.bias' outside 'backbone' differs" in done.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--submodule", "backbon"), "has no submodule 'backbon'. Did you mean backbone"),
        ((*PART, "--like", factory("plain")), "--like and --submodule exclude each other"),
    ],
)
def test_a_part_that_cannot_be_is_refused(whole: Path, place: Place, options: tuple[str, ...], words: str) -> None:
    done = run("retrofit", whole, *MODEL, *options, "-d", place.images, "-o", place.out / "bn.safetensors")
    assert done.code == 2
    assert words in done.error
    assert place.outputs() == []
