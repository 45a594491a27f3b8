"""README.md does what it prints: its commands and its Python are run, away from the checkout, in their order."""

import re
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, Installed, finished
from tests.packaging.readme import blocks, commands, differs, program

OURS = re.compile(r"^bnretrofit\b")


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def told(readme: str, installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Run the console blocks once: the folder they ran in, and in what they differ from the README."""
    folder = tmp_path_factory.mktemp("readme")
    wrong = []
    for command in commands(readme):
        # Others (to install, to test) are what brought us here.
        if OURS.match(command.text):
            done = finished(["bash", "-euo", "pipefail", "-c", command.text], folder, installed.environment)
            if reason := differs(done.stdout, command.output):
                wrong.append(f"README.md:{command.line}: $ {command.text}\n{reason}")
    return folder, wrong


def test_it_shows_commands_and_python(readme: str) -> None:
    assert [command for command in commands(readme) if OURS.match(command.text)], "no ```console block runs bnretrofit"
    assert blocks(readme, "python"), "no ```python block"


def test_its_commands_print_what_it_shows(told: tuple[Path, list[str]]) -> None:
    wrong = told[1]
    assert not wrong, "\n\n".join(wrong)


def test_its_python_runs(readme: str, told: tuple[Path, list[str]], installed: Installed) -> None:
    # In the folder of the commands and after them: it may read what they wrote.
    folder = told[0]
    (folder / "README.md.py").write_text(program(readme), encoding="utf-8")
    Installed(installed.folder, folder).python("README.md.py")


EXAMPLE = """\
# Title
```console
$ bnretrofit plan m \\
    --json
8 sites in 3.25 s
sha256  0123456789abcdef0123456789abcdef
$ bnretrofit env
torch 2.15.0+cpu
…
done
```
text
```python
a = 1
```
```python
assert a == 1
```
"""


def test_commands_are_found_with_their_output_and_line() -> None:
    first, second = commands(EXAMPLE)
    assert (first.line, first.text) == (3, "bnretrofit plan m \\\n    --json")
    assert first.output.splitlines() == ["8 sites in 3.25 s", "sha256  0123456789abcdef0123456789abcdef"]
    assert (second.line, second.text) == (7, "bnretrofit env")
    assert second.output.splitlines() == ["torch 2.15.0+cpu", "…", "done"]


def test_python_stands_on_its_own_lines() -> None:
    lines = program(EXAMPLE).splitlines()
    readme = EXAMPLE.splitlines()
    assert [(number, line) for number, line in enumerate(lines) if line] == [
        (readme.index("a = 1"), "a = 1"),
        (readme.index("assert a == 1"), "assert a == 1"),
    ]


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("8 sites in 3.25 s", "8 sites in 12 s"),
        ("file  528.1 MB\n", "file 3 MB"),
        ("torch 2.15.0+cpu", "torch 2.10.1"),
        ("sha256 0123456789abcdef", "sha256 fedcba9876543210"),
        ("a\nb\nc\nd", "a\n…\nd"),
        ("a\nb", "…"),
        ("max error 1.2e-07", "max error 3e-08"),
        ("", ""),
    ],
)
def test_what_varies_is_no_difference(printed: str, shown: str) -> None:
    assert differs(printed, shown) == ""


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("8 sites", "7 sites"),
        ("top-1 57.3 %", "top-1 57.4 %"),
        ("proved", "not proved"),
        ("a\nb", "a"),
        ("a", "a\nb"),
        ("b\na", "a\nb"),
        ("a\nb\nc", "a\n…\nd"),
        ("a\nb\nc", "a\n…\nb"),
        ("a", ""),
        ("", "a"),
    ],
)
def test_a_difference_is_seen(printed: str, shown: str) -> None:
    assert differs(printed, shown)
