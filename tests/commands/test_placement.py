"""Norms after the activations, on the command line: in, out again, out into new layers, and measured again."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.commands.running import Place, equal, factory, header_of, rewrite, run, tensors_of


def train(tensors: dict[str, Tensor]) -> None:
    """Move norms away from the identity."""
    for name, tensor in tensors.items():
        if name.endswith(".norm.weight"):
            tensor.mul_(1.25)
        if name.endswith(".norm.bias"):
            tensor.add_(0.25)


@pytest.fixture
def post(place: Place) -> Path:
    """`plain` with norms after its activations."""
    assert place.retrofit(place.plain, "plain", "post.safetensors", "--placement", "post").code == 0
    return place.out / "post.safetensors"


@pytest.fixture
def trained(place: Place, post: Path) -> Path:
    """The same, as training might have left it."""
    return rewrite(post, place.folder / "trained.safetensors", train)


@pytest.mark.parametrize("output", ["folded.safetensors", "folded.pth"])
def test_what_was_just_inserted_is_the_identity_and_comes_out_again(post: Path, place: Place, output: str) -> None:
    assert [name for name in tensors_of(post) if "running_mean" in name] == [
        "1.norm.running_mean",
        "3.norm.running_mean",
        "7.norm.running_mean",
    ]
    done = run("fold", post, "--trust-code", "-d", place.images, "-o", place.out / output)
    assert done.code == 0
    assert "proved equal" in done.out
    assert equal(tensors_of(place.out / output), tensors_of(place.plain))


def test_a_pth_without_a_header_is_known_by_its_keys(place: Place) -> None:
    assert place.retrofit(place.plain, "plain", "post.pth", "--placement", "post").code == 0
    folded = place.out / "folded.pth"
    model = ("-m", factory("plain"), "--trust-code")
    assert run("fold", place.out / "post.pth", *model, "-o", folded).code == 0
    assert equal(tensors_of(folded), tensors_of(place.plain))


def test_norms_that_were_trained_fold_forward(trained: Path, place: Place) -> None:
    # conv 2 does not pad, conv 0's norm goes into it; conv 2's own goes through pooling into the dense layer.
    folded = place.out / "folded.safetensors"
    done = run("fold", trained, "--trust-code", "-d", place.images, "-o", folded, "--json")
    assert [(fold["norm"], fold["layer"], fold["direction"]) for fold in done.document["folds"]] == [
        ("1.norm", "2", "forward"),
        ("3.norm", "6", "forward"),
        ("7.norm", "8", "forward"),
    ]
    assert all(fold["reason"] for fold in done.document["folds"])
    assert done.document["scales"]["largest"] == pytest.approx(1.25, rel=1e-5)
    assert tensors_of(folded).keys() == tensors_of(place.plain).keys()
    assert run("verify", trained, folded, "--trust-code", "-d", place.images).code == 0


def test_norms_that_stay_are_in_the_file_until_new_layers_are_allowed(place: Place) -> None:
    from tests.commands import factories
    from tests.commands.running import save_state

    checkpoint = save_state(place.folder / "padding.pth", factories.padding())
    assert place.retrofit(checkpoint, "padding", "post.safetensors", "--placement", "post").code == 0
    trained = rewrite(place.out / "post.safetensors", place.folder / "trained.safetensors", train)
    left, padded = place.out / "left.safetensors", place.out / "padded.safetensors"
    images = ("--trust-code", "-d", place.images)
    done = run("fold", trained, *images, "-o", left)
    assert "1.norm" in done.out
    assert "pads with zeros" in done.out
    assert [site["name"] for site in header_of(left)["plan"]["sites"]] == ["0"]
    assert run("verify", trained, left, *images).code == 0
    assert run("retrofit", left, *images, "-o", place.out / "again.safetensors").error.endswith(
        "--allow-new-layers first"
    )
    done = run("fold", left, *images, "--allow-new-layers", "-o", padded)
    assert done.code == 0
    assert "new key        2.pad.value" in done.out
    assert header_of(padded)["folded"]["padded"] == ["2"]
    assert run("verify", trained, padded, *images).code == 0
    assert not [name for name in tensors_of(padded) if "norm" in name]


def test_lagging_statistics_are_measured_again(small: Path, place: Place) -> None:
    def lag(tensors: dict[str, Tensor]) -> None:
        tensors["2.norm.running_var"] /= 4

    lagging = rewrite(small, place.folder / "lagging.safetensors", lag)
    folded = place.out / "folded.safetensors"
    done = run("fold", lagging, "--trust-code", "--recalibrate", place.images, "-o", folded, "--json")
    assert done.code == 0
    found = done.document["recalibrated"]
    assert found["least_norm"] == "2.norm"
    assert found["least_ratio"] < 0.5
    # The norm undoes what was measured at first, and that is measured again; folded as it lags, it doubles the weight.
    plain = tensors_of(place.plain)["2.weight"]
    assert torch.allclose(tensors_of(folded)["2.weight"], plain, rtol=1e-5, atol=0)
    assert run("fold", lagging, "--trust-code", "-o", place.out / "as_it_is.safetensors").code == 0
    assert torch.allclose(tensors_of(place.out / "as_it_is.safetensors")["2.weight"], 2 * plain, rtol=0.05, atol=0)


def test_placement_and_like_exclude_each_other(place: Place) -> None:
    done = place.retrofit(
        place.plain, "plain", "post.safetensors", "--placement", "post", "--like", factory("plain_bn")
    )
    assert done.code == 2
    assert "exclude each other" in done.error
    assert place.outputs() == []
