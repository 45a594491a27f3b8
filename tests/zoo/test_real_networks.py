"""Networks that others trained, on real images: what the README promises, held on each of them."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from bnretrofit import fold, make_fold_plan, make_plan, retrofit, verify
from bnretrofit.zoo import build, parse_model
from tests.library.observing import equal_states, norms_of
from tests.zoo.pictures import IMAGENETTE_CLASSES, answers, batches_of, files_of, loaded, network

FULL = pytest.param(True, marks=pytest.mark.slow, id="all images")
SLICE = pytest.param(False, id="some images")


def correct(outputs: torch.Tensor, labels: list[int]) -> float:
    """Top-1 accuracy."""
    return float((outputs.argmax(1) == torch.tensor(labels)).double().mean())


@pytest.mark.parametrize("full", [SLICE, FULL])
def test_squeezenet_on_imagenette_keeps_every_output_and_folds_back_to_its_file(
    assets: Path, imagenette: Path, full: bool
) -> None:
    model = loaded(torchvision.models.squeezenet1_1(), assets, "squeezenet1_1")
    train, _ = files_of(imagenette / "train", 300 if full else 60)
    val, numbers = files_of(imagenette / "val", 1000 if full else 200)
    batches = list(batches_of(train, 30, imagenet=True))
    plan = make_plan(model, batches[0])
    assert len(plan.sites) == 25
    assert [(skip.name, "makes the model's output" in skip.reason) for skip in plan.skips] == [("classifier.1", True)]
    result = retrofit(model, iter(batches))
    labels = [IMAGENETTE_CLASSES[number] for number in numbers]
    for size in (1, 7, 64):
        # Other batch sizes are other kernels in the plain model too, so each is held against its own.
        step = 1 if full or size == 64 else len(val) // 20
        found, wanted = (answers(m, batches_of(val[::step], size, imagenet=True)) for m in (result, model))
        assert torch.equal(found, wanted)
        assert correct(found, labels[::step]) == correct(wanted, labels[::step])
        if full:
            assert correct(found, labels) == pytest.approx(0.573, abs=0.0005)
    report = verify(model, result, list(batches_of(val[:4], 4, imagenet=True)))
    assert report.proved
    folded = fold(result, batches[0])
    assert equal_states(folded, model)
    torchvision.models.squeezenet1_1().load_state_dict(folded.state_dict(), strict=True)


@pytest.mark.parametrize("full", [SLICE, FULL])
def test_vgg6_on_cifar10_keeps_every_output(assets: Path, cifar10: Path, full: bool) -> None:
    model = network(assets, "vgg6_cifar10")
    train, _ = files_of(cifar10 / "train", 500)
    test, labels = files_of(cifar10 / "test", 5000 if full else 500)
    batches = list(batches_of(train, 100, imagenet=False))
    plan = make_plan(model, batches[0])
    assert [site.kind for site in plan.sites] == ["Conv2d"] * 6 + ["Linear"]
    assert [(skip.name, "makes the model's output" in skip.reason) for skip in plan.skips] == [("21", True)]
    result = retrofit(model, batches)
    found, wanted = (answers(m, batches_of(test, 100, imagenet=False)) for m in (result, model))
    assert torch.equal(found, wanted)
    assert correct(found, labels) == correct(wanted, labels)
    if full:
        assert correct(found, labels) == pytest.approx(0.7796, abs=0.00005)
    assert equal_states(fold(result, batches[0]), model)


def test_a_denoiser_s_norms_fold_into_what_its_authors_merged(assets: Path) -> None:
    with_norms, merged = network(assets, "dncnn25_bn"), network(assets, "dncnn25_nobn")
    x = torch.rand(1, 1, 32, 32)
    assert len(make_fold_plan(with_norms, x).folds) == 15
    found = fold(with_norms, x, like=merged)
    assert type(found) is nn.Sequential
    assert found.state_dict().keys() == merged.state_dict().keys()
    for name, tensor in found.state_dict().items():
        torch.testing.assert_close(tensor, merged.state_dict()[name], rtol=0, atol=1e-6)
    assert verify(with_norms, found, [x]).passed
    assert verify(with_norms, merged, [x]).passed


def randomised(model: Any) -> Any:
    """A model whose BatchNorms are as training might have left them."""
    for norm in norms_of(model):
        nn.init.normal_(norm.running_mean, std=0.3)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.uniform_(norm.weight, 0.7, 1.4)
        nn.init.normal_(norm.bias, std=0.3)
    return model.eval()


@pytest.mark.parametrize("name", ["vgg11", pytest.param("vgg16", marks=pytest.mark.slow)])
def test_a_folded_vgg_is_no_further_from_float64_than_the_network_it_came_from(name: str) -> None:
    model = randomised(torchvision.models.get_model(f"{name}_bn"))
    with torch.device("meta"):
        stock = torchvision.models.get_model(name)
    x = torch.randn(2, 3, 128, 128)
    folded = fold(model, x, like=stock)
    assert type(folded) is type(stock)
    assert folded.state_dict().keys() == stock.state_dict().keys()
    with torch.inference_mode():
        own, found = model(x).double(), folded(x).double()
        exact = model.double()(x.double())
    own_error, found_error = float((own - exact).abs().max()), float((found - exact).abs().max())
    assert 0 < found_error <= 1.5 * own_error, (found_error, own_error)


CARD = Path(__file__).parents[2] / "checkpoints" / "cifar10_vgg16.md"


@pytest.mark.parametrize("full", [SLICE, FULL])
def test_the_bundled_vgg16_is_what_its_card_says(cifar10: Path, full: bool) -> None:
    name = parse_model("bnretrofit:cifar10_vgg16")
    built = build(name, weights="DEFAULT")
    model, told = built.model.eval(), built.preprocessing
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (told.mean, told.std))
    assert sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in model.modules()) == 16
    test, labels = files_of(cifar10 / "test", 5000 if full else 500)
    images = [(batch - mean) / std for batch in batches_of(test, 100, imagenet=False)]
    found = answers(model, iter(images))
    card = re.search(r"Test accuracy \| .*\((\d+\.\d+) %\)", CARD.read_text())
    assert card is not None
    # A part of the images, ten times fewer, tells it to a few points.
    assert correct(found, labels) == pytest.approx(float(card[1]) / 100, abs=0.0005 if full else 0.06)
    result = retrofit(model, images[:3])
    assert len(make_plan(model, images[0]).sites) == 15
    assert torch.equal(answers(result, iter(images)), found)
    folded = fold(result, images[0])
    assert equal_states(folded, model)
    build(name).model.load_state_dict(folded.state_dict(), strict=True)
