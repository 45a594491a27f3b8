"""README.md as something that can be run: its blocks, and the rule by which printed text is compared.

A ```console block is lines of ``$ command`` (a backslash carries it on to the next line), each followed by what it
prints on stdout; a ```python block is a part of one program. Blocks of any other language are for reading only.
"""

import re
from dataclasses import dataclass

__all__ = ["Block", "Command", "blocks", "commands", "differs", "normalised", "program"]

FENCE = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
# A command reaches to the first line that does not end in a backslash, and its output to the next command.
COMMAND = re.compile(r"^\$ (?P<text>(?:.*\\\n)*.*)\n?(?P<output>(?:(?!\$ ).*\n?)*)", re.MULTILINE)

# What differs from machine to machine, or from release to release of somebody else, and would make a true README fail.
# A figure with none of these signs is compared as it stands.
VARYING = (
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "<hash>"),
    (re.compile(r"\b\d+(\.\d+){2,}([.+-]\w+)*"), "<version>"),
    (re.compile(r"\b\d[\d,]*(\.\d+)? ?(ms|s|min|kB|KB|MB|GB|KiB|MiB|GiB|bytes|images/s)\b"), r"<number> \2"),
    (re.compile(r"\b\d+(\.\d+)?e[-+]?\d+\b"), "<error>"),
)
# A line that holds only this stands for any number of printed lines.
ELLIPSIS = "…"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, its text, and the number of its first line in the README, from 1."""

    language: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Command:
    """A shell line of a console block, what the block says it prints, and where it stands."""

    line: int
    text: str
    output: str


def blocks(readme: str, language: str) -> list[Block]:
    """The fenced blocks of one language, in order."""
    found = FENCE.finditer(readme)
    return [
        Block(language, match["text"], readme.count("\n", 0, match.start("text")) + 1)
        for match in found
        if match["language"] == language
    ]


def commands(readme: str) -> list[Command]:
    """The commands of all console blocks, in order."""
    found: list[Command] = []
    for block in blocks(readme, "console"):
        for match in COMMAND.finditer(block.text):
            line = block.line + block.text.count("\n", 0, match.start())
            found.append(Command(line, match["text"], match["output"]))
    return found


def program(readme: str) -> str:
    """The python blocks as one program, each on the lines it has in the README, so that a traceback points there."""
    lines: list[str] = []
    for block in blocks(readme, "python"):
        lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
    return "\n".join(lines) + "\n"


def normalised(text: str) -> list[str]:
    """The lines of a text without what varies, without its layout (a column follows its widest cell) or empty lines."""
    for pattern, name in VARYING:
        text = pattern.sub(name, text)
    # Rules under and around tables are as wide as their columns.
    text = re.sub(r"([-─═]){3,}", r"\1", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def differs(printed: str, shown: str) -> str:
    """Why a command's output is not what the README shows, or nothing if it is.

    Args:
        printed: what the command wrote to stdout.
        shown: the block's text, in which a line ``…`` stands for any number of lines.
    """
    lines, position, anywhere = normalised(printed), 0, False
    for expected in normalised(shown):
        if expected == ELLIPSIS:
            anywhere = True
            continue
        end = len(lines) if anywhere else position + 1
        if expected not in lines[position:end]:
            return f"expected {expected!r}, and printed from there:\n" + "\n".join(lines[position:])
        position, anywhere = lines.index(expected, position) + 1, False
    if position < len(lines) and not anywhere:
        return "printed and not shown:\n" + "\n".join(lines[position:])
    return ""
