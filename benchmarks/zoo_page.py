"""docs/coverage.md, from the records of the zoo: every number on it is counted here."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from benchmarks.markdown import markdown
from benchmarks.zoo_checks import FOLD_LIMIT, Record, misses
from benchmarks.zoo_list import GROUPS, Entry

__all__ = ["page"]

Codes = dict[str, str]

SUMMARY = (
    *("", "networks", "went through", "layers", "sites", "all layers accounted for", "bit-identical", "proved"),
    *("round trip bit for bit", "norms folded", "norms left", "fold error ÷ own: median, max"),
)
COLUMNS = (
    *("network", "input", "layers", "sites", "left alone", "accounted", "identical", "proved", "round trip"),
    *("norms folded", "norms left", "fold error", "own error", "seconds"),
)


def page(records: Sequence[Record], entries: Sequence[Entry]) -> str:
    """The page as Markdown.

    Args:
        records: One of each network that was taken.
        entries: All networks there are.
    """
    order = {entry.key: number for number, entry in enumerate(entries)}
    known = sorted((record for record in records if record["key"] in order), key=lambda each: order[each["key"]])
    skips, leaves = codes(known, skipped, "s"), codes(known, left, "l")
    parts = [
        introduction(known, len(entries)),
        summary(known, entries),
        missing(known),
        *(group(name, known, skips, leaves) for name in GROUPS),
        reasons("Layers that are left alone", "layers", known, skipped, skips),
        reasons("Norms of their own that fold leaves", "norms", known, left, leaves),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def introduction(records: Sequence[Record], total: int) -> str:
    state = (
        f"All {total} networks are in" if len(records) == total else f"**{len(records)} of {total} networks are in**"
    )
    taken = ""
    if records:
        minutes = sum(record["process_seconds"] for record in records) / 60
        dates = [record["date"] for record in records]
        span = " to ".join(sorted({min(dates), max(dates)}))
        made = "; ".join(sorted({words(record) for record in records}))
        taken = f", taken in {minutes:.0f} minutes ({span}) with\n{made}"
    return f"""# Coverage

What becomes of networks that were not made for this: all classifiers of torchvision, the smallest network of every
family of timm, torchvision's segmentation and video networks, and a detector whose backbone is retrofitted in its
place. This page is written by

    python -m benchmarks.zoo

{state}{taken}.

Weights are random, no tensor is left constant (a residual branch scaled by zero would hide what is wrong in it), and
BatchNorms have random scales, shifts and statistics, these near to what they are given. The input is the smallest that
the network takes; of timm's, those whose size is not fixed are given 128 px or what their configuration allows.

- *sites*: layers that get a BatchNorm; *left alone*: layers that do not, by [reason](#layers-that-are-left-alone);
  *accounted*: every conv and dense module is one or the other.
- *identical*: after `retrofit`, calibrated on four random samples, all outputs are equal bit for bit on others, one and
  three at a time; *proved*: `verify` proves them equal for every finite input.
- *round trip*: `fold` of the retrofitted network gives back every tensor, bit for bit, under its key.
- *norms folded*, *left*: the network's own, by [reason](#norms-of-their-own-that-fold-leaves). *Fold error* is that of
  the folded network, *own error* that of the unfolded one: both in float32 against the unfolded one in float64, largest
  difference over largest output. More than {FOLD_LIMIT:g} times its own would be listed as a miss.
- *seconds*: of the whole process, imports and comparisons included; the machine may have done other work besides."""


def words(record: Record) -> str:
    held = {**record["versions"], "Python": record["machine"]["python"]}
    return f"{', '.join(f'{name} {number}' for name, number in held.items())} on {record['machine']['cpu']}"


def summary(records: Sequence[Record], entries: Sequence[Entry]) -> str:
    rows = [
        counts(title, [each for each in records if each["group"] == name], sum(e.group == name for e in entries))
        for name, title in GROUPS.items()
    ]
    return f"## Summary\n\n{markdown(SUMMARY, [*rows, counts('**All**', records, len(entries))])}"


def counts(title: str, records: Sequence[Record], total: int) -> list[object]:
    planned = [record["plan"] for record in records if "plan" in record]
    folds = [record["fold"] for record in records if "fold" in record]
    ratios = [fold["ratio"] for fold in folds if isinstance(fold.get("ratio"), float)]
    return [
        title,
        f"{len(records)} of {total}",
        share(record["outcome"] == "done" for record in records),
        sum(plan["layers"] for plan in planned),
        sum(sum(plan["sites"].values()) for plan in planned),
        share(plan["accounted"] for plan in planned),
        share(record["identity"]["bit_identical"] for record in records if "identity" in record),
        share(record["proof"]["proved"] for record in records if "proof" in record),
        share(record["round_trip"]["bit_for_bit"] for record in records if "round_trip" in record),
        sum(fold["folded"] for fold in folds),
        sum(sum(fold["left"].values()) for fold in folds),
        f"{median(ratios):.2f}, {max(ratios):.2f}" if ratios else "",
    ]


def share(answers: Iterable[bool]) -> str:
    given = list(answers)
    return f"{sum(given)} of {len(given)}" if given else ""


def missing(records: Sequence[Record]) -> str:
    """Every network that does not show everything, with the reason."""
    rows = [(f"`{record['key']}`", sentence) for record in records for sentence in misses(record)]
    body = markdown(("network", "what is missing"), rows) if rows else "Nothing."
    return f"## What is missing\n\n{body}" if records else ""


def group(name: str, records: Sequence[Record], skips: Codes, leaves: Codes) -> str:
    rows = [row(record, skips, leaves) for record in records if record["group"] == name]
    return f"## {GROUPS[name]}\n\n{markdown(COLUMNS, rows)}" if rows else ""


def row(record: Record, skips: Codes, leaves: Codes) -> list[object]:
    plan, fold = record.get("plan"), record.get("fold", {})
    folds = bool(fold) and bool(fold["folded"] or fold["left"])
    return [
        title(record),
        "×".join(map(str, record.get("input", ()))),
        "" if plan is None else plan["layers"],
        "" if plan is None else sum(plan["sites"].values()),
        coded(skipped(record), skips),
        answer(record, "plan", "accounted"),
        answer(record, "identity", "bit_identical"),
        answer(record, "proof", "proved"),
        answer(record, "round_trip", "bit_for_bit"),
        fold["folded"] if folds else "",
        coded(left(record), leaves),
        exponential(fold.get("error")),
        exponential(fold.get("own_error")),
        f"{record['process_seconds']:.0f}",
    ]


def title(record: Record) -> str:
    name = record["key"].partition(":")[2] + (f", `{record['part']}`" if record["part"] else "")
    family = record["family"]
    return f"{family}: {name}" if family and family != name else name


def answer(record: Record, part: str, key: str) -> str:
    if part not in record:
        return "–"
    return "yes" if record[part][key] else "**no**"


def exponential(value: float | str | None) -> str:
    return "" if value is None else f"{float(value):.1e}"


def skipped(record: Record) -> dict[str, int]:
    return dict(record.get("plan", {}).get("skips", {}))


def left(record: Record) -> dict[str, int]:
    return dict(record.get("fold", {}).get("left", {}))


def codes(records: Iterable[Record], reasons_of: Callable[[Record], dict[str, int]], letter: str) -> Codes:
    """A short name for each reason, the most frequent first."""
    found: Counter[str] = Counter()
    for record in records:
        found.update(reasons_of(record))
    ranked = sorted(found, key=lambda reason: (-found[reason], reason))
    return {reason: f"{letter}{number}" for number, reason in enumerate(ranked, 1)}


def coded(found: dict[str, int], short: Codes) -> str:
    return ", ".join(f"{count} {short[reason]}" for reason, count in sorted(found.items(), key=lambda each: -each[1]))


def reasons(
    heading: str, what: str, records: Sequence[Record], reasons_of: Callable[[Record], dict[str, int]], short: Codes
) -> str:
    rows = []
    for reason, code in short.items():
        each = [count for record in records if (count := reasons_of(record).get(reason, 0))]
        rows.append((code, sum(each), len(each), reason))
    return f"## {heading}\n\n{markdown(('', what, 'networks', 'because'), rows) if rows else 'None.'}"
