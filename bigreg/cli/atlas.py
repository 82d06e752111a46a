"""The verb that brings a brain and an atlas together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Json, app, err, out, show_figures, show_verdict
from .options import (
    ClusterName,
    ConfigFile,
    Dataset,
    Memory,
    Orientation,
    Origin,
    Set,
    Spacing,
    Time,
    Triple,
    Workers,
    overrides_of,
)


def _of_atlas(text: str, *names: str, metavar: str | None = "FILE") -> Any:
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel="Atlas")


@app.command(rich_help_panel="Atlas")
def atlas(
    brain: Annotated[str, typer.Argument(metavar="BRAIN", help="The image of a brain: path or URL.")],
    folder: Annotated[str, typer.Argument(metavar="OUT", help="New folder for everything: path or URL.")],
    atlas: Annotated[
        str | None, _of_atlas("One of BrainGlobe's, such as allen_mouse_25um.", "--atlas", metavar="NAME")
    ] = None,
    template: Annotated[str | None, _of_atlas("In its place: the template,")] = None,
    annotation: Annotated[str | None, _of_atlas("its annotation (labels),")] = None,
    structures: Annotated[
        Path | None, _of_atlas("and the labels' names: .csv or .json, of Allen or BrainGlobe.")
    ] = None,
    hemispheres: Annotated[
        str | None, _of_atlas("Image of 1 (left) and 2 (right); default: halves of the template.")
    ] = None,
    atlas_orientation: Annotated[
        str | None, _of_atlas(
            "Sides at which the files' z, y, x axes start (NRRD and NIfTI list x, y, z: turn that round), such as rsa "
            "for Allen's NRRD files.",
            metavar="CODE",
        )
    ] = None,
    atlas_spacing: Annotated[Triple | None, _of_atlas("Their voxel size in um.", metavar="Z Y X")] = None,
    onto: Annotated[
        Triple | None,
        typer.Option(
            "--annotation-spacing", metavar="Z Y X", help="Of the annotation in the brain, um; default the brain's own."
        ),
    ] = None,
    cells: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Points in the brain to count: .csv .tsv .parquet.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="Their columns, names or numbers from 0; default z,y,x.")
    ] = None,
    units: Annotated[str, typer.Option(help="Their units: um, mm or voxel.")] = "um",
    dataset: Dataset = None,
    channel: Annotated[int | None, typer.Option(help="Channel, from 0.")] = None,
    time: Time = None,
    spacing: Spacing = None,
    origin: Origin = None,
    orientation: Orientation = None,
    preset: Annotated[str | None, typer.Option(help="brain-to-atlas (default) or another.")] = None,
    config: ConfigFile = None, set_: Set = None, cluster: ClusterName = None, workers: Workers = None,
    memory_limit: Memory = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Register BRAIN to an atlas: its regions and their borders in the brain, volumes, cells in each, a report.

    The same command again goes on after any interruption; with other --cells it makes their tables only.
    """
    from ..atlases import atlas as bring
    from ..atlases import chosen_atlas
    from ..config import load_config
    from ..display import Display, pairs
    from ..volumes import open_volume

    image = open_volume(
        brain, dataset=dataset, channel=channel, time=time, spacing=spacing, origin=origin, orientation=orientation,
        name="brain",
    )  # fmt: skip
    known = chosen_atlas(
        atlas, template, annotation, structures, hemispheres=hemispheres, orientation=atlas_orientation,
        spacing=atlas_spacing,
    )  # fmt: skip
    settings = load_config(
        config, preset=preset or (None if config else "brain-to-atlas"), cluster=cluster,
        overrides=overrides_of(set_, workers, memory_limit),
    )  # fmt: skip
    with Display(out) as display:
        made = bring(
            image, known, out=folder, spacing=onto, cells=cells, units=units, config=settings, progress=display,
            columns=None if columns is None else columns.split(","),
        )  # fmt: skip
    if as_json:
        show_figures(
            made.figures(), as_json, out=made.url, report=made.report, warnings=made.warnings, verdict=made.run.verdict
        )
        return
    out.print(pairs(made.summary()), soft_wrap=True)
    for warning in made.warnings:
        err.print(f"warning: {warning}", style="red", soft_wrap=True)
    show_verdict(made.run.verdict)
