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
    given = ["-d", TRAIN, "--val", VAL, "--limit", "40", "--seeds", "1", "--steps", "10"]
    document = run("study", "covariate-shift", *given, "--json").document
    assert document["study"] == "covariate-shift"
    budget = {"images": "train", "learnt": 40, "judged": 40, "steps": 10, "batch_size": 40, "looks": 15}
    assert (document["budget"], document["seeds"]) == (budget, 1)
    assert isinstance(document["held"], bool)


def test_a_users_own_images() -> None:
    given = ["-d", TRAIN, "--val", VAL, "--limit", "60"]
    done = run("study", "cost", *given)
    assert done.code == 0
    assert "over the network without norms" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["sped"], 2, "speed"),
        (["xyzzy"], 2, "lists them"),
        (["speed", "-d", "somewhere"], 2, "go together"),
        (["speed", "--limit", "50"], 2, "--limit goes with --data"),
        (["speed", "-o", "plot.png"], 2, "plot is .svg"),
        (["speed", "--steps", "1"], 2, "--steps"),
        (["cost", "--seeds", "2"], 2, "takes no --seeds"),
        (["history", "-d", TRAIN, "--val", VAL], 2, "takes no --data"),
        (["--seeds", "2"], 2, "no study is named"),
        (["speed", "-d", "nowhere", "--val", "nowhere"], 4, "nowhere"),
        (["speed", "-d", TRAIN, "--val", VAL, "--limit", "20"], 4, "too few images"),
        (["speed", "-d", TRAIN / "0", "--val", VAL], 4, "class"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments: list[str], code: int, said: str) -> None:
    done = run("study", *arguments)
    assert said in done.error
    assert done.code == code
