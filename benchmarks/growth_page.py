"""docs/growth.md and its plots, from the lines that there are: every number on it is counted there."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.growth_fit import BEND, STRAIGHT, Fit
from benchmarks.growth_networks import chain
from benchmarks.growth_plots import LABELS, draw
from benchmarks.growth_points import BASE, FOLD_FILE, VERBS, Point
from benchmarks.growth_records import RECORDS, Known, newest
from benchmarks.growth_series import Series, all_series
from benchmarks.growth_verbs import FLOORS
from benchmarks.markdown import markdown

__all__ = ["write_page"]

DOCS = Path(__file__).parents[1] / "docs"
SHOWN = 0.02
"""A phase with a smaller share is not shown."""

BEGINNING = f"""\
# Cost and growth

How the cost of each verb grows with the network and the images, and how far it is from what cannot be avoided. Written
by

    python -m benchmarks.growth

from `benchmarks/results/growth.jsonl`, one line per point.

The network is a chain of equal 3x3 convolutions with ReLUs, then average pooling and a dense layer; weights are random,
images noise. Costs are seconds of processor time of one thread in the quickest round; memory that is freed stays with
the process. Unless it says otherwise: {BASE.depth} convolutions of {BASE.width} channels,
{BASE.images} images of {BASE.pixels} px in batches of {BASE.batch_size}.

- *last*: the exponent between the last two points alone, where what grows fastest shows most.
- *exponent*: of the power that fits all points, by least squares of the logarithms, and its standard error: 1 is in
  proportion, 0 is no growth. There is *no line* where a point lies off that power by more than a factor of
  {STRAIGHT:g}, or *last* differs by more than {BEND:g} (a fixed cost weighs less and less, for instance): how far
  points are off is said instead.
- *÷ floor*: cost over the floor's at the largest point, within a round: the least and, in brackets, the median.
- *dominated by*: the phase with the largest share at the largest point; below, all with {SHOWN:.0%} or more, and in
  brackets the exponent of that phase alone between the last two points."""

SUMMARY = ("", *LABELS.values())
COLUMNS = ("", "from, to", "exponent", "last", "the floor's", "last", "seconds at the end", "÷ floor", "dominated by")


def write_page(records: Path = RECORDS, docs: Path = DOCS) -> None:
    """Write the page and the plots.

    Args:
        records: The lines.
        docs: The folder of the page.
    """
    known = newest(records)
    found = all_series(known)
    parts = [BEGINNING, *made(known), *([summary(found)] if found else [])]
    for verb in VERBS:
        mine = [series for series in found if series.verb == verb]
        if mine:
            plot = docs / f"growth_{verb.replace(' ', '_')}.svg"
            draw(mine, plot)
            parts += section(verb, mine, plot.name)
    (docs / "growth.md").write_text("\n\n".join(parts) + "\n")
    print(f"written: {docs.name}/growth.md")


def made(known: Known) -> list[str]:
    dates = sorted({line["date"] for line in known.values()})
    words = sorted(
        {
            f"torch {each['torch']}, Python {each['python']} on one thread of {each['cpu']}"
            for each in (line["machine"] for line in known.values())
        }
    )
    return [f"Taken on {' to '.join(dict.fromkeys((dates[0], dates[-1])))} with {'; '.join(words)}."] if dates else []


def summary(found: Sequence[Series]) -> str:
    """Exponents alone, the floor's in brackets."""
    by_place = {(series.verb, series.quantity): series for series in found}
    rows: list[list[object]] = []
    for verb in dict.fromkeys(series.verb for series in found):
        cells = [by_place.get((verb, quantity)) for quantity in LABELS]
        rows.append([f"**{verb}**", *("" if each is None else both(each) for each in cells)])
    words = "The exponent between the last two points alone where it says *to*: there is no line through all. "
    words += (
        "Empty where a verb takes no such thing: plans and folds look at one example, ranks share calibration alone."
    )
    return f"## Exponents, and in brackets the floor's\n\n{words}\n\n{markdown(SUMMARY, rows)}"


def both(series: Series) -> str:
    return f"{short(series.fit)} ({short(series.floor_fit)})"


def short(fit: Fit) -> str:
    """Where there is no line, what it comes to at the end."""
    return number(fit.exponent) if fit.straight else f"to {number(fit.last)}"


def section(verb: str, found: Sequence[Series], plot: str) -> list[str]:
    busiest = " Of several ranks, the cost is the busiest one's." if any(s.quantity == "ranks" for s in found) else ""
    files = [file_sentence(series) for series in found if verb == FOLD_FILE]
    return [
        f"## {verb}",
        f"{FLOORS[verb]}.{busiest}",
        f"![processor time of {verb}]({plot})",
        markdown(COLUMNS, [row(series) for series in found]),
        *([" ".join(files)] if files else []),
        phases(found),
    ]


def row(series: Series) -> list[object]:
    over, (phase, share) = series.over_floor(), next(iter(series.shares().items()))
    return [
        LABELS[series.quantity] + fixed(series.points[0], series.quantity),
        f"{series.sizes[0]}, {series.sizes[-1]}",
        exponent(series.fit),
        number(series.fit.last),
        exponent(series.floor_fit),
        number(series.floor_fit.last),
        f"{series.costs[-1]:.3g}",
        times(over),
        f"{phase}, {share:.0%}",
    ]


def fixed(point: Point, quantity: str) -> str:
    """What is otherwise than the page's beginning says."""
    words = {**LABELS, "pixels": "px"}
    usual = asdict(BASE)
    more = [
        f"{value} {words[name]}"
        for name, value in asdict(point).items()
        if name in words and name != quantity and value != usual[name]
    ]
    return f" ({', '.join(more)})" if more else ""


def exponent(fit: Fit) -> str:
    return f"{number(fit.exponent)} ± {fit.error:.2f}" if fit.straight else f"no line (×{fit.off:.2f})"


def times(over: Mapping[str, float]) -> str:
    """Least and median."""
    least, median = (f"{over[which]:.2f}" if over[which] < 10 else f"{over[which]:,.0f}" for which in ("min", "median"))
    return f"{least} ({median})"


def number(value: float) -> str:
    """Without the sign of what is rounded to nothing."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def file_sentence(series: Series) -> str:
    wall, megabytes = series.over_floor("wall"), file_bytes(series.points[-1]) / 1e6
    return (
        f"At {series.sizes[-1]} {LABELS[series.quantity]} the file has {megabytes:.1f} MB, and by the clock, which "
        f"counts waiting for the disk, the ratio is {times(wall)}."
    )


def file_bytes(point: Point) -> int:
    with torch.device("meta"):
        return sum(tensor.nbytes for tensor in chain(point.depth, point.width, norms=True).state_dict().values())


def phases(found: Sequence[Series]) -> str:
    """Shares at each series' largest point, the largest share of any first."""
    shares = [series.shares() for series in found]
    names = {phase: max(each.get(phase, 0.0) for each in shares) for each in shares for phase in each}
    rows: list[list[object]] = [
        [phase, *(share_cell(series, each, phase) for series, each in zip(found, shares, strict=True))]
        for phase, most in sorted(names.items(), key=lambda each: -each[1])
        if most >= SHOWN
    ]
    head = (f"at {series.sizes[-1]} {LABELS[series.quantity]}" for series in found)
    return markdown(("share of the processor time", *head), rows)


def share_cell(series: Series, shares: dict[str, float], phase: str) -> str:
    share, last = shares.get(phase, 0.0), series.last_exponent(phase)
    # Of next to nothing no growth can be told.
    return f"{share:.0%}" + (f" ({number(last)})" if last is not None and share >= SHOWN else "")
