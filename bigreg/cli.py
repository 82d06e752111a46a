"""The command line: one verb each, no logic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from .cli_networks import models, train
from .errors import BigregError

# Paths and messages are shown as they are: "[0]" or ":b:" in a file's name is no markup.
out, err = (Console(stderr=to_err, markup=False, emoji=False, highlight=False) for to_err in (False, True))


class _Verbs(TyperGroup):
    """Errors that bigreg raises on purpose are a message and an exit status of their own kind; Ctrl-C is 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BigregError as error:
            err.print(f"error: {error}", style="red", soft_wrap=True)
            raise typer.Exit(error.exit_status) from error
        except KeyboardInterrupt as stop:
            err.print("stopped")
            raise typer.Exit(130) from stop


app = typer.Typer(
    cls=_Verbs,
    help="Register volumes that do not fit in memory. All lengths are micrometres, all axes z y x.",
    epilog="Exit status: 0 all was done, 2 wrong usage, 3 input, 4 configuration, 5 output, 6 corrupt data, "
    "7 machine too small, 8 blocks failed, 9 scheduler gone, 130 stopped by Ctrl-C, 1 anything else.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Triple = tuple[float, float, float]
Fixed = Annotated[str, typer.Argument(metavar="FIXED", help="The image whose frame results are in: path or URL.")]
Moving = Annotated[str, typer.Argument(metavar="MOVING", help="The image to bring onto it: path or URL.")]
RunStore = Annotated[str, typer.Argument(metavar="RUN", help="The run store, a Zarr group: path or URL.")]
Direction = Annotated[
    str, typer.Option(help="fixed_to_moving brings moving onto fixed; moving_to_fixed the other way.")
]
Preset = Annotated[str | None, typer.Option(help="rounds (default), brain-to-atlas or demo.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file (see configs/rounds.yaml for all keys).")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One value, such as blocks.core=96.")]
ClusterName = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NAME|FILE",
        help="Who works: local (default), cuda, slurm, lsf, pbs, sge, kubernetes, address, or a YAML file.",
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes; on this machine by default one a core.")]
AcceptFailed = Annotated[
    bool, typer.Option("--accept-failed", help="Treat blocks that fail as blank, rather than end incomplete.")
]
Memory = Annotated[str | None, typer.Option(help="Memory limit of each worker, such as 4GB.")]


def image_option(which: str, what: str, text: str) -> Any:
    metavar = "Z Y X" if what in ("spacing", "origin") else None
    return typer.Option(f"--{which}-{what}", help=text, metavar=metavar, rich_help_panel=f"{which.capitalize()} image")


DATASET = "Path inside a container (N5, Zarr, HDF5)."
SPACING = "Voxel size Z Y X in um, where the file does not say or is wrong."
ORIENTATION = "Sides at which the z, y, x axes start, such as psl (brainglobe)."
ORIGIN = "World place Z Y X (um) of the first voxel's centre."
Dataset = Annotated[str | None, typer.Option(help=DATASET)]
Time = Annotated[int | None, typer.Option(help="Time point, from 0.")]
Spacing = Annotated[Triple | None, typer.Option(metavar="Z Y X", help=SPACING)]
Origin = Annotated[Triple | None, typer.Option(metavar="Z Y X", help=ORIGIN)]
Orientation = Annotated[str | None, typer.Option(help=ORIENTATION)]
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
    preset: str | None,
    file: Path | None,
    cluster: str | None,
    overrides: list[str] | None,
    workers: int | None,
    memory: str | None,
) -> Any:
    from .config import load_config

    extra = [f"cluster.workers={workers}"] if workers else []
    extra += [f"cluster.memory_limit={json.dumps(memory)}"] if memory else []  # quoted: bytes stay text too
    return load_config(file, preset=preset, cluster=cluster, overrides=[*(overrides or []), *extra])


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
    out.print(pairs(result.rows), soft_wrap=True)
    if not result.ok:
        err.print("the demo ended worse than it should; please report it with the figures above", style="red")
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Any readable image: path or URL.")],
    target: Annotated[str, typer.Argument(metavar="OUT.ome.zarr", help="New image: path or URL.")],
    dataset: Dataset = None,
    channel: Annotated[int | None, typer.Option(help="Only this channel, from 0; default all.")] = None,
    time: Time = None,
    spacing: Spacing = None,
    origin: Origin = None,
    orientation: Orientation = None,
    chunk: Annotated[int, typer.Option(min=1, help="Voxels along an axis of a chunk.")] = 64,
    shard: Annotated[int, typer.Option(min=1, help="Voxels along an axis of a shard (a file).")] = 256,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT if it exists.")] = False,
) -> None:
    """Write any readable image as OME-Zarr 0.5, sharded, with a pyramid, out of core."""
    if shard % chunk:
        raise typer.BadParameter(f"--shard {shard} is no multiple of --chunk {chunk}")
    from .display import bar
    from .volumes import convert as run

    progress, step = bar(out, "convert")
    with progress:
        written = run(
            source, target, dataset=dataset, channel=channel, time=time, spacing=spacing, origin=origin,
            orientation=orientation, chunks=(chunk,) * 3, shards=(shard,) * 3, overwrite=overwrite, progress=step,
        )  # fmt: skip
    out.print(f"{target}: {' x '.join(map(str, written.shape))} voxels, {len(written.levels)} levels", soft_wrap=True)


Shape = tuple[int, int, int]
PlanFixed = Annotated[
    str | None, typer.Argument(metavar="[FIXED]", help="The image whose frame results are in: path or URL.")
]
PlanMoving = Annotated[str | None, typer.Argument(metavar="[MOVING]", help="The image to bring onto it: path or URL.")]


def unmade(flag: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=text, metavar=metavar, rich_help_panel="Images that need not exist")


@app.command()
def plan(
    fixed: PlanFixed = None, moving: PlanMoving = None,
    preset: Preset = None, config: ConfigFile = None, set_: Set = None,
    shape: Annotated[Shape | None, unmade("--shape", "Voxels, in place of FIXED and MOVING.", "Z Y X")] = None,
    spacing: Annotated[Triple | None, unmade("--spacing", "Voxel size in um.", "Z Y X")] = None,
    dtype: Annotated[str | None, unmade("--dtype", "Type of a voxel; default uint16.")] = None,
    moving_shape: Annotated[Shape | None, unmade("--moving-shape", "As --shape if not given.", "Z Y X")] = None,
    pyramid: Annotated[bool, unmade("--pyramid", "They bring coarser levels, as of `bigreg convert`.")] = False,
    output: Annotated[
        str | None, typer.Option("--out", metavar="RUN", help="Where the run is to be: its disk is looked at.")
    ] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Measure this machine first, and keep that.")] = False,
    rates: Annotated[
        list[str] | None, typer.Option(metavar="FILE|KEY=VALUE", help="Rates of another machine, such as step=0.002.")
    ] = None,
    save_rates: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rates that were used.")] = None,
    simulate: Annotated[
        list[str] | None, typer.Option(metavar="N[,N...]", help="Follow every block on N workers.")
    ] = None,
    stages: Annotated[bool, typer.Option("--stages", help="Show every stage, however small.")] = False,
    cluster: ClusterName = None, workers: Workers = None, memory_limit: Memory = None,
    fixed_dataset: FixedDataset = None, fixed_channel: FixedChannel = None, fixed_time: FixedTime = None,
    fixed_spacing: FixedSpacing = None, fixed_origin: FixedOrigin = None, fixed_orientation: FixedOrientation = None,
    moving_dataset: MovingDataset = None, moving_channel: MovingChannel = None, moving_time: MovingTime = None,
    moving_spacing: MovingSpacing = None, moving_origin: MovingOrigin = None,
    moving_orientation: MovingOrientation = None,
) -> None:  # fmt: skip
    """Say what a registration would do and cost: stages, memory, bytes, disk, files, time; also of images to come.

    Times come from rates: of this machine if it was calibrated, given by --rates, or built-in.
    """
    from .pipeline import plan as planning

    settings = _config(preset, config, cluster, set_, workers, memory_limit)
    numbers = planning.numbers_of_workers(simulate or [])
    images = _planned_images(locals())
    known = planning.chosen_rates(settings, rates or [], calibrate, output, images[0], say=_say if calibrate else None)
    _show_plan(*images, settings, known, output=output, numbers=numbers, stages=stages)
    if save_rates is not None:
        known[0].save(save_rates)


def _say(text: str) -> None:
    err.print(f"measuring: {text}")


def _planned_images(given: dict[str, Any]) -> list[Any]:
    """Both images of a plan: opened, or described."""
    from .errors import InputError
    from .pipeline.plan import described

    own = {name: given[name] for name in ("shape", "spacing", "dtype", "moving_shape")}
    own["pyramid"] = given["pyramid"] or None
    used = ", ".join(f"--{k.replace('_', '-')}" for k, v in own.items() if v is not None)
    if given["fixed"] is None:
        wrong = [
            f"--{k.replace('_', '-')}" for k, v in given.items()
            if k.startswith(("fixed_", "moving_")) and k not in ("moving_shape", "moving_spacing") and v is not None
        ]  # fmt: skip
        if wrong:
            raise InputError(f"{', '.join(wrong)} is said of images, and there are none; give FIXED and MOVING")
        return described(**own, moving_spacing=given["moving_spacing"])
    if given["moving"] is None:
        number = "; write numbers of workers as --simulate 8,64" if given["fixed"].isdigit() else ""
        raise InputError(f"only one image is given ('{given['fixed']}'); give FIXED and MOVING{number}")
    if used:
        raise InputError(
            f"{used} is given together with FIXED '{given['fixed']}'; leave it out, or leave the images out"
            + (" (an image's own spacing is --fixed-spacing)" if own["spacing"] is not None else "")
        )
    return _images(given["fixed"], given["moving"], given)


def _show_plan(
    fixed: Any, moving: Any, config: Any, known: Any = None, *, output: str | None = None, numbers: Any = (),
    stages: bool = False,
) -> None:  # fmt: skip
    from .display import pairs, simulation_table, stages_table
    from .pipeline import plan as planning

    rates, remark = known or planning.known_rates(config)
    made = planning.plan(fixed, moving, config=config, rates=rates, remark=remark)
    out.print(stages_table(made, everything=stages))
    out.print(pairs([*made.rows(), *made.place_rows(output)]), soft_wrap=True)
    if numbers:
        out.print(simulation_table([made.simulate(n) for n in numbers]))


@app.command()
def register(
    fixed: Fixed, moving: Moving, run: RunStore, preset: Preset = None, config: ConfigFile = None, set_: Set = None,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|RUN",
            help="In place of the search: an affine (ITK .txt .mat .h5; .csv: 4 x 4 from fixed to moving, z y x um), "
            "which is refined; landmarks (.csv: BigWarp, or fixed_z ... moving_x), 3 for rigid, 4 for an affine start; "
            "or a run between the same two spaces: its affine stays, its deformation is refined on levels as fine.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the plan; write nothing.")] = False,
    cluster: ClusterName = None, workers: Workers = None, memory_limit: Memory = None,
    accept_failed: AcceptFailed = False,
    fixed_dataset: FixedDataset = None, fixed_channel: FixedChannel = None, fixed_time: FixedTime = None,
    fixed_spacing: FixedSpacing = None, fixed_origin: FixedOrigin = None, fixed_orientation: FixedOrientation = None,
    moving_dataset: MovingDataset = None, moving_channel: MovingChannel = None, moving_time: MovingTime = None,
    moving_spacing: MovingSpacing = None, moving_origin: MovingOrigin = None,
    moving_orientation: MovingOrientation = None,
) -> None:  # fmt: skip
    """Register MOVING to FIXED into the run store RUN; the same command again goes on after any interruption."""
    images = _images(fixed, moving, locals())
    if start is not None:
        set_ = [*(set_ or []), f"affine.start={json.dumps(start)}"]
    settings = _config(preset, config, cluster, set_, workers, memory_limit)
    if dry_run:
        _show_plan(*images, settings)
        return
    from .display import Display
    from .pipeline.run import register as begin

    with Display(out) as display:
        done = begin(*images, out=run, config=settings, progress=display, accept_failed=accept_failed)
    _show_summary(done)


def _show_summary(run: Any) -> None:
    from .display import figure, pairs

    rows = [(f"{group}: {name}", figure(value, unit)) for group, name, value, unit, _ in run.summary()]
    out.print(pairs([*rows, ("report", run.store.path("report", "index.html"))]), soft_wrap=True)


@app.command()
def resume(
    run: RunStore, cluster: ClusterName = None, workers: Workers = None, memory_limit: Memory = None,
    accept_failed: AcceptFailed = False,
) -> None:  # fmt: skip
    """Go on with a run that was interrupted, here or on another cluster; the result is the same bits."""
    from .display import Display
    from .pipeline.run import open_run

    with Display(out) as display:
        done = open_run(run).resume(
            cluster=cluster, workers=workers, memory_limit=memory_limit, progress=display, accept_failed=accept_failed
        )
    _show_summary(done)


@app.command()
def status(
    run: RunStore,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second until it has ended.")] = False,
) -> None:
    """Show how far a run is, from any terminal that sees its files."""
    import time

    from rich.live import Live

    from .display import status_table
    from .pipeline.run import open_run

    opened = open_run(run)
    state = opened.status()
    with Live(console=out, transient=True) as live:
        while watch and state.state in ("planned", "running"):
            live.update(status_table(state))
            time.sleep(1.0)
            state = opened.status()
    out.print(status_table(state))
    for error in state.errors:
        err.print(error, style="red", soft_wrap=True)


@app.command()
def report(run: RunStore) -> None:
    """Write the report of a run anew and say where it is."""
    from .pipeline.run import open_run

    out.print(open_run(run).report(), soft_wrap=True)


Through = Annotated[
    str, typer.Argument(metavar="RUN", help="A run, or a transform file (.h5 .nii.gz .nrrd .txt .mat .csv).")
]
Then = Annotated[
    list[str] | None,
    typer.Option(metavar="RUN", help="Another run or file after it: its fixed frame is RUN's moving one. Repeatable."),
]
Unit = Annotated[str, typer.Option(help="What ITK's numbers mean: mm (NIfTI) or um.")]
Axes = Annotated[str, typer.Option(help="Of ITK's files: lps, by the images' orientation, or xyz as they are.")]
CHAIN = (
    "RUN:inverse goes backwards. With --then, RUN may bring a brain to an atlas and the next a round of imaging to the "
    "brain: all of it is one map, and an image is interpolated once."
)


@app.command(epilog=CHAIN)
def warp(
    run: Through,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image to resample: path or URL.")],
    target: Annotated[str, typer.Argument(metavar="OUT.ome.zarr", help="New image: path or URL.")],
    then: Then = None,
    direction: Direction = "fixed_to_moving",
    interpolation: Annotated[str, typer.Option(help="linear, nearest (labels) or cubic.")] = "linear",
    onto: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="Image whose grid OUT gets; by default the run's image there.")
    ] = None,
    dataset: Dataset = None,
    channel: Annotated[int | None, typer.Option(help="Channel, from 0.")] = None,
    time: Time = None,
    spacing: Spacing = None,
    origin: Origin = None,
    orientation: Orientation = None,
    unit: Unit = "mm",
    axes: Axes = "lps",
) -> None:
    """Resample an image of the moving frame onto the fixed one (or, by --direction, the other way).

    What was said of the registered image (--moving-orientation psl, say) has to be said of IMAGE too.
    """
    from .display import bar
    from .pipeline.transform import chain
    from .volumes import open_volume

    source = open_volume(
        image, dataset=dataset, channel=channel, time=time, spacing=spacing, origin=origin, orientation=orientation
    )
    grid = None if onto is None else open_volume(onto, name="onto")
    fixed, moving = (grid, source) if direction == "fixed_to_moving" else (source, grid)
    through = chain(run, *(then or []), fixed=fixed, moving=moving, unit=unit, axes=axes)
    progress, step = bar(out, "warp")
    with progress:
        through.warp(source, out=target, direction=direction, interpolation=interpolation, onto=grid, progress=step)


@app.command(epilog=CHAIN)
def points(
    run: Through,
    source: Annotated[Path, typer.Argument(metavar="IN", help=".csv .tsv .parquet .txt (elastix) .swc .obj .ply .stl")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="New file of the same format.")],
    then: Then = None,
    direction: Direction = "fixed_to_moving",
    columns: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="A table's columns, names or numbers from 0; default z,y,x.")
    ] = None,
    units: Annotated[str | None, typer.Option(help="Of IN: um (default), mm or voxel.")] = None,
    to: Annotated[str | None, typer.Option(help="Units of OUT; by default those of IN.")] = None,
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="Whose voxels IN means; by default the run's image there.")
    ] = None,
    onto: Annotated[str | None, typer.Option(metavar="IMAGE", help="The same for OUT.")] = None,
    unit: Unit = "mm",
    axes: Axes = "lps",
) -> None:
    """Map points, neurons or meshes; other columns are kept, points outside the frame become nan.

    Any number of points is streamed. Radii of neurons grow as the tissue does there; a mesh loses vertices outside.
    """
    from .pipeline.transform import chain
    from .volumes import open_volume

    ends = [None if path is None else open_volume(path, name=n) for n, path in (("image", image), ("onto", onto))]
    fixed, moving = ends if direction == "fixed_to_moving" else ends[::-1]
    counts = chain(run, *(then or []), fixed=fixed, moving=moving, unit=unit, axes=axes).map_file(
        source, target, direction=direction, columns=None if columns is None else columns.split(","), units=units,
        to=to, image=ends[0], onto=ends[1],
    )  # fmt: skip
    out.print(f"{target}: {counts.points} points, {counts.outside} outside the frame", soft_wrap=True)


@app.command(epilog=CHAIN)
def export(
    run: Through,
    target: Annotated[
        str, typer.Argument(metavar="OUT", help=".h5 composite; .nii.gz .nrrd field; .txt .mat affine; .csv")
    ],
    then: Then = None,
    format: Annotated[
        str | None, typer.Option(help="composite, field, affine, matrix or bigwarp, if OUT does not say it.")
    ] = None,
    direction: Annotated[
        str, typer.Option(help="fixed_to_moving resamples moving onto fixed, in ITK too; or moving_to_fixed.")
    ] = "fixed_to_moving",
    fixed: Annotated[str | None, typer.Option(metavar="IMAGE", help="Fixed image, where RUN is a file.")] = None,
    moving: Annotated[str | None, typer.Option(metavar="IMAGE", help="Moving image, where the last is one.")] = None,
    pairs: Annotated[int, typer.Option(min=8, help="About how many landmarks (bigwarp).")] = 200,
    unit: Unit = "mm",
    axes: Axes = "lps",
) -> None:
    """Write a map for ANTs, SimpleITK, elastix or BigWarp.

    composite holds affine and displacements, field their sum; affine and matrix (4 x 4, z y x, um) the affine alone.
    """
    from .pipeline.transform import chain
    from .volumes import open_volume

    ends = {n: None if p is None else open_volume(p, name=n) for n, p in (("fixed", fixed), ("moving", moving))}
    written = chain(run, *(then or []), **ends, unit=unit, axes=axes).export(
        target, format=format, direction=direction, unit=unit, axes=axes, pairs=pairs
    )
    out.print(f"{target}: {written}, {direction}", soft_wrap=True)


app.command()(models)
app.command()(train)


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        out.print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
