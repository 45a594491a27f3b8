"""docs/reliability.md, from the records: every number on it is counted there."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.markdown import markdown
from benchmarks.reliability_words import BEGINNING, END, TITLES

__all__ = ["PAGE", "page"]

Record = Mapping[str, Any]

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
HEAD = ("", "tried", "faults", "the same done to", "faults of that", "command")


def page(records: Mapping[str, Record]) -> str:
    """The page as Markdown."""
    known = [records[name] for name in TITLES if name in records]
    parts = [
        f"{BEGINNING}\n\n{made(known)}".strip(),
        markdown(HEAD, [row(record) for record in known]),
        *(section(record) for record in known),
        END,
    ]
    return "\n\n".join(parts) + "\n"


def made(records: list[Record]) -> str:
    words = {
        f"torch {each['machine']['torch']}, Python {each['machine']['python']} on {each['machine']['cpu']}"
        for each in records
    }
    dates = sorted({each["date"] for each in records})
    span = " to ".join(dict.fromkeys(dates[:1] + dates[-1:]))
    return f"Taken on {span} with\n{'; '.join(sorted(words))}." if dates else ""


def row(record: Record) -> list[object]:
    title, other, _ = TITLES[record["section"]]
    control = record["control"]
    anchor = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -").replace(" ", "-")
    return [
        f"[{title}](#{anchor})",
        number(record["tried"]),
        f"**{number(record['faults'])}**",
        other,
        f"{number(control['faults'])} of {number(control['tried'])}",
        f"`{record['command']}`",
    ]


def section(record: Record) -> str:
    title, _, text = TITLES[record["section"]]
    words = [text, *MORE.get(record["section"], nothing_more)(record)]
    if "kinds" in record:
        words += [f"What came of it: {counts(record['kinds'])}."]
    if "kinds" in record["control"]:
        words += [f"Of the control: {counts(record['control']['kinds'])}."]
    return f"## {title}\n\n" + "\n\n".join(words)


def nothing_more(_: Record) -> list[str]:
    return []


def of_mutations(record: Record) -> list[str]:
    planted = record["planted"]
    return [
        f"""\
The files take {record["bytes"]:,} bytes together; the most memory that one case took was {record["most_mib"]} MiB.
*Other*: other tensors, as whoever makes the checksums right may have them. Of {planted["tried"]} faults planted in a
reader, one of each kind, {planted["faults"]} were seen."""
    ]


def of_hostile(record: Record) -> list[str]:
    payloads, bombs, control = record["payloads"], record["bombs"], record["control"]
    return [
        f"""\
{payloads["different"]} payloads ({payloads["tried"]} files: {counts(payloads["kinds"])}) and {bombs["different"]} bombs
({bombs["tried"]} files: {counts(bombs["kinds"])}; the most memory that one took was {bombs["most_mib"]} MiB).
*Other*: good weights were read from beside it.""",
        f"""\
Where pickles are trusted, {control["executed"]} of {control["payloads"]} payloads ran, and {control["blown"]} of
{control["bombs"]} bombs took more than the bounds, crashed or had no end.""",
    ]


def of_rivals(record: Record) -> list[str]:
    reads = f"{number(record['reads'])} times a whole file was read meanwhile"
    return [f"{number(record['tried'])} rounds, and {reads}. Of the control, what readers saw is counted too."]


MORE: dict[str, Callable[[Record], list[str]]] = {"mutations": of_mutations, "hostile": of_hostile, "rivals": of_rivals}


def counts(kinds: Mapping[str, int]) -> str:
    return "; ".join(f"{number(found)} {kind}" for kind, found in sorted(kinds.items(), key=lambda each: -each[1]))


def number(value: int) -> str:
    return f"{value:,}"
