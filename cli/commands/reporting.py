"""`bnretrofit report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import counted, emit_json, note, results_only, show
from ..options import FILE, device_option, image_choice, image_options, json_option, model_choice, model_options

if TYPE_CHECKING:
    from bnretrofit.pages.content import Page


@click.command(name="report")
@click.argument("target", metavar="CHECKPOINT|RUN", type=FILE)
@model_options
@image_options(required=False, num_images=64)
@click.option("-o", "--output", type=FILE, required=True, help="The page to write: .html.")
@click.option(
    "--against", type=FILE, metavar="FILE", help="Compare with this checkpoint, instead of with what it folds to."
)
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@device_option
@json_option
def command(
    target: Path, *, output: Path, against: Path | None, overwrite: bool, device: str, as_json: bool, **given: Any
) -> int:
    """Write a page about CHECKPOINT or RUN: one HTML file that needs nothing else.

    The network as a picture with its norms marked, every layer with its statistics and what was done to it and why,
    whether it is the same function as what it folds to (--against FILE: as that file), how far batch statistics move
    it, a run's curves, and where it all came from. Exits with 3 if verification fails; the page shows where.

    \b
    Example:
      bnretrofit report vgg16-bn.safetensors -d images/val -o page.html
      bnretrofit report vgg16-bn.safetensors --against vgg16.pth -d images/val -n 256 -o page.html
      bnretrofit report run -o run.html
    """
    from bnretrofit.publishing import check_place
    from bnretrofit.workflows.reporting import ReportChoice, report_page, write_page

    if output.suffix not in (".html", ".htm"):
        raise click.UsageError(f"The page is HTML: name it {output.stem or 'page'}.html.")
    with results_only():
        model = model_choice(given)
        check_place(output, overwrite=overwrite, inputs=(target, against, model.read_from))
        page = report_page(target, model, image_choice(given), ReportChoice(against, device))
        write_page(page, output, overwrite=overwrite)
    for text in page.notes:
        note(text)
    report = None if page.verified is None else page.verified.report
    failed = report is not None and not report.passed
    if as_json:
        document = {"output": str(output), **_document(page)}
        emit_json("report", document, status="failed" if failed else "ok", exit_code=3 if failed else 0)
        return 3 if failed else 0
    show(page.lead)
    for what, value in page.summary:
        show(f"  {what:<24} {value}")
    if page.verified is None:
        show(f"  {page.verified_note}")
    show(f"wrote {output}: {counted(len(page.rows), 'layer')}")
    return 3 if failed else 0


def _document(page: "Page") -> dict[str, Any]:
    import dataclasses

    from bnretrofit.comparison import finite

    verified = page.verified
    document = {
        "title": page.title,
        "summary": dict(page.summary),
        "layers": [dataclasses.asdict(row) for row in page.rows],
        "report": None if verified is None else verified.report.to_json(),
        "compared": page.verified_note if verified is None else verified.what,
        "accuracy": None if verified is None else verified.accuracy,
        "drift": [dataclasses.asdict(each) for each in page.drift],
        "drift_note": page.drift_note,
        "history": None if page.history is None else page.history.to_json(),
        "provenance": {title: dict(pairs) for title, pairs in page.provenance},
        "notes": list(page.notes),
    }
    whole: dict[str, Any] = finite(document)
    return whole
