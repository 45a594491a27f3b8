"""`bnretrofit study`: lists the claims, tries one, draws it, and refuses what it cannot do."""

from pathlib import Path

import pytest

from bnretrofit.studies.catalogue import STUDIES
from tests.commands.running import TRAIN, VAL, run


def test_without_a_name_it_lists_all_claims() -> None:
    done = run("study")
    assert done.code == 0
    assert all(name in done.out for name in STUDIES)
    assert [each["name"] for each in run("study", "--json").document["studies"]] == list(STUDIES)


def test_it_tells_and_draws_what_it_found(tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    done = run("study", "history", "-o", plot)
    assert done.code == 0
    assert "No. With gamma = variance the outputs move by" in done.out
    assert plot.read_text().startswith("<?xml")
    again = run("study", "history", "-o", plot)
    assert again.code == 2
    assert "exists" in again.error


def test_json_is_one_document() -> None:
    done = run("study", "speed", "--seeds", "1", "--steps", "2", "--json")
    document = done.document
    assert document["study"] == "speed"
    assert document["budget"]["steps"] == 2
    assert document["seeds"] == 1
    assert isinstance(document["held"], bool)


def test_a_users_own_images(tmp_path: Path) -> None:
    given = ["-d", TRAIN, "--val", VAL, "--limit", "60"]
    done = run("study", "shifted-images", *given, "--seeds", "1", "--steps", "2", "--json")
    assert done.document["budget"]["batch_size"] == 60


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sped"], "speed"),
        (["speed", "-d", "somewhere"], "go together"),
        (["speed", "-o", "plot.png"], "plot is .svg"),
        (["speed", "-d", "nowhere", "--val", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments: list[str], said: str) -> None:
    done = run("study", *arguments)
    assert done.code in (2, 4)
    assert said in done.error
