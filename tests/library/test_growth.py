"""What benchmarks/growth.py measures and makes of it: a power is found where there is one, and told from noise."""

import math
import random
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.growth_fit import STRAIGHT, fitted
from benchmarks.growth_measuring import Measured, measured
from benchmarks.growth_page import write_page
from benchmarks.growth_phases import EXPORT, FORWARD, PHASES, owner_of
from benchmarks.growth_points import SERIES, VERBS, Point, points
from benchmarks.growth_ranks import across_ranks
from benchmarks.growth_records import append, here, known, newest
from benchmarks.growth_series import OTHER, Series, all_series

SIZES = (8, 16, 32, 64, 128)
TINY = Point("", depth=2, width=4, images=2, batch_size=1, pixels=8)


def powers(exponent: float, off: float = 0.0) -> list[float]:
    draw = random.Random(1)
    return [0.3 * size**exponent * math.exp(draw.uniform(-off, off)) for size in SIZES]


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 1.0, 1.5, 2.0])
def test_a_power_is_found_again(exponent: float) -> None:
    fit = fitted(SIZES, powers(exponent))
    assert (fit.exponent, fit.last, fit.factor) == pytest.approx((exponent, exponent, 0.3))
    assert fit.straight
    assert (fit.off, fit.error) == pytest.approx((1.0, 0.0), abs=1e-6)
    assert fit.at(10) == pytest.approx(0.3 * 10**exponent)


def test_a_few_per_cent_of_noise_leave_the_power_within_its_error() -> None:
    fit = fitted(SIZES, powers(2, off=0.05))
    assert fit.straight
    assert 0 < fit.error < 0.05
    assert abs(fit.exponent - 2) < 3 * fit.error


def test_noise_is_no_power() -> None:
    fit = fitted(SIZES, powers(0, off=3.0))
    assert not fit.straight
    assert fit.error > 0.3


def test_a_fixed_cost_is_no_power_and_the_end_shows_the_growth() -> None:
    fit = fitted(SIZES, [20 + size for size in SIZES])
    # No point is far off: the bend shows.
    assert fit.off < STRAIGHT
    assert not fit.straight
    assert fit.exponent < fit.last < 1


def test_of_two_points_there_is_no_error() -> None:
    assert math.isnan(fitted((1, 2), (3.0, 6.0)).error)


def test_a_series_grows_in_its_quantity_alone() -> None:
    for (verb, quantity), series in SERIES.items():
        sizes = [getattr(point, quantity) for point in series]
        assert sizes == sorted(set(sizes))
        first = asdict(series[0])
        assert all(asdict(point) == {**first, quantity: at} for point, at in zip(series, sizes, strict=True))
        assert {point.verb for point in series} == {verb}
        assert all(point.images >= point.batch_size * point.ranks for point in series)


def test_a_point_of_two_quantities_is_measured_once() -> None:
    every = points()
    assert len(every) == len(set(every)) < sum(map(len, SERIES.values()))
    assert {point.verb for point in points(("fold",), ("width",))} == {"fold"}


def given(path: Path) -> None:
    """Lines of a calibration that is linear in depth, three times its floor, and of a plan that is quadratic."""
    for verb, exponent in (("calibrate", 1.0), ("plan", 2.0)):
        for point in SERIES[verb, "depth"]:
            cost = 0.01 * point.depth**exponent
            phases = {FORWARD: 0.75 * cost, EXPORT: 0.1 * cost}
            append(path, point, Measured([cost, 2 * cost], [cost / 3, cost], [cost], [cost], phases))


def test_a_page_is_made_of_the_lines(tmp_path: Path) -> None:
    given(tmp_path / "growth.jsonl")
    write_page(tmp_path / "growth.jsonl", tmp_path)
    page = (tmp_path / "growth.md").read_text()
    assert "| **calibrate** | 1.00 (1.00) |  |" in page
    assert "| **plan** | 2.00 (2.00) |  |" in page
    assert "8, 128 | 1.00 ± 0.00 | 1.00 | 1.00 ± 0.00 | 1.00 | 1.28 | 2.00 (2.50) | forward pass, 75% |" in page
    assert "| other | 15% (1.00) |" in page
    assert "## verify" not in page
    first = (tmp_path / "growth_plan.svg").read_bytes()
    write_page(tmp_path / "growth.jsonl", tmp_path)
    assert (tmp_path / "growth_plan.svg").read_bytes() == first
    assert b"<dc:date>" not in first
    assert b"#1f77b4" in first


def test_a_page_of_no_lines_is_its_beginning(tmp_path: Path) -> None:
    write_page(tmp_path / "growth.jsonl", tmp_path)
    assert "## " not in (tmp_path / "growth.md").read_text()


def test_a_line_of_other_versions_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "growth.jsonl"
    given(path)
    mine = here()
    assert len(known(path, mine)) == 2 * len(SIZES)
    assert not known(path, {**mine, "torch": "1.0"})
    later = path.read_text().splitlines()[0].replace(f'"torch": "{mine["torch"]}"', '"torch": "99"')
    path.write_text(path.read_text() + later + "\n")
    assert [line["machine"]["torch"] for line in newest(path).values()] == ["99"]


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_is_measured(verb: str) -> None:
    point = replace(TINY, verb=verb)
    found = measured([point], rounds=2, shortest=0)[point]
    assert len(found.cpu) == len(found.floor_cpu) == len(found.wall) == len(found.floor_wall) == 2
    assert all(seconds > 0 for seconds in (*found.cpu, *found.floor_cpu))
    assert found.phases[FORWARD if verb == "calibrate" else EXPORT] > 0
    # What is in a phase is in the whole, once; clocks of a thread and of a process differ by little.
    assert sum(found.phases.values()) <= min(found.cpu) * 1.05 + 1e-3


def test_ranks_are_measured_together() -> None:
    found = across_ranks(replace(TINY, verb="calibrate", ranks=2), rounds=1)
    assert len(found.cpu) == len(found.floor_cpu) == 1
    assert found.phases[FORWARD] > 0


def test_every_phase_has_its_function() -> None:
    for holder, name, _ in PHASES:
        assert callable(getattr(owner_of(holder), name)), f"{holder} has no {name}"


def test_shares_are_of_the_whole_and_grow_each_for_itself(tmp_path: Path) -> None:
    given(tmp_path / "growth.jsonl")
    series: Series = next(each for each in all_series(newest(tmp_path / "growth.jsonl")) if each.verb == "plan")
    assert series.shares() == pytest.approx({FORWARD: 0.75, OTHER: 0.15, EXPORT: 0.1})
    assert list(series.shares()) == [FORWARD, OTHER, EXPORT]
    assert series.last_exponent(FORWARD) == pytest.approx(2)
    assert series.last_exponent("no such phase") is None
