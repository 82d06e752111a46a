"""The verbs that judge runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import Json, app, out, print_json, show_figures, show_verdict
from .options import RunStore, require_run, require_there


@app.command(rich_help_panel="Judge")
def report(
    run: RunStore,
    figure: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write an overview picture too, for talks: new .png, .svg or .pdf."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report of a run again; print its path and the verdict."""
    require_run(run)
    from ..pipeline.run import open_run

    opened = open_run(run)
    place = opened.report(figure=figure)
    verdict = opened.verdict if opened.store.attributes["state"] == "finished" else None
    if as_json:
        show_figures(opened.summary(), as_json, run=opened.url, report=place, figure=figure, verdict=verdict)
        return
    out.print(place, soft_wrap=True)
    if figure is not None:
        out.print(figure, soft_wrap=True)
    if verdict is not None:
        show_verdict(verdict)


@app.command(rich_help_panel="Judge")
def evaluate(
    run: RunStore,
    landmarks: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Pairs: BigWarp CSV, or columns fixed_z ... moving_x in µm.")
    ] = None,
    labels: Annotated[
        tuple[str, str] | None, typer.Option(metavar="FIXED MOVING", help="Label images of the two frames.")
    ] = None,
    annotation: Annotated[
        str | None, typer.Option(metavar="FILE", help="Label image of the fixed frame: figures of each region.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for JSON and CSV, instead of the run.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a finished run: similarity, regularity, and errors against landmarks, labels or regions.

    Without --out the figures go into the run (RUN/evaluation) and its report.
    """
    require_run(run)
    from ..pipeline.run import open_run

    opened = open_run(run)
    found = opened.evaluate(
        landmarks=None if landmarks is None else str(landmarks), labels=labels, annotation=annotation,
        out=None if target is None else str(target),
    )  # fmt: skip
    where = opened.store.path("evaluation") if target is None else str(target)
    verdict = opened.judged(found) if opened.store.attributes["state"] == "finished" else None
    show_figures(found.figures, as_json, written_to=where, verdict=verdict)


@app.command(rich_help_panel="Judge")
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs, or folders of evaluate --out.")],
    aggregate: Annotated[bool, typer.Option("--aggregate", help="Figures only; the images may differ.")] = False,
    target: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for JSON, CSV and a page of HTML.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare runs with the first one, place by place, with paired statistics.

    Landmarks and labels are paired if `bigreg evaluate` was given the same ones; blocks always are.
    """
    for run in runs:
        require_there(run, "is neither a run nor a folder that `bigreg evaluate --out` wrote; check the path")
    from ..display import comparison_tables
    from ..pipeline.compare import compare_runs

    found = compare_runs(runs, aggregate=aggregate)
    page = None if target is None else found.write(str(target))
    if as_json:
        print_json(**found.to_json(), page=page)
        return
    for table in comparison_tables(found, out.width):
        out.print(table)
    if found.note:
        out.print(found.note, soft_wrap=True)
    for line in found.conclusion:
        out.print(line, style="bold", soft_wrap=True)
    if page is not None:
        out.print(page, soft_wrap=True)


@app.command(rich_help_panel="Judge")
def propose(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A finished run of the whole tissue.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="The label image to write: .ome.zarr.")],
    as_json: Json = False,
) -> None:
    """Propose pieces of torn tissue as labels on the fixed image, for `bigreg pieces`.

    A piece is connected tissue, without what has no counterpart, seen on a small copy. Look at the labels, and correct
    them, before you register each piece by itself.
    """
    require_run(run)
    from ..pipeline.run import open_run

    found = open_run(run).propose_pieces(out=target)
    voxel = " x ".join(f"{s:.4g}" for s in found.grid.spacing)
    if as_json:
        print_json(out=target, pieces=list(found.shares), spacing_um=list(found.grid.spacing))
        return
    if len(found.shares) == 1:
        out.print(f"{target}: 1 piece; nothing shows that the tissue is torn", soft_wrap=True)
        return
    shares = ", ".join(f"{label}: {share:.0%}" for label, share in enumerate(found.shares, start=1))
    out.print(f"{target}: {len(found.shares)} pieces ({shares} of the tissue), voxels of {voxel} µm", soft_wrap=True)
    out.print(f"look at them, then register each by itself: --fixed-mask {target}:1", soft_wrap=True)
