"""Each tool in one row, whatever it does; and how far this project's aims are reached, from the same records."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.calibration import CALIBRATE
from benchmarks.fold_peers import OURS as OUR_FOLD
from benchmarks.insert_measuring import OURS as OUR_INSERTION
from benchmarks.markdown import markdown

__all__ = ["aims", "in_one_table", "ratio"]

Record = dict[str, Any]
HEAD = (
    "tool",
    "error of the identity",
    "of the statistics",
    "of the fold",
    "wrong or raised, refused",
    "seconds",
    "peak MiB",
)
IDENTITY, CALIBRATION = 1e-5, 1.10
"""Peers' errors of the identity are to be above the one, calibration at most the other, over the plain forward pass."""


def in_one_table(inserted: Record | None, folded: Record | None, fold_cost: Record | None) -> list[str]:
    """The largest error over the networks; seconds and memory over all of them."""
    rows = [] if inserted is None else [_insertion(name, each) for name, each in _by_tool(inserted).items()]
    known = {} if fold_cost is None else _by_tool(fold_cost)
    outcomes = [] if folded is None else folded["outcomes"]
    tools = list(dict.fromkeys([*(outcome["tool"] for outcome in outcomes), *known]))
    rows += [_fold(tool, known.get(tool, []), [each for each in outcomes if each["tool"] == tool]) for tool in tools]
    return [markdown(list(HEAD), rows)]


def _by_tool(record: Record) -> dict[str, list[Record]]:
    """The figures of each tool that has any, network by network."""
    tools = dict.fromkeys(name for figures in record["networks"].values() for name in figures)
    each = {tool: [figures[tool] for figures in record["networks"].values() if tool in figures] for tool in tools}
    return {tool: [figures for figures in found if "said" not in figures] for tool, found in each.items()}


def _insertion(tool: str, found: list[Record]) -> list[str]:
    statistics = [each["statistics"]["var_max"] for each in found if each["statistics"]]
    seconds = sum(min(wall for wall, _ in each["insertion_seconds"]) for each in found)
    if not found:
        return [tool, "not measured", *[""] * (len(HEAD) - 2)]
    return [
        tool,
        _largest([each["error"] for each in found]),
        _largest(statistics),
        "",
        "",
        f"{seconds:.1f}",
        _most(found),
    ]


def _fold(tool: str, found: list[Record], outcomes: list[Record]) -> list[str]:
    verdicts = [outcome["verdict"] for outcome in outcomes]
    bad, refused = sum(each in ("wrong", "raised") for each in verdicts), verdicts.count("refused")
    counts = f"{bad}, {refused}" if verdicts and "not installed" not in verdicts else ""
    if not found:
        return [tool, "", "", "not measured", counts, "", ""]
    seconds = sum(min(wall for wall, _ in each["seconds"]) for each in found)
    return [tool, "", "", _largest([each["error"] for each in found]), counts, f"{seconds:.1f}", _most(found)]


def _largest(errors: list[float | None]) -> str:
    known = [error for error in errors if error is not None]
    return "not finite" if len(known) < len(errors) else f"{max(known):.1e}" if known else ""


def _most(found: list[Record]) -> str:
    peaks = [each["peak_mib"] for each in found if each["peak_mib"] is not None]
    return str(max(peaks)) if peaks else ""


def aims(inserted: Record | None, calibrated: Record | None, folded: Record | None) -> list[str]:
    """What this project aims at beside other tools, and whether it is so."""
    parts: list[tuple[Record | None, Callable[[Record], list[list[str]]]]] = [
        (inserted, _aims_of_insertion),
        (calibrated, _aims_of_calibration),
        (folded, _aims_of_folding),
    ]
    rows = [row for record, rows_of in parts if record is not None for row in rows_of(record)]
    return [markdown(["aim", "reached", "figure"], rows)]


def _aims_of_insertion(record: Record) -> list[list[str]]:
    found = _by_tool(record)
    ours = [each["error"] for each in found.get(OUR_INSERTION, [])]
    theirs = {tool: max(each["error"] or 0.0 for each in some) for tool, some in found.items() if some}
    near = [
        f"{tool} {error:.1e}"
        for tool, error in theirs.items()
        if tool != OUR_INSERTION and error <= IDENTITY and all(each["error"] is not None for each in found[tool])
    ]
    return [
        ["the inserted norms change no bit", _yes(bool(ours) and not any(ours)), f"{len(ours)} networks"],
        [f"every peer's change is above {IDENTITY:g}", _yes(not near), f"not: {', '.join(near)}" if near else ""],
        *_statistics_over_forward(record),
    ]


def _statistics_over_forward(record: Record) -> list[list[str]]:
    """Measuring statistics, over the plain forward pass (NCHW), beside every peer that measures them apart."""
    rows = []
    for network, tools in record["networks"].items():
        found = {tool: each["over_forward"]["statistics"] for tool, each in tools.items() if _measures(each)}
        if OUR_INSERTION in found:
            aim = f"{network}: calibration at most {CALIBRATION:.2f} of the plain forward pass, and under every peer"
            rows.append([aim, *_calibration(found, OUR_INSERTION)])
    return rows


def _measures(figures: Mapping[str, Any]) -> bool:
    return "statistics" in figures.get("over_forward", {})


def _aims_of_calibration(record: Record) -> list[list[str]]:
    over = {name: each["over_fastest_forward"] for name, each in record["time"]["contenders"].items()}
    found = {name: each for name, each in over.items() if not name.startswith("forward")}
    aim = f"{record['model']}, {record['img_size']} px: the same, of the forward pass in the faster layout"
    return [[aim, *_calibration(found, CALIBRATE)]]


def _calibration(found: Mapping[str, Mapping[str, float]], mine: str) -> tuple[str, str]:
    """Whether it is so, judged by the medians, and the figures."""
    peers = {tool: each for tool, each in found.items() if tool != mine}
    ours = found[mine]["median"]
    reached = ours <= CALIBRATION and all(ours < each["median"] for each in peers.values())
    told = [ratio(found[mine]), *(f"{tool} {ratio(each)}" for tool, each in peers.items())]
    return _yes(reached), "; ".join(told)


def ratio(figures: Mapping[str, float]) -> str:
    """Least and, in brackets, median."""
    return f"{figures['min']:.2f} ({figures['median']:.2f})"


def _aims_of_folding(record: Record) -> list[list[str]]:
    wrong: dict[str, int] = {}
    for outcome in record["outcomes"]:
        wrong.setdefault(outcome["tool"], 0)
        wrong[outcome["tool"]] += outcome["verdict"] in ("wrong", "raised")
    none = [tool for tool, count in wrong.items() if not count and tool != OUR_FOLD]
    return [
        ["no wrong fold", _yes(not wrong.get(OUR_FOLD, 0)), ""],
        ["each peer has at least one", _yes(not none), f"not: {', '.join(none)}" if none else ""],
    ]


def _yes(reached: bool) -> str:  # noqa: FBT001 - it is what is put into words
    return "yes" if reached else "no"
