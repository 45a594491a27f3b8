"""What `bnretrofit plan --graph` does: draw a plan, as a picture or as a page."""

from collections.abc import Iterable
from pathlib import Path

from bnretrofit.errors import UsageError
from bnretrofit.pages.content import Page
from bnretrofit.pages.diagram import drawn
from bnretrofit.pages.layer_table import layer_table
from bnretrofit.pages.marks import marks_of_plan
from bnretrofit.pages.rendering import page_html, picture_svg
from bnretrofit.publishing import check_place, publish_text
from bnretrofit.workflows.page_words import summary_of
from bnretrofit.workflows.planned import Planned

__all__ = ["check_picture", "draw_plan"]

SUFFIXES = (".svg", ".html", ".htm")


def check_picture(path: Path, *, overwrite: bool, inputs: Iterable[Path | None] = ()) -> None:
    """Refuse a picture that cannot be written, before any work is done.

    Raises:
        UsageError: Its name says no known format, it exists, or it is one of the inputs.
        ResourceError: The folder cannot be written to.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError("a picture is .svg or .html", where=str(path), remedy=f"name it {path.stem or 'plan'}.svg")
    check_place(path, overwrite=overwrite, inputs=inputs)


def draw_plan(planned: Planned, path: Path, *, overwrite: bool) -> None:
    """Draw where norms would go in, and where not and why.

    Args:
        planned: A plan with its model's graph.
        path: `.svg` for the picture alone; `.html` for a page with the picture and the table of layers.
        overwrite: Replace a file that exists.

    Raises:
        RetrofitError: See `check_picture`; or the disk is full.
    """
    check_picture(path, overwrite=overwrite)
    if planned.graph is None:
        raise ValueError("the plan was made without its graph")
    marks = marks_of_plan(planned.plan, inserted=False)
    nodes = drawn(planned.graph, marks)
    if path.suffix == ".svg":
        text = picture_svg(nodes, f"{planned.model}: where norms would be inserted")
    else:
        rows = layer_table(nodes, marks, {})
        text = page_html(
            Page(
                title=planned.model,
                lead="A plan: where norms would be inserted, and where not and why. Nothing was run.",
                summary=summary_of(planned.graph.model, rows, None),
                nodes=nodes,
                rows=rows,
                notes=(*planned.notes, *planned.plan.notes),
            )
        )
    publish_text(path, text, overwrite=overwrite)
