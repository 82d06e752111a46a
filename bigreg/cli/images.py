"""The verb that brings an image from one format to another."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .app import Json, app, out
from .options import (
    OUTPUT,
    Dataset,
    DType,
    Levels,
    OmeVersion,
    Orientation,
    Origin,
    Spacing,
    require_image,
    tell,
    tell_written,
)


@app.command(rich_help_panel="Images")
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Any readable image: path or URL.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help=OUTPUT)],
    dataset: Dataset = None,
    channel: Annotated[int | None, typer.Option(help="Only this channel, from 0; default all.")] = None,
    time: Annotated[int | None, typer.Option(help="Only this time point, from 0; default all.")] = None,
    spacing: Spacing = None,
    origin: Origin = None,
    orientation: Orientation = None,
    labels: Annotated[
        bool | None,
        typer.Option(
            "--labels/--no-labels", help="Coarser levels: majority label, or mean. Default: by what IN looks like."
        ),
    ] = None,
    dtype: DType = None,
    levels: Levels = None,
    ome_version: OmeVersion = None,
    chunk: Annotated[int | None, typer.Option(min=1, help="Chunk edge in voxels; default 64.")] = None,
    shard: Annotated[int | None, typer.Option(min=1, help="Shard (file) edge in voxels; default 256.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write any readable image as OME-Zarr, sharded, with a pyramid; or as TIFF, NIfTI or NRRD; out of core."""
    sizes: dict[str, Any] = {"chunks": (chunk or 64,) * 3, "shards": (shard or 256,) * 3} if chunk or shard else {}
    if (shard or 256) % (chunk or 64):
        raise typer.BadParameter(f"--shard {shard or 256} is not a multiple of --chunk {chunk or 64}")
    from ..endings import OME_ZARR, check_version, output_format

    check_version(target, ome_version)
    kind = output_format(target)
    require_image(source)
    from ..display import bar
    from ..volumes import convert as run
    from ..volumes import open_volume
    from ..volumes.labelled import looks_like_labels

    image = open_volume(
        source, dataset=dataset, channel=channel, time=time, spacing=spacing, origin=origin, orientation=orientation
    )
    tell([image], every=True)
    if labels is None and kind == OME_ZARR:
        why = looks_like_labels(image)
        labels = why is not None
        if why is not None:
            out.print(f"coarser levels hold the majority label: {why}; pass --no-labels for means", soft_wrap=True)
    progress, step = bar(out, "convert")
    with progress:
        written = run(
            image, target, labels=bool(labels), dtype=dtype, levels=levels, ome_version=ome_version,
            overwrite=overwrite, progress=step, **sizes,
        )  # fmt: skip
    tell_written(target, written, as_json)
