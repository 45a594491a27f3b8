"""A captured graph as a picture, its lanes, the table of layers, and the page they make."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18, squeezenet1_1

from bnretrofit import make_plan
from bnretrofit.calibration import calibrate
from bnretrofit.capture import capture
from bnretrofit.findings import BatchDrift, LayerError
from bnretrofit.insertion import insert
from bnretrofit.pages.charts import drift_chart, error_chart, history_charts, statistics_charts
from bnretrofit.pages.content import Page
from bnretrofit.pages.diagram import Node, drawn
from bnretrofit.pages.drawing import drawing_of
from bnretrofit.pages.lanes import laid_out
from bnretrofit.pages.layer_table import layer_table
from bnretrofit.pages.marks import Mark, marks_of_folds, marks_of_plan
from bnretrofit.pages.rendering import page_html, picture_svg
from bnretrofit.pages.statistics import statistics_of_norm, statistics_of_stats
from bnretrofit.training import Epoch, History


def picture_of(model: nn.Module, example: Tensor) -> tuple[Node, ...]:
    model.eval()
    return drawn(capture(model, example), marks_of_plan(make_plan(model, example), inserted=False))


def told(nodes: Sequence[Node]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(node.role, node.name, node.inputs) for node in nodes]


def test_a_chain_is_told_layer_by_layer_with_what_follows_each() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2))
    nodes = picture_of(model, torch.zeros(1, 3, 8, 8))
    assert [node.role for node in nodes] == ["input", "layer", "layer", "output"]
    assert [node.inputs for node in nodes] == [(), (0,), (1,), (2,)]
    first, last = nodes[1], nodes[2]
    assert (first.name, first.kind, first.channels, first.state) == ("0", "Conv2d", 4, "planned")
    assert [(each.label, each.role) for each in first.followers] == [
        ("BatchNorm2d", "planned"),
        ("ReLU", "step"),
        ("MaxPool2d", "step"),
    ]
    assert (last.name, last.state) == ("4", "skipped")
    assert "logits" in last.note


def test_branches_part_and_join() -> None:
    nodes = picture_of(squeezenet1_1(), torch.zeros(1, 3, 64, 64))
    place = next(place for place, node in enumerate(nodes) if node.name == "features.3.squeeze")
    squeeze, one, three, cat = nodes[place : place + 4]
    assert told((squeeze, one, three, cat)) == [
        ("layer", "features.3.squeeze", (place - 1,)),
        ("layer", "features.3.expand1x1", (place,)),
        ("layer", "features.3.expand3x3", (place,)),
        ("join", "cat", (place + 1, place + 2)),
    ]


def test_a_residual_s_norms_are_the_network_s_own() -> None:
    nodes = picture_of(resnet18(), torch.zeros(1, 3, 64, 64))
    add = next(node for node in nodes if node.role == "join")
    assert [nodes[place].name for place in add.inputs] == ["layer1.0.conv2", "conv1"]
    assert [each.label for each in add.followers] == ["ReLU"]
    assert [each.role for each in nodes[1].followers] == ["norm", "step", "step"]


class PreNorm(nn.Module):
    """A norm that only one of two readers goes through, a pooled gate, a layer called twice and one of bare weights."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.twice = nn.Conv2d(3, 3, 1)
        self.gate = nn.Conv2d(3, 3, 1)
        self.unused = nn.Linear(2, 2)
        self.kernel = nn.Parameter(torch.ones(3, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.twice(self.twice(self.norm(x)))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return F.conv2d(x, self.kernel).relu() + x


def test_what_others_read_too_stands_alone() -> None:
    nodes = picture_of(PreNorm(), torch.zeros(1, 3, 4, 4))
    assert told(nodes) == [
        ("input", "x", ()),
        ("norm", "norm", (0,)),
        ("layer", "twice", (1,)),
        ("layer", "twice", (2,)),
        ("join", "add", (0, 3)),
        ("step", "mean", (4,)),
        ("layer", "gate", (5,)),
        ("join", "mul", (4, 6)),
        ("layer", "kernel", (7,)),
        ("join", "add", (8, 7)),
        ("output", "output", (9,)),
    ]
    assert nodes[8].kind == "functional"
    assert nodes[8].state == "skipped"


def test_the_table_has_every_layer_once_and_those_that_never_run() -> None:
    model = PreNorm().eval()
    example = torch.zeros(1, 3, 4, 4)
    plan = make_plan(model, example)
    marks = marks_of_plan(plan, inserted=False)
    rows = layer_table(drawn(capture(model, example), marks), marks, {})
    assert [row.name for row in rows] == ["norm", "twice", "gate", "kernel", "unused"]
    assert [row.number for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0].state == "norm"
    assert rows[-1].note == "the model never calls it in eval mode"
    decided = {*(site.name for site in plan.sites), *(skip.name for skip in plan.skips)}
    assert {row.name for row in rows} == decided | {"norm"}


def test_inserted_norms_are_marked_in_the_result_under_the_original_s_names() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()).eval()
    images = torch.randn(8, 3, 8, 8)
    plan = make_plan(model, images[:1])
    stats = calibrate(model, plan, [images])
    result = insert(model, plan, stats)
    marks = marks_of_plan(plan, inserted=True)
    nodes = drawn(capture(result, images[:1]), marks)
    assert [(node.name, node.state) for node in nodes[1:3]] == [("0", "inserted"), ("2", "inserted")]
    assert [(each.role, each.module) for each in nodes[1].followers] == [("inserted", "0.norm"), ("step", "1")]
    known = statistics_of_norm(result.get_submodule("0.norm"))
    rows = layer_table(nodes, marks, {} if known is None else {"0.norm": known})
    assert rows[0].statistics is not None
    assert rows[0].statistics.scale is not None
    assert rows[0].statistics.scale.largest == pytest.approx(1, rel=1e-6)
    measured = statistics_of_stats(stats["0"])
    assert rows[0].statistics.mean.least == pytest.approx(measured.mean.least, rel=1e-6)
    assert rows[0].statistics.mean.largest == pytest.approx(measured.mean.largest, rel=1e-6)
    assert rows[1].statistics is None


def test_post_norms_are_told_after_the_activation() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    example = torch.zeros(1, 3, 8, 8)
    marks = marks_of_plan(make_plan(model, example, placement="post"), inserted=False)
    nodes = drawn(capture(model, example), marks)
    assert [each.label for each in nodes[1].followers] == ["ReLU", "BatchNorm2d"]


def test_folds_are_read_from_a_header_that_may_say_anything() -> None:
    fold = {"norm": "0.norm", "layer": "0", "into": "0", "channels": 4, "unchanged": 3}
    others: list[Any] = [3, {"layer": 1, "norm": "x"}, {}, {"layer": "no such layer", "norm": "x"}]
    marks, lost = marks_of_folds([fold, {**fold, "norm": "1", "into": "2"}, {**fold, "into": None}, *others], {"0"})
    assert list(marks) == ["0"]
    assert lost == 4
    assert "the norm '0.norm' was folded into it; 3 of 4 channels" in marks["0"].note
    assert "the norm '1' was folded into '2'" in marks["0"].note
    assert "was the identity, and was taken out" in marks["0"].note
    assert marks_of_folds("nothing", {"0"}) == ({}, 0)


class Joined(nn.Module):
    """Norms after the input, after a join, and after an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU()
        self.after = nn.BatchNorm2d(3)
        self.joined = nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        found: Tensor = self.last(self.joined(torch.cat([x, self.after(self.relu(self.conv(x)))], 1)))
        return found


def test_every_norm_has_its_own_figures_in_the_table() -> None:
    model = Joined().eval()
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for number, norm in enumerate(norms.values(), 1):
        nn.init.constant_(norm.weight, 10.0 * number)
    known = {name: found for name, norm in norms.items() if (found := statistics_of_norm(norm)) is not None}
    example = torch.zeros(1, 3, 4, 4)
    marks = marks_of_plan(make_plan(model, example), inserted=False)
    rows = {row.name: row for row in layer_table(drawn(capture(model, example), marks), marks, known)}
    assert list(rows) == ["first", "conv", "after", "joined", "last"]
    assert rows["conv"].norm == "BatchNorm2d"
    assert rows["conv"].statistics is None
    for number, name in enumerate(norms, 1):
        found = rows[name].statistics
        assert rows[name].state == "norm"
        assert found is not None
        assert found.scale is not None
        assert found.scale.largest == pytest.approx(10 * number, rel=1e-4)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """For each node the earlier ones that it reads."""
    count = draw(st.integers(1, 30))
    return [
        tuple(draw(st.lists(st.integers(0, place - 1), max_size=4, unique=True))) if place else ()
        for place in range(count)
    ]


@given(histories())
def test_no_node_stands_in_the_lane_of_a_result_that_is_still_to_be_read(inputs: list[tuple[int, ...]]) -> None:
    found = laid_out(inputs)
    assert len(found.edges) == sum(map(len, inputs))
    for edge in found.edges:
        between = found.lanes[edge.source + 1 : edge.target]
        assert found.lanes[edge.source] not in between
    assert max(found.lanes) < found.width


def test_a_lane_that_is_free_again_is_taken_again() -> None:
    assert laid_out([(), (0,), (1,), (2,)]).width == 1
    assert laid_out([(), (0,), (0,), (1, 2), (3,)]).lanes == (0, 1, 0, 0, 0)


def test_words_do_not_run_into_one_another() -> None:
    drawing = drawing_of(picture_of(squeezenet1_1(), torch.zeros(1, 3, 64, 64)))
    for row in drawing.rows:
        for word, after in pairwise(row.words):
            assert word.x + word.width < after.x
        assert all(word.x + word.width <= drawing.width for word in row.words)
        assert all(word.x > row.x + 6 for word in row.words)
    assert [row.y for row in drawing.rows] == sorted({row.y for row in drawing.rows})


class Elements(HTMLParser):
    """What a document is made of."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: list[str] = []
        self.references: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = {name: value or "" for name, value in attrs}
        self.names += [given["id"]] if "id" in given else []
        self.references += [value for name, value in given.items() if name in ("src", "href", "xlink:href", "action")]


NAME = "<script>alert(1)</script>"


def a_page(**more: object) -> Page:
    norm = nn.BatchNorm2d(4)
    known = statistics_of_norm(norm)
    assert known is not None
    nodes = (Node("input", "x"), Node("layer", NAME, "Conv2d", (0,), 4, "skipped", f"because of {NAME}", module="0"))
    marks = {"0": Mark("skipped", NAME, f"because of {NAME}"), "1": Mark("skipped", "\x00\x1b[31m", "never")}
    rows = layer_table(nodes, marks, {"0": known})
    epochs = tuple(Epoch(number, number, 0.1, 1.0, 2.0, 0.5, 1.0, 2.0) for number in range(3))
    history = History(epochs, f"stopped by {NAME}")
    given = {"provenance": (("The file", ((NAME, NAME),)),), "notes": (NAME,), "history": history}
    drift = {"drift": (BatchDrift(2, 0.5, 8), BatchDrift(8, 0.25, 8)), "drift_note": NAME}
    return Page(NAME, NAME, ((NAME, NAME),), nodes, rows, NAME, verified_note=NAME, **given, **drift, **more)  # type: ignore[arg-type]


def test_what_is_said_is_text_wherever_it_stands() -> None:
    document = page_html(a_page())
    found = Elements(document)
    assert found.tags.count("script") == 1
    assert document.count("alert(1)") == document.count("&lt;script&gt;alert(1)&lt;/script&gt;")
    assert "\x00" not in document
    assert "\\x00\\x1b[31m" in document
    picture = picture_svg(a_page().nodes, NAME)
    assert Elements(picture).tags.count("script") == 0
    # Viewers that know no custom properties would fill everything black.
    assert "var(" not in picture
    assert picture.count("fill: #ffffff") == 2
    assert "prefers-color-scheme: dark" in picture


def test_a_page_refers_to_nothing_but_itself_and_every_name_is_one_element_s() -> None:
    found = Elements(page_html(a_page()))
    assert len(found.names) == len(set(found.names))
    outside = [each for each in found.references if not each.startswith("#") and each != "data:,"]
    assert outside == []
    assert {each.removeprefix("#") for each in found.references if each.startswith("#")} <= set(found.names)


def test_the_same_content_gives_the_same_page() -> None:
    assert page_html(a_page()) == page_html(a_page())


def test_charts_are_in_the_page_s_colours() -> None:
    layers = [LayerError("a", "a", 1e-6, 1e-6, 2e-7, 1e-4), LayerError("b", "b", 0.0, 0.0, None, 1e-4)]
    charts = [
        *(chart for _, chart in statistics_charts(a_page().rows)),
        *(chart for _, chart in history_charts(a_page().history or History())),
        drift_chart(a_page().drift),
        error_chart(layers),
    ]
    assert len(charts) == 8
    for chart in charts:
        assert chart is not None
        assert "#00000" not in chart
        assert "var(--" in chart
        assert not re.search(r"(?:fill|stroke): #(?!0{6}|f{6})[0-9a-f]{6}", chart)
        assert 'role="img"' in chart


def test_errors_of_nought_need_no_chart() -> None:
    assert error_chart([LayerError("a", "a", 0.0, 0.0, 1e-7, 1e-4)]) is None


def test_a_layer_that_is_not_finite_is_drawn_as_well_as_can_be() -> None:
    nan = float("nan")
    for error in (nan, 1.0, 0.0):
        given = [LayerError("a", "a", nan, nan, 1e-7, 1e-4), LayerError("b", "b", error, error, 1e-7, 1e-4)]
        assert error_chart(given) is not None
    norm = nn.BatchNorm2d(3)
    norm.running_var = torch.tensor([0.0, nan, 1.0])
    known = statistics_of_norm(norm)
    assert known is not None
    assert known.variance.median != known.variance.median
    node = Node("norm", "0", "BatchNorm2d", (), module="0")
    assert len(statistics_charts(layer_table((node,), {}, {"0": known}))) == 3
