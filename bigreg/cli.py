"""The command line: one verb each, no logic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .errors import BigregError

app = typer.Typer(
    help="Register volumes that do not fit in memory. All lengths are micrometres, all axes z y x.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out, err = Console(), Console(stderr=True)

Triple = tuple[float, float, float]
Direction = Annotated[
    str, typer.Option(help="fixed_to_moving brings moving onto fixed; moving_to_fixed the other way.")
]
Preset = Annotated[str | None, typer.Option(help="rounds, brain-to-atlas or demo.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file (see configs/rounds.yaml for all keys).")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One value, such as blocks.core=96.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Local worker processes; default one a core.")]
Memory = Annotated[str | None, typer.Option(help="Memory limit of each worker, such as 4GB.")]


def image_option(which: str, what: str, text: str) -> Any:
    return typer.Option(f"--{which}-{what}", help=text, rich_help_panel=f"{which.capitalize()} image")


DATASET = "Path inside a container (N5, Zarr, HDF5)."
SPACING = "Voxel size Z Y X in um, where the file does not say or is wrong."
ORIENTATION = "Sides at which the z, y, x axes start, such as psl (brainglobe)."
ORIGIN = "World place Z Y X (um) of the first voxel's centre."
FixedDataset = Annotated[str | None, image_option("fixed", "dataset", DATASET)]
FixedChannel = Annotated[int | None, image_option("fixed", "channel", "Channel, from 0.")]
FixedTime = Annotated[int | None, image_option("fixed", "time", "Time point, from 0.")]
FixedSpacing = Annotated[Triple | None, image_option("fixed", "spacing", SPACING)]
FixedOrigin = Annotated[Triple | None, image_option("fixed", "origin", ORIGIN)]
FixedOrientation = Annotated[str | None, image_option("fixed", "orientation", ORIENTATION)]
MovingDataset = Annotated[str | None, image_option("moving", "dataset", DATASET)]
MovingChannel = Annotated[int | None, image_option("moving", "channel", "Channel, from 0.")]
MovingTime = Annotated[int | None, image_option("moving", "time", "Time point, from 0.")]
MovingSpacing = Annotated[Triple | None, image_option("moving", "spacing", SPACING)]
MovingOrigin = Annotated[Triple | None, image_option("moving", "origin", ORIGIN)]
MovingOrientation = Annotated[str | None, image_option("moving", "orientation", ORIENTATION)]


def _config(
    preset: str | None, file: Path | None, overrides: list[str] | None, workers: Any = None, memory: Any = None
):
    from .config import load_config

    extra = [f"cluster.workers={workers}"] if workers else []
    extra += [f"cluster.memory_limit={memory}"] if memory else []
    return load_config(file, preset=preset, overrides=[*(overrides or []), *extra])


def _images(fixed: str, moving: str, given: dict[str, Any]) -> list[Any]:
    """Both images, with the --fixed-... and --moving-... options among the verb's arguments."""
    from .volumes import open_volume

    names = ("dataset", "channel", "time", "spacing", "origin", "orientation")
    return [
        open_volume(path, name=which, **{n: given[f"{which}_{n}"] for n in names})
        for which, path in (("fixed", fixed), ("moving", moving))
    ]


@app.command()
def demo(
    out_dir: Annotated[Path, typer.Option("--out", help="New folder for everything.")] = Path("bigreg-demo"),
) -> None:
    """Register a made-up cleared brain whose deformation is known, and say how well it went."""
    from .demo import run_demo
    from .display import Display, pairs

    with Display(out) as display:
        result = run_demo(str(out_dir), progress=display)
    out.print(pairs(result.rows))
    if not result.ok:
        err.print("[red]the demo ended worse than it should; please report it with the figures above")
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN")],
    target: Annotated[str, typer.Argument(metavar="OUT.ome.zarr")],
    dataset: Annotated[str | None, typer.Option(help=DATASET)] = None,
    channel: Annotated[int | None, typer.Option(help="Only this channel, from 0; default all.")] = None,
    spacing: Annotated[Triple | None, typer.Option(help=SPACING)] = None,
    orientation: Annotated[str | None, typer.Option(help=ORIENTATION)] = None,
    chunk: Annotated[int, typer.Option(help="Voxels along an axis of a chunk.")] = 64,
    shard: Annotated[int, typer.Option(help="Voxels along an axis of a shard (a file).")] = 256,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT if it exists.")] = False,
) -> None:
    """Write any readable image as OME-Zarr 0.5, sharded, with a pyramid, out of core."""
    from .display import bar
    from .volumes import convert as run

    progress, step = bar(out, "convert")
    with progress:
        options = {"dataset": dataset, "channel": channel, "spacing": spacing, "orientation": orientation}
        written = run(
            source, target, chunks=(chunk,) * 3, shards=(shard,) * 3, overwrite=overwrite, progress=step, **options
        )
    out.print(f"{target}: {' x '.join(map(str, written.shape))} voxels, {len(written.levels)} levels")


@app.command()
def plan(
    fixed: str, moving: str, preset: Preset = None, config: ConfigFile = None, set_: Set = None,
    workers: Workers = None, memory_limit: Memory = None,
    fixed_dataset: FixedDataset = None, fixed_channel: FixedChannel = None, fixed_time: FixedTime = None,
    fixed_spacing: FixedSpacing = None, fixed_origin: FixedOrigin = None, fixed_orientation: FixedOrientation = None,
    moving_dataset: MovingDataset = None, moving_channel: MovingChannel = None, moving_time: MovingTime = None,
    moving_spacing: MovingSpacing = None, moving_origin: MovingOrigin = None,
    moving_orientation: MovingOrientation = None,
) -> None:  # fmt: skip
    """Say what a registration would do and cost: levels, blocks, memory a worker, bytes, time."""
    _show_plan(*_images(fixed, moving, locals()), _config(preset, config, set_, workers, memory_limit))


def _show_plan(fixed: Any, moving: Any, config: Any) -> None:
    from .display import pairs
    from .pipeline.plan import plan as make

    out.print(pairs(make(fixed, moving, config=config).rows()))


@app.command()
def register(
    fixed: str, moving: str, run: str, preset: Preset = None, config: ConfigFile = None, set_: Set = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the plan; write nothing.")] = False,
    workers: Workers = None, memory_limit: Memory = None,
    fixed_dataset: FixedDataset = None, fixed_channel: FixedChannel = None, fixed_time: FixedTime = None,
    fixed_spacing: FixedSpacing = None, fixed_origin: FixedOrigin = None, fixed_orientation: FixedOrientation = None,
    moving_dataset: MovingDataset = None, moving_channel: MovingChannel = None, moving_time: MovingTime = None,
    moving_spacing: MovingSpacing = None, moving_origin: MovingOrigin = None,
    moving_orientation: MovingOrientation = None,
) -> None:  # fmt: skip
    """Register MOVING to FIXED into the run store RUN; the same command again goes on after any interruption."""
    images = _images(fixed, moving, locals())
    settings = _config(preset, config, set_, workers, memory_limit)
    if dry_run:
        _show_plan(*images, settings)
        return
    from .display import Display
    from .pipeline.run import register as start

    with Display(out) as display:
        done = start(*images, out=run, config=settings, progress=display)
    _show_summary(done)


def _show_summary(run: Any) -> None:
    from .display import pairs

    rows = [(f"{group}: {name}", f"{value:.4g} {unit}".strip()) for group, name, value, unit, _ in run.summary()]
    out.print(pairs([*rows, ("report", run.store.path("report", "index.html"))]))


@app.command()
def resume(run: str, workers: Workers = None) -> None:
    """Go on with a run that was interrupted; the result is the same bits."""
    from .display import Display
    from .pipeline.run import open_run

    with Display(out) as display:
        done = open_run(run).resume(workers=workers, progress=display)
    _show_summary(done)


@app.command()
def status(
    run: str, watch: Annotated[bool, typer.Option(help="Refresh every second until it has ended.")] = False
) -> None:
    """Show how far a run is, from any terminal that sees its files."""
    import time

    from rich.live import Live

    from .display import status_table
    from .pipeline.run import open_run

    opened = open_run(run)
    state = opened.status()
    if watch:
        with Live(status_table(state), console=out) as live:
            while state.state in ("planned", "running"):
                time.sleep(1.0)
                state = opened.status()
                live.update(status_table(state))
    else:
        out.print(status_table(state))
    for error in state.errors:
        err.print(f"[red]{error}")


@app.command()
def report(run: str) -> None:
    """Write the report of a run anew and say where it is."""
    from .pipeline.run import open_run

    out.print(open_run(run).report(), soft_wrap=True)


@app.command()
def warp(
    run: str,
    image: str,
    target: Annotated[str, typer.Argument(metavar="OUT")],
    direction: Direction = "fixed_to_moving",
    interpolation: Annotated[str, typer.Option(help="linear, nearest (labels) or cubic.")] = "linear",
    dataset: Annotated[str | None, typer.Option(help=DATASET)] = None,
    channel: Annotated[int | None, typer.Option(help="Channel, from 0.")] = None,
    spacing: Annotated[Triple | None, typer.Option(help=SPACING)] = None,
) -> None:
    """Resample an image of the moving frame onto the fixed one (or, by --direction, the other way)."""
    from .display import bar
    from .pipeline.run import open_run
    from .volumes import open_volume

    source = open_volume(image, dataset=dataset, channel=channel, spacing=spacing)
    progress, step = bar(out, "warp")
    with progress:
        open_run(run).warp(source, out=target, direction=direction, interpolation=interpolation, progress=step)


@app.command()
def points(
    run: str,
    source: Annotated[Path, typer.Argument(metavar="IN.csv")],
    target: Annotated[Path, typer.Argument(metavar="OUT.csv")],
    direction: Direction = "fixed_to_moving",
) -> None:
    """Map the columns z, y, x (um) of a table; other columns are kept, points outside the frame become nan."""
    from .pipeline.run import open_run
    from .pipeline.tables import map_table

    count, outside = map_table(open_run(run), source, target, direction)
    out.print(f"{target}: {count} points, {outside} outside the frame")


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        out.print(__version__)
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


def main() -> None:
    """Entry point: errors that bigreg raises on purpose are one line and an exit status of their own kind."""
    try:
        app()
    except BigregError as error:
        err.print(f"[bold red]error:[/] {error}", markup=True, soft_wrap=True, highlight=False)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        err.print("stopped; `bigreg resume RUN` goes on")
        sys.exit(130)


if __name__ == "__main__":
    main()
