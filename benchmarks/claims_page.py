"""docs/claims.md and its plots, from what `python -m benchmarks.claims` found last of each claim."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.markdown import markdown
from benchmarks.measuring import RESULTS
from bnretrofit.studies.catalogue import STUDIES
from bnretrofit.studies.drawing import drawn
from bnretrofit.studies.findings import Finding
from bnretrofit.studies.study import Study

__all__ = ["findings", "page", "write_page"]

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "claims.md"
FOUND = RESULTS / "claims.jsonl"

TITLES = {
    "bundled": "the bundled network and its digits",
    "digits": "the bundled digits (200 images to learn from, 360 to judge with)",
    "cifar10": "CIFAR-10 (10,000 images of the training set and 1,000 of the test set, as 32 px JPEGs)",
}

BEGINNING = """\
# What batch normalisation is said to do

Written by `python -m benchmarks.tables` from `benchmarks/results/claims.jsonl`, which `python -m benchmarks.claims`
makes; `bnretrofit study NAME` tries one claim on the bundled digits. Small VGGs (16, 32, 64, 64 and 64 channels, two
dense layers of 64, one of logits) learn from nothing: the same initial weights and the same order of images for each
seed, SGD with Nesterov's momentum 0.9, weight decay 5e-4, 5 % warm-up, cosine, no augmentation. Norms are inserted by
this tool into the initial network (`retrofit --init standardize`). Figures are means over the seeds, and in brackets
the least and the most. A claim *held* if it did in each seed; otherwise the answer is no, also where the mean is on its
side. Three seeds agree by chance one time in eight, so of all these verdicts one or two may. Budgets are small: 30
epochs of 200 digits, two and a half of CIFAR-10; at longer ones the figures, and verdicts, may be others. Where
networks are judged at their better rate, it was chosen by the same images, for both alike. A run that diverged, or
knows less than guessing does, counts as guessing."""

Found = Mapping[tuple[str, str], tuple[dict[str, Any], Finding]]
"""By study and images: the line that says how it was made, and what was found."""


def findings() -> Found:
    """The newest of each."""
    lines = [json.loads(line) for line in FOUND.read_text().splitlines()] if FOUND.is_file() else []
    return {(line["finding"]["study"], line["images"]): (line, Finding.from_json(line["finding"])) for line in lines}


def write_page() -> None:
    """Write the page and the plots."""
    found = findings()
    for (study, images), (_, finding) in found.items():
        (DOCS / plot_of(study, images)).write_text(drawn(finding))
    PAGE.write_text(page(found))
    print(f"written: docs/{PAGE.name}")


def page(found: Found) -> str:
    """The page's text."""
    kinds = [name for name in TITLES if any(images == name for _, images in found)]
    rows = [
        [f"[norms {study.claim}](#{study.name})", *(verdict(found, study.name, images) for images in kinds)]
        for study in STUDIES.values()
    ]
    parts = [BEGINNING, markdown(["claim", *kinds], rows)]
    for study in STUDIES.values():
        sections = [section(found, study, images) for images in kinds if (study.name, images) in found]
        if sections:
            parts += [f"## {study.name}", f"Claim: norms {study.claim}. {study.method}", *sections]
    return "\n\n".join(parts) + "\n"


def verdict(found: Found, study: str, images: str) -> str:
    entry = found.get((study, images))
    return "" if entry is None else "held" if entry[1].held else "no"


def section(found: Found, study: Study, images: str) -> str:
    line, finding = found[study.name, images]
    made, machine = line["made"], line["machine"]
    runs = f"{len(line['seeds'])} seeds, {line['steps']} steps; " if "seeds" in line else ""
    commits = ", ".join(made.get("runs") or [made["commit"]])
    origin = (
        f"`{line['command']}`: {runs}commit {commits}, torch {made['torch']}, each run on one thread of "
        f"{machine['cpu']}, {line['date']}"
    )
    return "\n\n".join(
        [
            f"### {study.name}: {TITLES[images]}",
            f"**{'Held' if finding.held else 'No'}.** {finding.answer}",
            markdown(list(finding.header), [list(row) for row in finding.rows]),
            f"![{alternative(finding)}]({plot_of(study.name, images)})",
            origin,
        ]
    )


def alternative(finding: Finding) -> str:
    """What the plots show, for those who do not see them; the figures are in the table."""
    return "; ".join(f"{plot.axes.y} by {plot.axes.x}" for plot in finding.plots)


def plot_of(study: str, images: str) -> str:
    return f"claims_{study}_{images}.svg"
