"""docs/peers.md: this project beside other tools, task by task, from the newest line of each benchmark's results."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import fold_costs
from benchmarks.insert_peers import HEAD, row
from benchmarks.markdown import markdown
from benchmarks.measuring import RESULTS
from benchmarks.peers_summary import aims, in_one_table, ratio

__all__ = ["page", "write_page"]

PAGE = Path(__file__).parents[1] / "docs" / "peers.md"
Record = dict[str, Any]

BEGINNING = """\
# Beside other tools

Written by `python -m benchmarks.tables` from the newest line each of `benchmarks/results/insert_peers.jsonl`,
`calibration.jsonl`, `fold_peers.jsonl` and `fold_costs.jsonl`. What the contenders do, and how each figure is taken, is
in [benchmarks/README.md](../benchmarks/README.md). The peers come with the extra `[bench]`; one that is not installed
is said to be missing."""

ONE_TABLE = """\
## Each tool in one row

The largest error over all networks, the sum of the least seconds over them by the clock, the largest peak of memory.
Those that insert norms and those that fold them are different tools, on the networks of the sections below; *wrong or
raised, refused* counts the small networks that break folding tools. torch's `update_bn` and fvcore measure in training
mode, in which each norm divides by its batch's statistics: behind the first layer they see another network, and are
held against what they do see under *Measuring statistics*."""

VERDICTS = {
    "exact": "no norm left, off by rounding",
    "refused": "right, norms left",
    "wrong": "off by more than 1e-4",
    "raised": "an exception",
    "not installed": "",
}


RECORDS = ("insert_peers", "calibration", "fold_peers", "fold_costs")


def write_page() -> None:
    """Write the page."""
    PAGE.write_text(page(*map(newest, RECORDS)))
    print(f"written: docs/{PAGE.name}")


def newest(name: str) -> Record | None:
    """The last line of a benchmark's results; None where there is none."""
    path = RESULTS / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return json.loads(lines[-1]) if lines else None


def page(
    inserted: Record | None, calibrated: Record | None, folded: Record | None, fold_cost: Record | None = None
) -> str:
    """The page's text; a task that was not measured is left out."""
    parts = [BEGINNING]
    if any(record is not None for record in (inserted, calibrated, folded, fold_cost)):
        parts += ["## What was aimed at", *aims(inserted, calibrated, folded), ONE_TABLE]
        parts += in_one_table(inserted, folded, fold_cost)
    for record, title, section in (
        (inserted, "Putting norms in without changing anything", insertion),
        (calibrated, "Measuring statistics", statistics),
        (folded, "Folding the networks that break folding tools", folding),
        (fold_cost, "What folding ordinary networks costs", costs),
    ):
        if record is not None:
            parts += [f"## {title}", *section(record), origin(record)]
    return "\n\n".join(parts) + "\n"


def insertion(record: Record) -> list[str]:
    """A table for each network."""
    parts = []
    for network, contenders in record["networks"].items():
        rows = [[str(cell) for cell in row(name, figures)] for name, figures in contenders.items()]
        parts += [f"### {network}", markdown(list(HEAD), rows)]
    return parts


def statistics(record: Record) -> list[str]:
    """Time over the plain forward pass, and errors against float64."""
    head = ["contender", "÷ forward: least (median)", "calibrate ÷ it: least (median)", "peak MiB"]
    rows = [
        [name, ratio(figures["over_fastest_forward"]), ratio(figures["calibrate_over_it"]), str(figures["peak_mib"])]
        for name, figures in record["time"]["contenders"].items()
    ]
    errors = [
        [name, *(f"{figures[key]:.1e}" for key in ("mean_max", "var_median", "var_max"))]
        for kind in ("network_error", "layer_error")
        for name, figures in record[kind].items()
    ]
    said = f"{record['model']}, {record['images']} images of {record['img_size']} px."
    return [
        said,
        markdown(head, rows),
        markdown(["statistics of", "mean, largest", "variance, median", "largest"], errors),
    ]


def folding(record: Record) -> list[str]:
    """How each tool fares over all networks, and every network."""
    outcomes = record["outcomes"]
    tools = list(dict.fromkeys(outcome["tool"] for outcome in outcomes))
    counts = {tool: Counter(outcome["verdict"] for outcome in outcomes if outcome["tool"] == tool) for tool in tools}
    seen = [verdict for verdict in VERDICTS if any(counts[tool][verdict] for tool in tools)]
    head = ["tool", *(f"{verdict}: {VERDICTS[verdict]}" if VERDICTS[verdict] else verdict for verdict in seen)]
    totals = [[tool, *(str(counts[tool][verdict]) for verdict in seen)] for tool in tools]
    by_case = {(outcome["case"], outcome["tool"]): outcome for outcome in outcomes}
    cases = list(dict.fromkeys(outcome["case"] for outcome in outcomes))
    rows = [[case, *(_cell(by_case[case, tool]) for tool in tools)] for case in cases]
    return [markdown(head, totals), markdown(["network", *tools], rows)]


def costs(record: Record) -> list[str]:
    """A table for each network."""
    parts = []
    for network, tools in record["networks"].items():
        rows = [[str(cell) for cell in fold_costs.row(name, figures)] for name, figures in tools.items()]
        parts += [f"### {network}", markdown(list(fold_costs.HEAD), rows)]
    return parts


def _cell(outcome: Record) -> str:
    error = outcome["error"]
    return outcome["verdict"] if error is None else f"{outcome['verdict']} {error:.1e}"


def origin(record: Record) -> str:
    """The command, the machine, the versions."""
    machine = record["machine"]
    peers = ", ".join(f"{name} {version}" for name, version in record.get("peers", {}).items() if version)
    # Of the last minute before it, and of its end.
    loads = [record[key][0] for key in ("load_before", "load_after") if key in record]
    load = f"; load average {min(loads)} to {max(loads)}" if loads else ""
    made = f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}{', ' + peers if peers else ''}"
    return f"`{record['command']}`, {record['date']}: {made}{load}."
