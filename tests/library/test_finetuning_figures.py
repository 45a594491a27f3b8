"""What benchmarks/finetune.py makes of its runs: which rates train, how large the gap is, and in how many steps."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.finetune_page import heading
from benchmarks.finetune_runs import NORMS, PLAIN, Conditions, Run
from benchmarks.finetune_tables import Grid, grids, mean, spread

SUBJECT = "vgg6_cifar10"


def runs(norms: str, rate: float, tops: list[float | None], steps: int | None = None) -> dict[Run, dict[str, Any]]:
    made = [Run(SUBJECT, norms, rate, seed, steps=steps) for seed in range(len(tops))]
    more = {"folded_top1": 0.5} if norms == NORMS else {}
    return {run: {"top1": top, "steps": steps or 390, **more} for run, top in zip(made, tops, strict=True)}


def grid(*more: dict[Run, dict[str, Any]]) -> Grid:
    known = [runs(PLAIN, 0.01, [0.80, 0.82]), runs(PLAIN, 0.03, [0.80, None]), runs(NORMS, 0.1, [0.83, 0.84]), *more]
    (found,) = grids({run: outcome for part in known for run, outcome in part.items()})
    return found


def test_a_rate_trains_within_a_point_of_the_plain_network_s_best() -> None:
    found = grid(runs(NORMS, 0.3, [0.801, 0.800]), runs(NORMS, 1.0, [0.799, 0.799]))
    assert found.plain_best == pytest.approx(0.81)
    assert [rate for rate in found.rates if found.trains(NORMS, rate)] == [0.1, 0.3]
    assert (found.largest_rate(PLAIN), found.largest_rate(NORMS)) == (0.01, 0.3)
    assert (found.bounded(PLAIN), found.bounded(NORMS), grid().bounded(NORMS)) == (True, True, False)


def test_a_rate_of_which_one_seed_diverges_does_not_train() -> None:
    assert not grid().trains(PLAIN, 0.03)
    assert spread({0: 0.8, 1: None}) == "diverged in 1 of 2"


def test_the_gap_is_taken_seed_by_seed() -> None:
    assert grid().gaps() == pytest.approx([0.03, 0.02])


def test_the_fewest_steps_are_those_of_the_smallest_budget_that_is_enough() -> None:
    short = (runs(NORMS, 0.1, [0.805, 0.80], 100), runs(NORMS, 0.1, [0.81, 0.815], 200))
    found = grid(*short).steps_to_best()
    assert found is not None
    assert found[:2] == (200, 0.1)
    # One seed alone is not enough to say so where the mean is not.
    alone = grid(short[0]).steps_to_best()
    assert alone is not None
    assert alone[:2] == (390, 0.1)


def test_fewer_seeds_are_shown_and_decide_nothing() -> None:
    found = grid(runs(NORMS, 1.0, [0.99]), runs(PLAIN, 0.003, [0.99]), runs(NORMS, 0.1, [0.99], 10))
    assert (found.best_rate(PLAIN), found.largest_rate(NORMS)) == (0.01, 0.1)
    assert found.steps_to_best() == (390, 0.1, mean({0: 0.83, 1: 0.84}))
    assert spread(found.cells[NORMS, 1.0]) == "99.00 (one seed)"


def test_other_conditions_make_a_table_of_their_own() -> None:
    usual = runs(PLAIN, 0.01, [0.8]) | runs(NORMS, 0.1, [0.9]) | runs(NORMS, 0.1, [0.85], 100)
    changes: list[dict[str, Any]] = [{"amp": "bf16"}, {"aug": "none"}, {"dropout": 0.0}]
    more = {
        replace(run, **change): {**outcome, "top1": outcome["top1"] - 0.1}
        for change in changes
        for run, outcome in usual.items()
    }
    found = {each.conditions: each for each in grids(usual | more)}
    assert len(found) == 4
    assert found[Conditions()].gaps() == pytest.approx([0.1])
    assert found[Conditions("bf16")].plain_best == pytest.approx(0.7)
    said = {heading(each).partition(")")[2] for each in found.values()}
    assert said == {"", ", bfloat16", ", augmentation none", ", dropout 0 in both"}


def test_a_rate_with_fewer_seeds_is_a_bound_where_no_other_seed_could_change_it() -> None:
    known = runs(PLAIN, 0.01, [0.80, 0.82]) | runs(NORMS, 0.3, [0.801, 0.8, 0.9])
    (found,) = grids(known | runs(PLAIN, 0.03, [0.7]))
    # The other seed's might be 0.9 and more.
    assert (found.seeds, found.bounded(PLAIN), found.largest_rate(NORMS)) == (2, False, 0.3)
    # More seeds of one rate do not outvote.
    assert found.mean(found.cells[NORMS, 0.3]) == pytest.approx(0.8005)
    (other,) = grids(known | runs(PLAIN, 0.03, [0.1]))
    assert other.bounded(PLAIN)
    (open_above,) = grids(known | runs(PLAIN, 0.03, [0.1]) | runs(PLAIN, 0.1, [0.7]))
    assert not open_above.bounded(PLAIN)


def test_a_fold_that_changes_the_accuracy_is_counted() -> None:
    assert [folded == top for folded, top in grid().folded] == [False, False]
