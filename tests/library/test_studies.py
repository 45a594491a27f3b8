"""Studies: their runs do what they say, and a verdict is no where the figures are the other way round."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from bnretrofit.errors import UsageError
from bnretrofit.norms import running_norms
from bnretrofit.studies.catalogue import STUDIES
from bnretrofit.studies.claims.cost import kept_for_gradient
from bnretrofit.studies.drawing import drawn
from bnretrofit.studies.findings import Axes, Finding, Plot, Series, Spread
from bnretrofit.studies.images import Images, bundled_digits, some_of
from bnretrofit.studies.learning import learn, network_of, shared_out
from bnretrofit.studies.networks import CONVOLUTIONS, Shape, vgg, weighted
from bnretrofit.studies.recipes import WATCHES, Budget, Outcome, Recipe
from bnretrofit.studies.results import Results
from bnretrofit.studies.running import run_study
from bnretrofit.studies.shifting import SHIFTS, shifted
from bnretrofit.studies.watching import watch_for

SHORT = Budget("digits", 50, 36, steps=4, batch_size=16, looks=2)
SEEDS = (0, 1, 2)
MEASURED = ("cost", "history")


@pytest.fixture(scope="module")
def images() -> Images:
    whole = bundled_digits()
    return replace(whole, train=some_of(whole.train, 50), test=some_of(whole.test, 36))


def timeless(outcome: Outcome) -> Outcome:
    """Without the seconds, which differ from run to run."""
    return replace(outcome, curve=tuple((step, 0.0, top1) for step, _, top1 in outcome.curve))


@pytest.mark.parametrize("depth", CONVOLUTIONS)
def test_a_vgg_has_as_many_layers_as_its_name_says(depth: int) -> None:
    assert len(weighted(vgg(Shape(depth), 0))) == depth


def test_the_same_seed_gives_the_same_weights_whatever_the_dropout() -> None:
    a, b = vgg(Shape(), 1).state_dict(), vgg(Shape(dropout=0.5), 1).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["0.0.weight"], vgg(Shape(), 2).state_dict()["0.0.weight"])


def test_gain_scales_the_weights() -> None:
    a, b = vgg(Shape(), 0), vgg(Shape(gain=4.0), 0)
    assert all(torch.equal(4 * x.weight, y.weight) for x, y in zip(weighted(a), weighted(b), strict=True))  # type: ignore[operator, arg-type]


@pytest.mark.parametrize("shape", [Shape(12), Shape(activation="swish")])
def test_an_unknown_shape_is_refused(shape: Shape) -> None:
    with pytest.raises(UsageError, match="Choose from"):
        vgg(shape, 0)


def test_norms_follow_every_layer_but_the_last_and_begin_with_the_statistics_of_the_images(images: Images) -> None:
    network = network_of(Recipe(SHORT, True, 0.1, 0), images)
    norms = running_norms(network)
    assert len(norms) == 10
    assert all(bool((norm.state_dict()["weight"] == 1).all()) for norm in norms.values())
    with torch.no_grad():
        read = network[0][:1](images.train[0])  # type: ignore[index]
    assert float(read.mean((0, 2, 3)).abs().max()) < 1e-3


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(SHORT, False, 0.01, 0),
        Recipe(SHORT, True, 0.1, 0, Shape(dropout=0.5), share=8),
        Recipe(SHORT, True, 0.001, 0, frozen=True),
    ],
)
def test_a_run_is_repeatable(recipe: Recipe, images: Images) -> None:
    before = torch.get_rng_state()
    first = learn(recipe, images)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert timeless(learn(recipe, images)) == timeless(first)
    assert [step for step, _, _ in first.curve] == [2, 4]
    assert len(first.gradients) == 11


@pytest.mark.parametrize("norms", [False, True])
def test_watching_changes_nothing(norms: bool, images: Images) -> None:
    recipe = Recipe(SHORT, norms, 0.01, 0, Shape(dropout=0.5))
    alone = learn(recipe, images)
    for watch in WATCHES[1:]:
        watched = learn(replace(recipe, watch=watch), images)
        assert timeless(replace(watched, watched={})) == timeless(alone), watch
        assert watched.watched
        assert all(math.isfinite(value) for values in watched.watched.values() for value in values)


def test_loss_and_gradient_hardly_vary_along_a_tiny_step(images: Images) -> None:
    tiny = learn(Recipe(SHORT, False, 1e-9, 0, watch="landscape"), images).watched
    usual = learn(Recipe(SHORT, False, 0.01, 0, watch="landscape"), images).watched
    assert max(tiny["gradient"]) < 1e-3 < min(usual["gradient"])
    assert max(tiny["loss"]) < 1e-4 < min(usual["loss"])


def test_the_way_of_a_step_is_what_it_is_when_it_is_walked(images: Images) -> None:
    """Range of the loss and largest move of the gradient, at five points found by hand."""
    torch.manual_seed(0)
    layer, pixels, labels, rate = nn.Linear(4, 3, bias=False), torch.randn(8, 4), torch.arange(8) % 3, 0.5
    torch.autograd.backward(functional.cross_entropy(layer(pixels), labels))
    start, gradient = layer.weight.detach().clone(), layer.weight.grad
    assert gradient is not None
    watch = watch_for("landscape", layer, images)
    watch.before(0, 40, [(pixels[:6], labels[:6]), (pixels[6:], labels[6:])], torch.optim.SGD([layer.weight], rate))
    after = layer.weight.grad
    assert after is not None
    assert torch.equal(layer.weight, start)
    assert torch.equal(after, gradient)
    losses, moves = [], []
    for stride in (0, 0.25, 0.5, 1, 2, 4):
        weight = (start - stride * rate * gradient).requires_grad_()
        loss = functional.cross_entropy(pixels @ weight.T, labels)
        losses.append(loss.item())
        moves.append(float((torch.autograd.grad(loss, weight)[0] - gradient).norm() / gradient.norm()))
    found = watch.found()
    assert found["loss"] == pytest.approx((max(losses) - min(losses),), rel=1e-5)
    assert found["gradient"] == pytest.approx((max(moves),), rel=1e-5)


def test_what_layers_read_hardly_moves_with_tiny_steps(images: Images) -> None:
    tiny = learn(Recipe(SHORT, False, 1e-9, 0, watch="inputs"), images).watched
    usual = learn(Recipe(SHORT, False, 0.01, 0, watch="inputs"), images).watched
    assert tiny.pop("step") == usual.pop("step") == (1, 2, 3)
    assert max(map(max, tiny.values())) < 1e-4 < max(map(max, usual.values()))


def test_a_run_that_diverges_says_so(images: Images) -> None:
    outcome = learn(Recipe(SHORT, False, 1e12, 0), images)
    assert outcome.top1 is None


def test_statistics_of_the_whole_step_are_those_of_a_batch(images: Images) -> None:
    whole = learn(Recipe(SHORT, True, 0.1, 0), images)
    shared = learn(Recipe(SHORT, True, 0.1, 0, share=SHORT.batch_size), images)
    assert shared.loss == pytest.approx(whole.loss, rel=1e-4)
    assert learn(Recipe(SHORT, True, 0.1, 0, share=2), images).loss != pytest.approx(whole.loss, rel=1e-2)


def test_shifts_do_what_they_are_called() -> None:
    """In pixels of 0 to 1, within which they stay."""
    mean, deviation = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.5, 0.25, 1.0])
    grey = torch.full((4, 3, 32, 32), 0.5)
    grey[2:] = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    unit = (mean.view(1, -1, 1, 1), deviation.view(1, -1, 1, 1))
    labels = torch.zeros(4, dtype=torch.int64)
    images = Images((grey, labels), ((grey - unit[0]) / unit[1], labels), mean, deviation)
    bare = {name: shifted(name, images)[0] * unit[1] + unit[0] for name in SHIFTS}
    assert torch.allclose(bare["as they are"], grey)
    assert torch.allclose(bare["brighter"][0], torch.tensor(0.75))
    assert float(bare["brighter"].max()) <= 1.0001
    assert torch.allclose(bare["blurred"][0], grey[0], atol=1e-6)
    assert float(bare["blurred"][2:].var()) < 0.2 * float(grey[2:].var())
    assert float((bare["noisy"][:2] - grey[:2]).std()) == pytest.approx(0.15, rel=0.1)
    assert float(bare["noisy"].min()) >= -0.0001


@pytest.mark.parametrize(("share", "sizes"), [(None, [50]), (2, [2] * 25), (7, [7] * 7), (32, [32, 18]), (49, [50])])
def test_a_step_has_all_its_images_however_many_share_their_statistics(share: int | None, sizes: list[int]) -> None:
    parts = shared_out(torch.arange(50), share)
    assert torch.equal(torch.cat(parts), torch.arange(50))
    assert [len(part) for part in parts] == (sizes if share != 7 else [*sizes[:-1], 8])


def test_small_batches_are_parts_of_large_steps_where_there_are_images_enough() -> None:
    study, usual = STUDIES["small-batches"], Budget("some", 2560, 100, steps=400, batch_size=64)
    lasting = study.lasting(usual)
    assert (lasting.batch_size, lasting.steps) == (256, 100)
    assert {recipe.share for recipe in study.recipes(lasting, [0])} == {None, 2, 4, 8, 16, 32, 64, 128}
    few = replace(usual, learnt=2559)
    assert study.lasting(few) == few
    assert {recipe.share for recipe in study.recipes(few, [0])} == {None, 2, 4, 8, 16, 32}
    assert study.lasting(replace(usual, steps=1)).steps == 1


def test_some_of_the_images_are_of_all_classes() -> None:
    labels = some_of(bundled_digits().train, 30)[1]
    assert len(labels) == 30
    assert torch.bincount(labels).tolist() == [3] * 10


def outcome(
    top1: float | None, *, train: float = 1.0, watched: float = 1.0, steps: int = 10, measured: float = 0.0
) -> Outcome:
    figures: dict[str, tuple[float, ...]] = {"step": (3.0,), "loss": (watched,), "gradient": (watched,)}
    figures |= {f"{kind} {layer}": (watched,) for kind in ("mean", "spread") for layer in (0, 1)}
    figures |= dict.fromkeys(SHIFTS, (top1 or 0.0, measured))
    if top1 is None:
        return Outcome(None, None, None, None, (), (), {})
    return Outcome(top1, train, 1.0, 0.0, ((steps, 1.0, top1),), (1.0, 2.0), figures)


def ideal(recipe: Recipe) -> Outcome:
    """As every claim has it."""
    if not recipe.norms:
        harm = 0.3 if recipe.rate > 0.01 or recipe.shape.gain != 1 or recipe.shape.depth > 16 else 0.0
        return outcome(0.7 - harm, train=0.95, watched=2.0, steps=20)
    few = 0.2 if recipe.share is not None else 0.0
    return outcome(0.8 - few, train=0.9, watched=1.0, steps=5, measured=0.85)


def other_way_round(recipe: Recipe) -> Outcome:
    """As no claim has it."""
    if recipe.share is not None:
        return outcome(0.9)
    norms = not recipe.norms
    return outcome(
        0.8 if norms else 0.5, train=0.85 if norms else 0.9, watched=0.3 if norms else 2.0, steps=20, measured=0.4
    )


def dead(_recipe: Recipe) -> Outcome:
    """Nothing is learnt, and what is seen is the best there is."""
    return outcome(0.1, train=0.1, watched=0.0)


def diverged(recipe: Recipe) -> Outcome:
    """All runs with norms break off, and the others are dead."""
    return outcome(None) if recipe.norms else dead(recipe)


TRIED = [name for name in STUDIES if name not in MEASURED]


@pytest.mark.parametrize("name", TRIED)
@pytest.mark.parametrize("figures", [dead, diverged, lambda _: outcome(None)])
def test_networks_that_learn_nothing_show_nothing(
    name: str, figures: Callable[[Recipe], Outcome], images: Images
) -> None:
    study = STUDIES[name]
    outcomes = {recipe: figures(recipe) for recipe in study.recipes(SHORT, SEEDS)}
    finding = study.find(study, Results(SHORT, SEEDS, outcomes, images))
    assert not finding.held
    assert drawn_and_read(finding) == finding


@pytest.mark.parametrize("name", TRIED)
@pytest.mark.parametrize(("figures", "held"), [(ideal, True), (other_way_round, False)])
def test_a_verdict_follows_the_figures(
    name: str, figures: Callable[[Recipe], Outcome], held: bool, images: Images
) -> None:
    study = STUDIES[name]
    outcomes = {recipe: figures(recipe) for recipe in study.recipes(SHORT, SEEDS)}
    finding = study.find(study, Results(SHORT, SEEDS, outcomes, images))
    assert finding.held is held
    assert all(len(row) == len(finding.header) for row in finding.rows)
    assert all(len(series.x) == len(series.y) > 0 for plot in finding.plots for series in plot.series)
    assert drawn_and_read(finding) == finding


@pytest.mark.parametrize("name", TRIED)
def test_one_seed_that_says_no_is_a_no(name: str, images: Images) -> None:
    study = STUDIES[name]
    outcomes = {
        recipe: other_way_round(recipe) if recipe.seed == 2 else ideal(recipe) for recipe in study.recipes(SHORT, SEEDS)
    }
    assert not study.find(study, Results(SHORT, SEEDS, outcomes, images)).held


def drawn_and_read(finding: Finding) -> Finding:
    """The finding after a way through JSON; its drawing must not depend on that."""
    read = Finding.from_json(finding.to_json())
    assert drawn(read) == drawn(finding)
    return read


def test_a_finding_survives_json_with_figures_that_are_not_finite() -> None:
    spread = Spread(math.inf, 1.0, math.inf)
    finding = Finding(
        "s", "c", False, "a", ("x",), (("1",),), (Plot(Axes("x", "y", log_y=True), (Series("l", (1.0,), (spread,)),)),)
    )
    assert drawn_and_read(finding) == finding


def test_recipes_and_outcomes_survive_json(images: Images) -> None:
    recipe = Recipe(SHORT, True, 0.1, 3, Shape(16, "tanh", 0.5, 4.0), share=2, watch="inputs")
    assert Recipe.from_json(recipe.to_json()) == recipe
    found = learn(Recipe(SHORT, False, 0.01, 0, watch="inputs"), images)
    assert Outcome.from_json(found.to_json()) == found


def test_a_diverged_run_counts_as_guessing(images: Images) -> None:
    results = Results(SHORT, (0,), {}, images)
    assert results.accuracies([outcome(None), outcome(0.05), outcome(0.5)]) == (images.guessing, images.guessing, 0.5)
    assert not results.has_learnt(images.guessing + 0.01)
    assert results.has_learnt(0.5)


def test_gamma_set_to_the_variance_moves_outputs_and_ours_does_not(images: Images) -> None:
    finding = run_study(STUDIES["history"], images, SHORT, (0,))
    moves = {row[0]: float(row[1]) for row in finding.rows}
    assert not finding.held
    assert moves["bnretrofit"] == 0
    assert moves["gamma = variance"] > 0.1


def test_a_step_with_norms_keeps_more_and_folding_takes_them_away(images: Images) -> None:
    finding = run_study(STUDIES["cost"], images, SHORT, (0,))
    kept = {row[0]: row[2] for row in finding.rows}
    assert float(kept["with norms"]) > 1.2
    assert float(kept["with norms, frozen statistics"]) < float(kept["with norms"])
    assert [row[0] for row in finding.rows][-1] == "with norms, folded"


def test_what_is_kept_for_the_gradient_is_counted_once_and_without_parameters() -> None:
    layer = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    pixels = torch.randn(16, 8)
    # The input, of which the weight's gradient is made, and the output of the activation.
    assert kept_for_gradient(layer, pixels) == 4 * (16 * 8 + 16 * 4)
