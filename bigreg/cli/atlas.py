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
    folder: Annotated[str, typer.Argument(metavar="OUT", help="New folder for the results: path or URL.")],
    atlas: Annotated[
        str | None, _of_atlas("BrainGlobe atlas, such as allen_mouse_25um.", "--atlas", metavar="NAME")
    ] = None,
    template: Annotated[str | None, _of_atlas("Instead of --atlas: the template image.")] = None,
    annotation: Annotated[str | None, _of_atlas("The annotation (label image).")] = None,
    structures: Annotated[
        Path | None, _of_atlas("Names of the labels: .csv (id, acronym, name, parent) or .json (Allen, BrainGlobe).")
    ] = None,
    hemispheres: Annotated[
        str | None, _of_atlas("Image of 1 (left) and 2 (right). Default: halves of the template.")
    ] = None,
    atlas_orientation: Annotated[
        str | None, _of_atlas(
            "Anatomical origin of the files' z, y, x axes, e.g. rsa for Allen's NRRD files. NRRD, NIfTI list x, y, z, "
            "so reverse their order.",
            metavar="CODE",
        )
    ] = None,
    atlas_spacing: Annotated[Triple | None, _of_atlas("Voxel size of the atlas files in µm.", metavar="Z Y X")] = None,
    onto: Annotated[
        Triple | None,
        typer.Option(
            "--annotation-spacing", metavar="Z Y X",
            help="Voxel size of the annotation in the brain, µm. Default: that of the brain.",
        ),
    ] = None,
    cells: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Points in the brain to count: .csv .tsv .parquet.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="Columns of the cells: names or numbers from 0. Default: z,y,x.")
    ] = None,
    units: Annotated[str, typer.Option(help="Units of the cells: um, mm or voxel.")] = "um",
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

    The same command again resumes after an interruption; with other --cells it only makes their tables.
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
