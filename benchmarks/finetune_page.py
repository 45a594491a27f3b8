"""docs/finetuning_figures.md and its plots, from all runs that were made: every number on it is counted there."""

import statistics
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.finetune_runs import NORMS, PLAIN, Conditions, Outcome, Run, known
from benchmarks.finetune_subjects import SUBJECTS
from benchmarks.finetune_tables import Grid, grids, mean, spread
from benchmarks.markdown import markdown
from benchmarks.step_cost_page import cost_parts

__all__ = ["write_page"]

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "finetuning_figures.md"
COLOURS = {PLAIN: "tab:orange", NORMS: "tab:blue"}

BEGINNING = """\
# What norms bring in fine-tuning

Written by `python -m benchmarks.finetune page` from `benchmarks/results/finetune_runs.jsonl`, one line per run; the
commands that make the runs are in [benchmarks/README.md](../benchmarks/README.md). Networks that were trained without
norms go on training as they are (*plain*) and with norms that this project has inserted (*retrofitted*): the same
images in the same order, the same settings, the same budget. SGD with Nesterov's momentum 0.9, weight decay 5e-4,
5 % warm-up, cosine; mirrored and shifted images for CIFAR-10, resized crops for imagenette. Runs were made on more than
one kind of processor.

Top-1 accuracy on test images in per cent with the weights of the last epoch: the mean over seeds, and in brackets the
least and the most. A rate *trains* (✓) if its mean is within a point of the plain network's best at the same budget.
Rates that fewer seeds were tried at are shown, and decide nothing but what no other seed could change. By the test
images the best rate of each network was chosen, among those of the table, and of the smaller budgets the smallest that
was enough, of those that are named."""


def write_page() -> None:
    """Write the page and the plots."""
    made = known()
    parts = [BEGINNING]
    subject = ""
    for grid in grids(made):
        parts += [f"## {grid.subject}"] if grid.subject != subject else []
        subject = grid.subject
        parts += section(grid)
    parts += batches(made) + cost_parts()
    PAGE.write_text("\n\n".join(parts) + "\n")
    print(f"written: docs/{PAGE.name}")


def section(grid: Grid) -> list[str]:
    """Table, plot and figures of a budget."""
    plot = DOCS / f"{'_'.join(['finetuning', grid.subject, str(grid.epochs), *unusual(grid.conditions)])}.svg"
    draw(grid, plot)
    return [heading(grid), rates_table(grid), f"![accuracy by learning rate]({plot.name})", *figures(grid)]


def heading(grid: Grid) -> str:
    budget = f"{grid.epochs} epoch{'s' if grid.epochs > 1 else ''}"
    images = SUBJECTS[grid.subject].batch_size
    return ", ".join([f"### {budget} ({grid.steps} steps of {images} images)", *unusual(grid.conditions).values()])


def unusual(conditions: Conditions) -> dict[str, str]:
    """What differs from the command's defaults: a word for a file's name, and how it is said."""
    amp, aug, dropout = conditions
    said = {amp: "bfloat16"} if amp != "no" else {}
    said |= {f"aug_{aug}": f"augmentation {aug}"} if aug != "auto" else {}
    return said | ({"dropout": f"dropout {dropout:g} in both"} if dropout is not None else {})


def rates_table(grid: Grid) -> str:
    rows = [[f"{rate:g}", *(cell(grid, norms, rate) for norms in (PLAIN, NORMS))] for rate in grid.rates]
    return markdown(["learning rate", PLAIN, NORMS], rows)


def cell(grid: Grid, norms: str, rate: float) -> str:
    values = grid.cells.get((norms, rate))
    if values is None:
        return ""
    return spread(values) + (" ✓" if grid.trains(norms, rate) else "")


def figures(grid: Grid) -> list[str]:
    plain, norms = grid.largest_rate(PLAIN), grid.largest_rate(NORMS)
    gaps = [100 * gap for gap in grid.gaps()]
    lines = []
    if plain and norms and grid.bounded(PLAIN) and (norms > plain or grid.bounded(NORMS)):
        more = "" if grid.bounded(NORMS) else " at least"
        lines.append(
            f"- largest rate that trains: {plain:g} plain, {norms:g} retrofitted,{more} {norms / plain:.3g} times"
        )
    best = [f"{spread(grid.cells[of, grid.best_rate(of)])} at {grid.best_rate(of):g} {of}" for of in (PLAIN, NORMS)]
    lines.append(f"- best accuracy: {best[0]}, {best[1]}")
    if gaps:
        each = ", ".join(f"{gap:+.2f}" for gap in gaps)
        lines.append(f"- retrofitted over plain, each at its best rate: {statistics.mean(gaps):+.2f} points ({each})")
    lines.append(f"- {steps_sentence(grid)}")
    equal = sum(folded == unfolded for folded, unfolded in grid.folded)
    refused = sum(folded is None for folded, _ in grid.folded)
    said = f", {refused} folds refused" if refused else ""
    lines.append(f"- folded into the stock architecture: the same accuracy in {equal} of {len(grid.folded)} runs{said}")
    return ["\n".join(lines)]


def steps_sentence(grid: Grid) -> str:
    found = grid.steps_to_best()
    tried = "budgets tried: " + ", ".join(map(str, sorted({steps for steps, _ in grid.shorter} | {grid.steps})))
    if found is None:
        return f"the plain network's best, {100 * grid.plain_best:.2f}, is not reached ({tried})"
    steps, rate, accuracy = found
    share = f"{steps / grid.steps:.2f} of the {grid.steps} steps"
    return f"steps to the plain network's best: {steps}, {share}, at {rate:g} ({100 * accuracy:.2f}; {tried})"


def draw(grid: Grid, path: Path) -> None:
    """Accuracy by rate, with bars from the least to the most."""
    figure = Figure(figsize=(6.4, 3.6), layout="tight")
    axis: Any = figure.subplots()
    for norms, colour in COLOURS.items():
        rates = [rate for rate in grid.rates if (norms, rate) in grid.cells]
        values = [grid.cells[norms, rate] for rate in rates]
        middle = [100 * mean(each) for each in values]
        low, high = ([100 * end(v or 0.0 for v in each.values()) for each in values] for end in (min, max))
        bars = [[a - b for a, b in zip(middle, low, strict=True)], [b - a for a, b in zip(middle, high, strict=True)]]
        axis.errorbar(rates, middle, yerr=bars, color=colour, marker="o", capsize=3, label=norms)
    axis.axhline(100 * grid.plain_best - 1, color="grey", linestyle=":", label="trains from here on")
    axis.set_xscale("log")
    # What diverged lies far below: the axis shows where training works.
    axis.set_ylim(bottom=100 * grid.plain_best - 12)
    axis.set_xlabel("learning rate")
    axis.set_ylabel("top-1, %")
    axis.legend()
    axis.grid(alpha=0.3)
    # The same runs give the same bytes.
    with rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None})


def batches(made: dict[Run, Outcome]) -> list[str]:
    """Batch statistics against frozen ones by batch size, each at its best rate; a table per network and budget."""
    cells: dict[tuple[str, int], dict[tuple[int, str, float], dict[int, float | None]]] = {}
    for run, outcome in made.items():
        if run.steps is not None and run.norms == NORMS and run.conditions == Conditions():
            table = cells.setdefault((run.subject, run.steps * run.batch_size), {})
            table.setdefault((run.batch_size, run.bn_stats, run.rate), {})[run.seed] = outcome["top1"]
    parts = []
    for (subject, images), table in sorted(cells.items()):
        sizes = sorted({size for size, kind, _ in table if kind == "frozen"})
        if sizes:
            rows = [[str(size), *(best_of(table, size, kind) for kind in ("frozen", "batch"))] for size in sizes]
            head = ["images per batch", "frozen statistics", "batch statistics"]
            title = f"## Batch statistics or frozen ones: {subject}, {images:,} images"
            parts += [title, markdown(head, rows)]
    return parts


def best_of(table: dict[tuple[int, str, float], dict[int, float | None]], size: int, kind: str) -> str:
    rates = [rate for at, of, rate in table if (at, of) == (size, kind)]
    rate = max(rates, key=lambda rate: mean(table[size, kind, rate]), default=None)
    return "" if rate is None else f"{spread(table[size, kind, rate])} at {rate:g}"
