"""The cases themselves: each seed gives the same one, payloads differ, and the page says what the records say."""

from pathlib import Path

import pytest

from benchmarks.reliability_bases import Base, bases
from benchmarks.reliability_bombs import BOMBS
from benchmarks.reliability_containers import CONTAINERS
from benchmarks.reliability_mutations import damaged, flipped
from benchmarks.reliability_opcodes import begun, pieces
from benchmarks.reliability_page import page
from benchmarks.reliability_payloads import PAYLOADS, Target
from benchmarks.reliability_words import TITLES


@pytest.fixture(scope="module")
def known() -> dict[str, Base]:
    return bases()


def test_a_seed_gives_the_same_case_each_time(known: dict[str, Base]) -> None:
    for seed in range(200):
        first, second = damaged(seed, known), damaged(seed, bases() if seed == 0 else known)
        assert (first.base.name, first.file, first.edit, first.data) == (
            second.base.name,
            second.file,
            second.edit,
            second.data,
        )


def test_every_base_and_level_is_met(known: dict[str, Base]) -> None:
    cases = [damaged(seed, known) for seed in range(400)]
    assert {case.base.name for case in cases} == set(known)
    assert {case.level for case in cases} == {"bytes", "header", "zip", "pickle"}
    changed = [case for case in cases if case.data != case.base.files[case.file]]
    assert len(changed) > 0.9 * len(cases)


def test_a_flip_is_one_bit(known: dict[str, Base]) -> None:
    single = {name: base for name, base in known.items() if len(base.files) == 1}
    for seed in range(50):
        case = flipped(seed, single)
        old = case.base.files[case.file]
        assert sum((a ^ b).bit_count() for a, b in zip(old, case.data, strict=True)) == 1


def test_a_pickle_taken_apart_is_put_together_again(known: dict[str, Base]) -> None:
    data = known["stream"].files["old.pth"]
    parts = pieces(data)
    assert b"".join(part.raw for part in parts) == data[: sum(len(part.raw) for part in parts)]
    assert parts[-1].name == "STOP"


def test_payloads_and_bombs_differ(tmp_path: Path) -> None:
    target = Target(tmp_path / "marker", tmp_path)
    target.prepare()
    bodies = [payload(target) for payload in PAYLOADS.values()]
    assert len(set(bodies)) == len(PAYLOADS) >= 40
    assert len({bomb() for bomb in BOMBS.values()}) == len(BOMBS)
    assert len(CONTAINERS) == 5
    assert all(begun(body).endswith(b".") for body in bodies)


def test_the_page_says_what_the_records_say() -> None:
    head = {"date": "2026-01-02", "command": "do it", "machine": {"torch": "2", "python": "3", "cpu": "one"}}
    body = {"tried": 12345, "faults": 67, "kinds": {"same": 12278}, "control": {"tried": 89, "faults": 21}}
    written = page({"flips": {"section": "flips", **head, **body}})
    for figure in ("12,345", "**67**", "21 of 89", "12,278 same", "`do it`", "2026-01-02"):
        assert figure in written
    assert all(f"## {TITLES[name][0]}" not in written for name in TITLES if name != "flips")
