"""The benchmark of insertion tells a sound one from one that is off, and says which peers are not installed."""

import pytest
import torch
from torch import Tensor, nn

from benchmarks import insert_measuring
from benchmarks.fold_networks import CASES
from benchmarks.fold_peers import TOOLS, outcome_of
from benchmarks.insert_by_hand import NoPlaceError, insert_as_notebook, insert_by_hand, variance
from benchmarks.insert_by_update import Updating, insert_by_updating, update_by_fvcore, update_by_torch
from benchmarks.insert_contenders import Inserted, insert_ours
from benchmarks.insert_errors import Change, changed, output_error, statistics_error
from benchmarks.insert_measuring import CONTENDERS, OURS, Contender, measured
from benchmarks.insert_networks import Images
from benchmarks.insert_peers import row
from benchmarks.onnx_graphs import OnnxGraph, export
from benchmarks.peers import NotInstalledError, peer

ABSENT = "a_peer_that_nobody_has"


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


@pytest.fixture(scope="module")
def images() -> Images:
    generator = torch.Generator().manual_seed(1)
    train = list(torch.randn(20, 3, 8, 8, generator=generator).split(8))
    return Images(train, [torch.randn(30, 3, 8, 8, generator=generator)], torch.arange(30) % 4)


def change(network: nn.Module, inserted: Inserted, images: Images) -> Change:
    return changed(network, inserted.network, images.held_out, images.labels)


def test_ours_changes_no_bit(network: nn.Module, images: Images) -> None:
    inserted = insert_ours(network, images.train)
    found = change(network, inserted, images)
    assert (found.equal, found.error, found.agreement, found.before) == (True, 0.0, 1.0, found.after)
    assert list(inserted.statistics) == ["0", "2", "5"]
    assert statistics_error(network, inserted, images.train)["var_max"] < 1e-5


def test_one_weight_off_by_a_hundredth_shows(network: nn.Module, images: Images) -> None:
    inserted = insert_by_hand(network, images.train)
    sound = change(network, inserted, images).error
    with torch.no_grad():
        inserted.network.get_parameter("2.1.weight")[3] *= 1.01
    off = change(network, inserted, images)
    assert sound is not None
    assert off.error is not None
    assert sound < 1e-5
    assert off.error > 1e-4
    assert not off.equal


def test_the_recipes_first_form_moves_outputs(network: nn.Module, images: Images) -> None:
    assert (change(network, insert_by_hand(network, images.train, variance), images).error or 0) > 0.1
    notebook = insert_as_notebook(network, images.train)
    assert list(notebook.statistics) == ["6"]
    assert (change(network, notebook, images).error or 0) > 0.1
    with pytest.raises(NoPlaceError, match="no dense layer"):
        insert_as_notebook(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), images.train)


def test_statistics_that_are_off_show(network: nn.Module, images: Images) -> None:
    inserted = insert_ours(network, images.train)
    inserted.statistics["2"].var[3] *= 1.01
    inserted.statistics["5"].mean[0] += 0.02 * inserted.statistics["5"].var[0].sqrt()
    found = statistics_error(network, inserted, images.train)
    assert found["var_max"] == pytest.approx(0.01, rel=1e-2)
    assert found["mean_max"] == pytest.approx(0.02, rel=1e-2)
    # By hand, variances are averages over batches, the last of them smaller.
    assert statistics_error(network, insert_by_hand(network, images.train), images.train)["var_max"] > 1e-3


# fvcore uses what torch means to give up.
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("update", [update_by_torch, update_by_fvcore])
def test_statistics_of_training_mode_are_of_another_network(
    network: nn.Module, images: Images, update: Updating
) -> None:
    if update is update_by_fvcore:
        pytest.importorskip("fvcore")
    inserted = insert_by_updating(network, images.train, update)
    assert list(inserted.statistics) == ["0", "2", "5", "7"]
    # An identity but for rounding, whatever the statistics; only the first layer's are those of the network itself.
    moved = change(network, inserted, images).error
    assert moved is not None
    assert moved < 1e-5
    whole = statistics_error(network, inserted, images.train)
    first = Inserted(inserted.network, {"0": inserted.statistics["0"]}, inserted.population)
    assert whole["mean_max"] > 10 * statistics_error(network, first, images.train)["mean_max"]


def test_outputs_that_are_not_finite_are_no_small_error() -> None:
    old = torch.ones(2, 3)
    assert output_error(old, old * torch.nan) == torch.inf
    assert output_error(old, old[:, :2]) == torch.inf
    assert output_error(torch.tensor([[1.0, -4.0], [100.0, 0.0]]), torch.tensor([[1.0, -4.2], [100.0, 1.0]])) == 0.05


def absent(_network: nn.Module, _batches: list[Tensor]) -> Inserted:
    found: Inserted = peer(ABSENT).insert()
    return found


def failing(_network: nn.Module, _batches: list[Tensor]) -> Inserted:
    raise ValueError("no such layer\nand more")


@pytest.mark.parametrize(
    ("contender", "said"), [(absent, f"not installed ({ABSENT}"), (failing, "raised ValueError: no such layer")]
)
def test_what_gives_no_network_says_why(
    monkeypatch: pytest.MonkeyPatch, network: nn.Module, images: Images, contender: object, said: str
) -> None:
    monkeypatch.setitem(CONTENDERS, "planted", Contender(contender))  # type: ignore[arg-type]
    found = measured("planted", network, images, 1)
    assert found["said"].startswith(said)
    assert row("planted", found)[1] in ("not installed", "raised ValueError: no such layer")


def test_figures_are_of_the_contender(monkeypatch: pytest.MonkeyPatch, network: nn.Module, images: Images) -> None:
    monkeypatch.setattr(insert_measuring, "warm_up", lambda _contender: None)
    found = measured(OURS, network, images, 1)
    assert (found["layers"], found["normalised"], found["equal"], found["error"]) == (4, 3, True, 0.0)
    assert len(found["insertion_seconds"]) == len(found["forward_seconds"]) == 1
    by_hand = measured("by hand", network, images, 1)
    assert (by_hand["normalised"], by_hand["equal"]) == (4, False)


def test_a_folding_tool_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotInstalledError, match=ABSENT):
        peer(ABSENT)
    monkeypatch.setitem(TOOLS, "planted", lambda _model, _inputs: (peer(ABSENT), ""))
    found = outcome_of(CASES[0], "planted")
    assert (found.verdict, found.error) == ("not installed", None)
    assert ABSENT in found.said


def test_a_graphs_norms_are_counted_where_they_are_left() -> None:
    pytest.importorskip("onnxruntime")
    case = next(case for case in CASES if case.name == "conv, affine=False")
    graph = OnnxGraph(export(case.network(), case.inputs()))
    assert graph.norms == 1
    assert (graph(case.inputs()) - case.network()(case.inputs())).abs().max() < 1e-5
    assert outcome_of(case, "onnxruntime").verdict == "exact"
