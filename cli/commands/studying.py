"""`bnretrofit study`."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from ..console import emit_json, results_only, show, table
from ..options import FILE, json_option, stacked

FEWEST_STEPS = 10

options = stacked(
    click.option(
        "-d",
        "--data",
        type=FILE,
        metavar="TRAIN",
        help="Learn from the images of this folder, which has a folder per class, at 32 px; default: bundled digits.",
    ),
    click.option("--val", type=FILE, metavar="VAL", help="The same to judge with; needed with --data."),
    click.option(
        "--limit",
        type=click.IntRange(min=1),
        metavar="N",
        help="Images of either folder, evenly from the whole; default: 5000.",
    ),
    click.option("--seeds", type=click.IntRange(min=1), help="How often each run is made; default: 3."),
    click.option(
        "--steps",
        type=click.IntRange(min=FEWEST_STEPS),
        help="Of each run; default: 120 on the digits, 400 on other images.",
    ),
    click.option("-o", "--output", type=FILE, metavar="PLOT.svg", help="Also draw what was found."),
    click.option("--overwrite", is_flag=True, help="Replace the plot if it exists."),
    json_option,
)


@click.command(name="study")
@click.argument("name", required=False, metavar="[NAME]")
@options
def command(name: str | None, *, as_json: bool, **given: Any) -> None:
    """Try one thing that batch normalisation is said to do, on small VGGs that are trained here and now.

    Without NAME, list the studies. Norms are inserted by this tool into networks that are not trained yet
    (`--init standardize`); all runs are made with several seeds, and a claim holds if it does so in each of them.

    \b
    Example:
      bnretrofit study
      bnretrofit study history
      bnretrofit study learning-rates --seeds 1 -o rates.svg
      bnretrofit study depth -d cifar10/train --val cifar10/test
    """
    from bnretrofit.errors import UsageError
    from bnretrofit.workflows.studying import ImageFolders, StudyChoice, check_plot, draw_finding, study_claim

    train, test = given["data"], given["val"]
    if name is None:
        if any(given.values()):
            raise UsageError("no study is named", remedy="`bnretrofit study` without options lists them")
        _list(as_json=as_json)
        return
    if (train is None) != (test is None):
        raise UsageError("--data and --val go together", remedy="name both folders, or none for the bundled digits")
    folders = None if train is None else ImageFolders(train, test)
    plot: Path | None = given["output"]
    if plot is not None:
        check_plot(plot, overwrite=given["overwrite"])
    with results_only():
        done = study_claim(name, StudyChoice(folders, given["limit"], given["seeds"], given["steps"]))
    finding = done.finding
    if not as_json:
        show(f"Claim: norms {finding.claim}.\n\n{done.study.method}\n")
        show(table(finding.rows, finding.header))
        show(f"\n{'Yes' if finding.held else 'No'}. {finding.answer}")
    if plot is not None:
        draw_finding(finding, plot, overwrite=given["overwrite"])
    if as_json:
        written = {} if plot is None else {"plot": str(plot)}
        runs = {"budget": dataclasses.asdict(done.budget), "seeds": done.seeds} if done.study.uses == "runs" else {}
        emit_json("study", {**runs, **written, **finding.to_json()})
    elif plot is not None:
        show(f"\nwrote {plot}")


def _list(*, as_json: bool) -> None:
    from bnretrofit.workflows.studying import known_studies

    studies = known_studies().values()
    if as_json:
        emit_json("study", {"studies": [{"name": each.name, "claim": each.claim} for each in studies]})
    else:
        show(table([(each.name, f"norms {each.claim}") for each in studies], ("study", "claim")))
