"""The verbs that judge runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app, out, show_verdict
from .options import RunStore


@app.command(rich_help_panel="Judge")
def evaluate(
    run: RunStore,
    landmarks: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Pairs: BigWarp CSV, or columns fixed_z ... moving_x in um.")
    ] = None,
    labels: Annotated[
        tuple[str, str] | None, typer.Option(metavar="FIXED MOVING", help="Label images of the two frames.")
    ] = None,
    annotation: Annotated[
        str | None, typer.Option(metavar="FILE", help="Label image of the fixed frame: figures of each region.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for JSON and CSV, in place of the run.")
    ] = None,
) -> None:
    """Measure a finished run: similarity, regularity, and against landmarks, labels or an annotation.

    Without --out the figures go into the run (RUN/evaluation) and its report.
    """
    from ..display import figure, pairs
    from ..pipeline.run import open_run

    opened = open_run(run)
    found = opened.evaluate(
        landmarks=None if landmarks is None else str(landmarks), labels=labels, annotation=annotation,
        out=None if target is None else str(target),
    )  # fmt: skip
    rows = [(f"{group}: {name}", figure(value, unit)) for group, name, value, unit, _ in found.figures]
    where = opened.store.path("evaluation") if target is None else str(target)
    out.print(pairs([*rows, ("written to", where)]), soft_wrap=True)
    if opened.store.attributes["state"] == "finished":
        show_verdict(opened.judged(found))


@app.command(rich_help_panel="Judge")
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs, or folders of evaluate --out.")],
    aggregate: Annotated[bool, typer.Option("--aggregate", help="Figures only; the images may differ.")] = False,
    target: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for JSON, CSV and a page of HTML.")
    ] = None,
) -> None:
    """Put runs side by side; the others are compared with the first, place by place, with paired statistics.

    Landmarks and labels are paired where `bigreg evaluate` was given the same ones; blocks always are.
    """
    from ..display import comparison_tables
    from ..pipeline.compare import compare_runs

    found = compare_runs(runs, aggregate=aggregate)
    for table in comparison_tables(found):
        out.print(table)
    if target is not None:
        out.print(found.write(str(target)), soft_wrap=True)
