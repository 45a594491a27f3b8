"""What benchmarks/claims.py found, as a page: the newest finding of each claim, with its verdict and its plot."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import claims, claims_page
from bnretrofit.studies.catalogue import STUDIES
from bnretrofit.studies.findings import Axes, Finding, Plot, Series, Spread
from bnretrofit.studies.learning import learn
from bnretrofit.studies.recipes import Budget, Recipe

MADE = {"made": {"torch": "2.15.0", "commit": "abc"}, "seeds": [0, 1, 2], "steps": 120, "date": "2026-11-22"} | {
    "command": "python -m benchmarks.claims",
    "machine": {"cpu": "a processor"},
}


def line(study: str, images: str, *, held: bool, answer: str = "So it is.") -> str:
    series = (Series("with norms", (1.0, 2.0), (Spread(0.5, 0.4, 0.6),) * 2),)
    finding = Finding(study, "do so", held, answer, ("x", "y"), (("1", "2"),), (Plot(Axes("x", "y"), series),))
    return json.dumps({**MADE, "images": images, "finding": finding.to_json()})


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(claims_page, "DOCS", tmp_path)
    monkeypatch.setattr(claims_page, "PAGE", tmp_path / "claims.md")
    monkeypatch.setattr(claims_page, "FOUND", tmp_path / "claims.jsonl")
    return tmp_path


def test_the_page_tells_the_newest_finding_of_each_claim(docs: Path) -> None:
    lines = [
        line("depth", "digits", held=True, answer="An old answer."),
        line("depth", "digits", held=False),
        line("speed", "cifar10", held=True),
    ]
    (docs / "claims.jsonl").write_text("\n".join(lines) + "\n")
    claims_page.write_page()
    page = (docs / "claims.md").read_text()
    assert "An old answer" not in page
    assert "| [norms make deeper networks trainable](#depth) | no |  |" in page
    assert "| [norms make training faster](#speed) |  | held |" in page
    assert page.count("\n## ") == 2
    for plot in ("claims_depth_digits.svg", "claims_speed_cifar10.svg"):
        assert f"({plot})" in page
        assert (docs / plot).read_text().startswith("<?xml")


def test_every_study_has_a_row_before_it_was_tried(docs: Path) -> None:
    assert not (docs / "claims.jsonl").exists()
    claims_page.write_page()
    assert (docs / "claims.md").read_text().count("(#") == len(STUDIES)


def test_a_run_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "CACHE", tmp_path / "runs.jsonl")
    recipe = Recipe(Budget("digits", 200, 360, steps=2, batch_size=16, looks=1), False, 0.01, 0)
    made = claims.all_outcomes([recipe, recipe], "digits", Path(), 1)
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 1
    monkeypatch.setattr(claims, "one_outcome", None)
    assert claims.all_outcomes([recipe], "digits", Path(), 1) == made == claims.known_runs()
    threads = torch.get_num_threads()
    # As the process that made it: with more, kernels round otherwise.
    torch.set_num_threads(1)
    try:
        again = learn(recipe, claims.images_named("digits", Path()))
    finally:
        torch.set_num_threads(threads)
    assert (again.top1, again.loss) == (made[recipe].top1, made[recipe].loss)
