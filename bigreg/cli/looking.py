"""`bigreg doctor`: a short look at two images before they are registered."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import Json, app, out, print_json
from .options import (
    ClusterName,
    Fixed,
    FixedChannel,
    FixedDataset,
    FixedOrientation,
    FixedOrigin,
    FixedSpacing,
    FixedTime,
    Moving,
    MovingChannel,
    MovingDataset,
    MovingOrientation,
    MovingOrigin,
    MovingSpacing,
    MovingTime,
    Set,
    Workers,
    channel_overrides,
    images_of,
    overrides_of,
    tell,
)


@app.command(rich_help_panel="Register")
def config(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[PRESET]", help="rounds, ..., or clusters/slurm, ...; without it, all names are listed."
        ),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of a configuration, for editors, instead.")
    ] = False,
) -> None:
    """Print a preset with all its keys and their meaning: `bigreg config rounds > mine.yaml`."""
    from ..config import Config, cluster_names, preset_names, preset_text

    if schema:
        if name is not None:
            raise typer.BadParameter(f"--schema describes every configuration; leave {name!r} out")
        print_json(**Config.model_json_schema())
        return
    if name is None:
        for known in [*preset_names(), *(f"clusters/{each}" for each in cluster_names())]:
            out.print(known)
        return
    typer.echo(preset_text(name), nl=False)


@app.command(rich_help_panel="Register")
def doctor(
    fixed: Fixed, moving: Moving, set_: Set = None,
    as_json: Json = False,
    cluster: ClusterName = None, workers: Workers = None,
    fixed_dataset: FixedDataset = None, fixed_channel: FixedChannel = None, fixed_time: FixedTime = None,
    fixed_spacing: FixedSpacing = None, fixed_origin: FixedOrigin = None, fixed_orientation: FixedOrientation = None,
    moving_dataset: MovingDataset = None, moving_channel: MovingChannel = None, moving_time: MovingTime = None,
    moving_spacing: MovingSpacing = None, moving_origin: MovingOrigin = None,
    moving_orientation: MovingOrientation = None,
) -> None:  # fmt: skip
    """Inspect two images: preset and similarity that suit them, orientation, cost of a run, and the reasons."""
    options = locals()
    images = images_of(fixed, moving, options)
    from ..config import load_config
    from ..display import pairs
    from ..pipeline.doctor import doctor as examine

    overrides = overrides_of(set_, workers, None)
    overrides += channel_overrides(images, options, load_config(cluster=cluster, overrides=overrides))
    found = examine(*images, overrides=overrides, cluster=cluster)
    if as_json:
        print_json(**found.to_json())
        return
    tell(images)
    out.print(pairs(found.rows()), soft_wrap=True)
