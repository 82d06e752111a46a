"""The verbs that use a map: on images, on points, for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Json, app, out, print_json
from .options import (
    OUTPUT,
    ClusterName,
    Dataset,
    Direction,
    DType,
    Levels,
    Memory,
    OmeVersion,
    Orientation,
    Origin,
    Spacing,
    Triple,
    Workers,
    require_image,
    require_map,
    require_run,
    tell,
    tell_written,
)

Through = Annotated[
    str, typer.Argument(metavar="RUN", help="A run, or a transform file (.h5 .nii.gz .nrrd .txt .mat .csv).")
]
Then = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RUN", help="Another run or file after it: its fixed image is RUN's moving image. Repeatable."
    ),
]


def _one_of(*names: str) -> Any:
    def checked(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
        if value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(names)}")
        return value

    return checked


def _renamed(new: str, hint: str = "") -> Any:
    def refuse(value: str | None) -> None:
        if value is not None:
            raise typer.BadParameter(f"it is called {new} now{hint}")

    return refuse


Unit = Annotated[
    str,
    typer.Option("--itk-unit", callback=_one_of("mm", "um"), help="Unit of numbers in ITK files: mm (NIfTI) or um."),
]
Axes = Annotated[
    str,
    typer.Option(
        "--itk-axes", callback=_one_of("lps", "xyz"), help="Axes of ITK files: lps, by the images' orientation, or xyz."
    ),
]
OldUnit = Annotated[
    str | None, typer.Option("--unit", hidden=True, callback=_renamed("--itk-unit", "; units of points are --units"))
]
OldAxes = Annotated[str | None, typer.Option("--axes", hidden=True, callback=_renamed("--itk-axes"))]
CHAIN = (
    "RUN:inverse uses a run backwards. With --then, RUN may bring a brain to an atlas, and the next an imaging round "
    "to the brain. The maps are chained; an image is interpolated once."
)


@app.command(epilog=CHAIN, rich_help_panel="Use the map")
def warp(
    run: Through,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image to resample: path or URL.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help=OUTPUT)],
    then: Then = None,
    direction: Direction = "fixed_to_moving",
    interpolation: Annotated[
        str | None, typer.Option(help="linear, nearest (labels) or cubic. Default: nearest for labels, else linear.")
    ] = None,
    labels: Annotated[bool, typer.Option("--labels", help="IMAGE holds labels: --interpolation nearest.")] = False,
    dtype: DType = None,
    levels: Levels = None,
    ome_version: OmeVersion = None,
    onto: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="Image whose voxel grid OUT gets. Default: the run's image there."),
    ] = None,
    out_spacing: Annotated[
        Triple | None, typer.Option(metavar="Z Y X", help="Voxel size of OUT in µm; the extent stays.")
    ] = None,
    level: Annotated[int | None, typer.Option(min=0, help="Pyramid level of that image whose grid OUT gets.")] = None,
    box: Annotated[
        str | None, typer.Option(metavar="Z0:Z1,Y0:Y1,X0:X1", help="Only this part, µm; an end may be left out.")
    ] = None,
    channel: Annotated[
        list[int] | None, typer.Option(help="Channel of IMAGE, from 0; repeatable. Default all.")
    ] = None,
    time: Annotated[int | None, typer.Option(help="Time point of IMAGE, from 0. Default all.")] = None,
    dataset: Dataset = None,
    spacing: Spacing = None,
    origin: Origin = None,
    orientation: Orientation = None,
    unit: Unit = "mm",
    axes: Axes = "lps",
    old_unit: OldUnit = None,
    old_axes: OldAxes = None,
    cluster: ClusterName = None,
    workers: Workers = None,
    memory_limit: Memory = None,
    as_json: Json = False,
) -> None:
    """Resample an image of the moving space onto the fixed grid (or the other way, with --direction).

    All channels and time points, out of core; the same command resumes after an interruption.

    Pass the same orientation and origin for IMAGE as for the registered image. A small OUT is made by this process, a
    large one by all cores, unless --cluster or --workers is given.
    """
    require_map(run)
    from ..endings import output_format

    output_format(target)
    require_image(image)
    from ..display import bar
    from ..pipeline.chains import chain, end_image
    from ..pipeline.results.likened import opened_like
    from ..pipeline.results.outputs import Output, chosen_interpolation
    from ..pipeline.results.transform import checked
    from ..volumes import open_volume

    Output.of(target, dtype, levels, ome_version)  # before anything is opened
    which = "moving" if checked(direction) == "fixed_to_moving" else "fixed"
    source = opened_like(
        image, lambda: end_image([run, *(then or [])], which), which, dataset=dataset,
        channel=channel[0] if channel else None, time=time, spacing=spacing, origin=origin, orientation=orientation,
    )  # fmt: skip
    tell([source], every=channel is None)
    if labels and interpolation not in (None, "nearest"):
        raise typer.BadParameter(f"--labels and --interpolation {interpolation} contradict each other; leave one out")
    if labels:
        interpolation = "nearest"
    elif interpolation is None:
        interpolation, why = chosen_interpolation(source)
        if why:
            out.print(f"{why}; pass --interpolation linear otherwise", soft_wrap=True)
    grid = None if onto is None else open_volume(onto, name="--onto")
    fixed, moving = (grid, source) if direction == "fixed_to_moving" else (source, grid)
    through = chain(run, *(then or []), fixed=fixed, moving=moving, unit=unit, axes=axes)
    progress, step = bar(out, "warp")
    with progress:
        written = through.warp(
            source, out=target, direction=direction, interpolation=interpolation, onto=grid, spacing=out_spacing,
            level=level, box=None if box is None else box_of(box), channels=channel, dtype=dtype, levels=levels,
            ome_version=ome_version, cluster=cluster, workers=workers, memory_limit=memory_limit, progress=step,
        )  # fmt: skip
    tell_written(target, written, as_json)


def box_of(text: str) -> list[tuple[float | None, float | None]]:
    """Z0:Z1,Y0:Y1,X0:X1 as pairs; an end that is left out is None."""
    try:
        pairs: list[Any] = [
            tuple(float(end) if end.strip() else None for end in (part.strip() or ":").split(":"))
            for part in text.split(",")
        ]
    except ValueError:
        pairs = []
    if len(pairs) != 3 or any(len(pair) != 2 for pair in pairs):
        raise typer.BadParameter(
            f"--box {text!r} is not Z0:Z1,Y0:Y1,X0:X1 in µm, such as 0:500,,1200: (an end or a whole "
            "axis may be left out)"
        )
    return pairs


@app.command(epilog=CHAIN, rich_help_panel="Use the map")
def points(
    run: Through,
    source: Annotated[Path, typer.Argument(metavar="IN", help=".csv .tsv .parquet .txt (elastix) .swc .obj .ply .stl")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="New file of the same format.")],
    then: Then = None,
    direction: Direction = "fixed_to_moving",
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="Z,Y,X",
            help="A table's columns, names or numbers from 0; default z,y,x, or napari's axis-0, -1, -2.",
        ),
    ] = None,
    units: Annotated[str | None, typer.Option(help="Units of IN: um (default), mm or voxel.")] = None,
    to: Annotated[str | None, typer.Option(help="Units of OUT; by default those of IN.")] = None,
    image: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="Image that defines the voxel grid of IN. Default: the run's image there."),
    ] = None,
    onto: Annotated[str | None, typer.Option(metavar="IMAGE", help="Image that defines the voxel grid of OUT.")] = None,
    inside: Annotated[
        bool, typer.Option("--inside", help="Add a column to a table: 1 for points that lie in both images, else 0.")
    ] = False,
    risk: Annotated[
        bool,
        typer.Option("--risk", help="Add a column: estimated probability that the map is off there by > 2 voxels."),
    ] = False,
    sigma: Annotated[
        bool,
        typer.Option(
            "--sigma", help="Add four columns: SD of the mapped place along z, y and x, and as a distance, µm."
        ),
    ] = False,
    noncorrespondence: Annotated[
        bool,
        typer.Option(
            "--noncorrespondence", help="Add a column: 1 for points without a counterpart in the other image, else 0."
        ),
    ] = False,
    unit: Unit = "mm",
    axes: Axes = "lps",
    old_unit: OldUnit = None,
    old_axes: OldAxes = None,
    as_json: Json = False,
) -> None:
    """Map points, neurons or meshes. Other columns are kept; points outside their image become nan.

    Any number of points is streamed. Radii of neurons scale with the tissue; mesh vertices outside are left out.
    """
    require_map(run)
    from ..pipeline.chains import chain
    from ..volumes import open_volume

    ends = [None if path is None else open_volume(path, name=n) for n, path in (("--image", image), ("--onto", onto))]
    fixed, moving = ends if direction == "fixed_to_moving" else ends[::-1]
    through = chain(run, *(then or []), fixed=fixed, moving=moving, unit=unit, axes=axes)
    counts = through.map_file(
        source, target, direction=direction, columns=None if columns is None else columns.split(","), units=units,
        to=to, image=ends[0], onto=ends[1], inside=inside, risk=risk, sigma=sigma, noncorrespondence=noncorrespondence,
    )  # fmt: skip
    given, other = direction.split("_to_")
    if as_json:  # of the other image nothing is known where a file is the map and no image is given
        print_json(
            out=str(target), points=counts.points, **{f"outside_{given}": counts.outside},
            **{f"outside_{other}_only": counts.beyond},
        )  # fmt: skip
        return
    nowhere = "" if through.map(direction).choice is None else " or in no piece"
    told = f"{target}: {counts.points} points, {counts.outside} outside the {given} image{nowhere} (nan)"
    if counts.beyond is not None:
        told += f", {counts.beyond} more outside the {other} image"
    out.print(told, soft_wrap=True)


@app.command(epilog=CHAIN, rich_help_panel="Use the map")
def export(
    run: Through,
    target: Annotated[
        str | None, typer.Argument(metavar="OUT", help=".h5 composite; .nii.gz .nrrd field; .txt .mat affine; .csv")
    ] = None,
    then: Then = None,
    brainreg: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Instead of OUT: a folder in brainreg's layout, for a RUN made by `bigreg atlas`."
        ),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="composite, field, affine, matrix or bigwarp, if the suffix of OUT is ambiguous.")
    ] = None,
    direction: Annotated[
        str, typer.Option(help="fixed_to_moving resamples moving onto fixed, in ITK too; or moving_to_fixed.")
    ] = "fixed_to_moving",
    fixed: Annotated[str | None, typer.Option(metavar="IMAGE", help="Fixed image, if RUN is a file.")] = None,
    moving: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="Moving image, if the last transform is a file.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=8, help="Approximate number of landmarks (bigwarp).")] = 200,
    unit: Unit = "mm",
    axes: Axes = "lps",
    old_unit: OldUnit = None,
    old_axes: OldAxes = None,
) -> None:
    """Write a map for ANTs, SimpleITK, elastix or BigWarp.

    composite holds affine and displacements, field their sum; affine and matrix (4 x 4, z y x, µm) the affine alone.
    """
    require_map(run)
    from ..errors import ConfigError
    from ..pipeline.chains import chain
    from ..volumes import open_volume

    if (target is None) == (brainreg is None):
        raise ConfigError("no output is given; give OUT, or --brainreg DIR for a result of `bigreg atlas`")
    if target is None:
        from ..atlases import export_brainreg

        if then or format or fixed or moving or direction != "fixed_to_moving":
            raise ConfigError("--brainreg writes all that `bigreg atlas` has made; leave the other options out")
        export_brainreg(run, str(brainreg))
        out.print(f"{brainreg}: in brainreg's layout", soft_wrap=True)
        return
    ends = {n: None if p is None else open_volume(p, name=f"--{n}") for n, p in (("fixed", fixed), ("moving", moving))}
    written = chain(run, *(then or []), **ends, unit=unit, axes=axes).export(
        target, format=format, direction=direction, unit=unit, axes=axes, pairs=pairs
    )
    out.print(f"{target}: {written}, {direction}", soft_wrap=True)


@app.command(rich_help_panel="Use the map")
def pieces(
    labels: Annotated[str, typer.Argument(metavar="LABELS", help="The label image: path or URL; 0 is the gap.")],
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="The runs of labels 1, 2, ...; or LABEL=RUN for each.")
    ],
    target: Annotated[str, typer.Option("--out", metavar="OUT", help="New store, used like a run.")],
    frame: Annotated[
        str,
        typer.Option(
            "--labels-of",
            metavar="IMAGE",
            callback=_one_of("fixed", "moving"),
            help="The image that LABELS belong to: fixed, moving.",
        ),
    ] = "fixed",
    as_json: Json = False,
) -> None:
    """Join runs by label: tissue that is torn, hemispheres that were split.

    Each piece is a run of the same two images with its own mask, such as --fixed-mask LABELS:1. `warp`, `points` and
    `export` take OUT as they take a run: each point or voxel goes through the run of its piece; in the gap points are
    nan and images 0.
    """
    given = numbered(runs)
    for path in given.values():
        require_run(path.removesuffix(":inverse"))
    from dataclasses import asdict

    from ..display import pairs
    from ..pipeline.pieces import pieces as join

    joined = join(labels, given, out=target, frame=frame)
    if as_json:
        print_json(out=target, pieces=[asdict(piece) for piece in joined.summary()])
        return
    rows = []
    for piece in joined.summary():
        told = f"{piece.voxels} voxels, {piece.run}: {piece.outside:.1%} of it outside the other image"
        rows.append((f"label {piece.label}", f"{told}, {piece.overlap:.1%} claimed by another piece as well"))
    out.print(pairs(rows), soft_wrap=True)
    out.print(f"{target}: {len(rows)} pieces; use it as a run in warp, points and export", soft_wrap=True)


def run_of(text: str) -> tuple[int | None, str]:
    """LABEL=RUN as both; a run alone has no label."""
    label, equals, run = text.partition("=")
    return (int(label), run) if equals and label.isdigit() else (None, text)


def numbered(texts: list[str]) -> dict[int, str]:
    """Runs by label. Raises BadParameter where some have a label and some not, or two have one."""
    found = [run_of(text) for text in texts]
    labels = [label for label, _ in found]
    if all(label is None for label in labels):
        return dict(enumerate((run for _, run in found), start=1))
    if None in labels or len(set(labels)) < len(labels):
        raise typer.BadParameter(f"{' '.join(texts)}: give each run its own label as LABEL=RUN, or none of them any")
    return {label: run for label, run in found if label is not None}
