"""What several verbs take: images, configuration, workers."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


def require_there(path: str, what: str = "does not exist; check the path") -> None:
    """Raise InputError for a place of this machine where nothing is, before all that takes seconds to import."""
    from ..errors import InputError
    from ..places import absent

    if absent(path):
        raise InputError(f"'{path}' {what}")


def require_image(path: str, name: str = "image") -> None:
    """The same for an image, which may be a glob of slices."""
    import glob
    import os

    from ..errors import InputError
    from ..places import absent, local_path

    local = local_path(path)
    if local is not None and not glob.has_magic(str(local)) and not os.path.lexists(local) and absent(path):
        raise InputError(f"{name} '{path}' does not exist; check the path")


def require_run(path: str) -> None:
    require_there(path, "is not a bigreg run; check the path")


def require_map(path: str) -> None:
    require_there(
        path.removesuffix(":inverse"), "does not exist: neither a run nor a transform file is there; check the path"
    )


Triple = tuple[float, float, float]
Fixed = Annotated[
    str, typer.Argument(metavar="FIXED", help="The fixed image; results are shown in its space. Path or URL.")
]
Moving = Annotated[
    str, typer.Argument(metavar="MOVING", help="The moving image, which is brought onto it. Path or URL.")
]
RunStore = Annotated[str, typer.Argument(metavar="RUN", help="The run store, a Zarr group: path or URL.")]
Direction = Annotated[
    str, typer.Option(help="fixed_to_moving brings moving onto fixed; moving_to_fixed the other way.")
]
Preset = Annotated[
    str | None,
    typer.Option(help="rounds, individuals, brain-to-atlas, rounds-learned or demo. Default: what `doctor` finds."),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file; `bigreg config rounds` prints one.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One value, such as blocks.core=96.")]
ClusterName = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NAME|FILE",
        help="Where to run: local (default), cuda, slurm, lsf, pbs, sge, kubernetes, address, or a YAML file.",
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Number of worker processes. Default on this machine: one per core.")
]
AcceptFailed = Annotated[
    bool, typer.Option("--accept-failed", help="Treat failed blocks as blank instead of ending incomplete.")
]
AcceptStart = Annotated[
    int | None,
    typer.Option("--accept-start", metavar="N", min=1, help="Use start N of those that were listed as doubtful."),
]
AllowDeviceChange = Annotated[
    bool,
    typer.Option(
        "--allow-device-change",
        help="Continue a run on another kind of device (CPU, model of GPU); sums may differ in their last digits.",
    ),
]
Quick = Annotated[
    bool,
    typer.Option("--quick", help="Only the coarse levels, with map, risk and report: a look before the long run."),
]
AffineOnly = Annotated[
    bool,
    typer.Option("--affine-only", help="Stop after the affine (rigid with --set affine.kind=rigid); no deformation."),
]


class Level(StrEnum):
    """Verdicts on which a command can fail."""

    LOOK = "look"
    BAD = "bad"


FailOn = Annotated[
    Level | None,
    typer.Option(
        "--fail-on",
        help="Exit with status 11 if the verdict is bad (Not usable); with look, also if it is Check before use.",
    ),
]
Memory = Annotated[str | None, typer.Option(help="Memory limit of each worker, such as 4GB.")]


def image_option(which: str, what: str, text: str) -> Any:
    metavar = "Z Y X" if what in ("spacing", "origin") else None
    return typer.Option(f"--{which}-{what}", help=text, metavar=metavar, rich_help_panel=f"{which.capitalize()} image")


DATASET = "Path inside a container (N5, Zarr, HDF5)."
SPACING = "Voxel size z y x in µm, if the file states none or a wrong one."
ORIENTATION = "Anatomical origin of z, y, x, e.g. psl = posterior, superior, left."
ORIGIN = "Position of the first voxel's centre (z y x, µm)."
OUTPUT = "New image: path or URL. Its suffix is the format: .ome.zarr .ome.tif .tif (ImageJ) .nii.gz .nii .nrrd."
DType = Annotated[
    str | None, typer.Option(help="Type of OUT's voxels, such as uint16; integers are rounded and clipped.")
]
Levels = Annotated[int | None, typer.Option(min=1, help="Largest number of pyramid levels of OUT (OME-Zarr).")]
OmeVersion = Annotated[
    str | None, typer.Option("--ome-version", help="OME-Zarr version of OUT: 0.5 (default), or 0.4 for older programs.")
]
Dataset = Annotated[str | None, typer.Option(help=DATASET)]
Time = Annotated[int | None, typer.Option(help="Time point, from 0.")]
Spacing = Annotated[Triple | None, typer.Option(metavar="Z Y X", help=SPACING)]
Origin = Annotated[Triple | None, typer.Option(metavar="Z Y X", help=ORIGIN)]
Orientation = Annotated[str | None, typer.Option(help=ORIENTATION)]
MASK = "Voxels to compare: a mask image (0: ignored), LABELS:1,3 (labels of an image), tissue, finite, padding, none."
FixedMask = Annotated[str | None, image_option("fixed", "mask", MASK)]
MovingMask = Annotated[str | None, image_option("moving", "mask", MASK)]
FixedDataset = Annotated[str | None, image_option("fixed", "dataset", DATASET)]
CHANNEL = "Channel, from 0, or its name. Several, such as 0,2, are paired in order with those of the other image."
LABELS = "Labels of it, such as a few rough regions drawn by hand, brought onto those of the other image. Path or URL."
FixedChannel = Annotated[str | None, image_option("fixed", "channel", CHANNEL)]
FixedLabels = Annotated[str | None, image_option("fixed", "labels", LABELS)]
FixedTime = Annotated[int | None, image_option("fixed", "time", "Time point, from 0.")]
FixedSpacing = Annotated[Triple | None, image_option("fixed", "spacing", SPACING)]
FixedOrigin = Annotated[Triple | None, image_option("fixed", "origin", ORIGIN)]
FixedOrientation = Annotated[str | None, image_option("fixed", "orientation", ORIENTATION)]
MovingDataset = Annotated[str | None, image_option("moving", "dataset", DATASET)]
MovingChannel = Annotated[str | None, image_option("moving", "channel", CHANNEL)]
MovingLabels = Annotated[str | None, image_option("moving", "labels", LABELS)]
LabelsWeight = Annotated[
    float | None, typer.Option("--labels-weight", help="Weight of the labels; that of the images is 1.")
]
MovingTime = Annotated[int | None, image_option("moving", "time", "Time point, from 0.")]
MovingSpacing = Annotated[Triple | None, image_option("moving", "spacing", SPACING)]
MovingOrigin = Annotated[Triple | None, image_option("moving", "origin", ORIGIN)]
MovingOrientation = Annotated[str | None, image_option("moving", "orientation", ORIENTATION)]


def masks_of(fixed: str | None, moving: str | None) -> list[str]:
    """The masks as overrides."""
    given = {"fixed": fixed, "moving": moving}
    return [f"masks.{which}={json.dumps(path)}" for which, path in given.items() if path is not None]


def overrides_of(given: list[str] | None, workers: int | None, memory: str | None) -> list[str]:
    extra = [f"cluster.workers={workers}"] if workers else []
    extra += [f"cluster.memory_limit={json.dumps(memory)}"] if memory else []  # quoted: bytes stay text too
    return [*(given or []), *extra]


def config_of(
    images: list[Any],
    preset: str | None,
    file: Path | None,
    cluster: str | None,
    overrides: list[str],
    run: str | None,
) -> tuple[Any, Any]:
    """The configuration, and the choice that led to it, which is told; None where a preset or a file is given."""
    from ..config import load_config

    config = load_config(file, preset=preset, cluster=cluster, overrides=overrides)
    if file is not None or preset is not None:
        return config, None
    from ..pipeline.choosing.choice import chosen_config
    from .app import out

    config, choice = chosen_config(dict(zip(("fixed", "moving"), images, strict=True)), overrides, cluster, run)
    if choice is not None:
        out.print(choice.line, soft_wrap=True)
    return config, choice


def images_of(fixed: str, moving: str, given: dict[str, Any]) -> list[Any]:
    """Both images, with the --fixed-... and --moving-... options among the verb's arguments."""
    require_image(fixed, "fixed")
    require_image(moving, "moving")
    from ..volumes import open_volume

    names = ("dataset", "time", "spacing", "origin", "orientation")
    found = []
    for which, path in (("fixed", fixed), ("moving", moving)):
        asked = given[f"{which}_channel"]
        first = None if asked is None else asked.partition(",")[0].strip()
        number = int(first) if first is not None and first.isdecimal() else None
        volume = open_volume(path, name=which, channel=number, **{n: given[f"{which}_{n}"] for n in names})
        if asked is not None:
            numbers = _channels(asked, volume)
            volume = volume if number == numbers[0] else volume.with_channel(numbers[0])
        found.append(volume)
    return found


def _channels(asked: str, volume: Any) -> list[int]:
    """The channels that an option names. Raises InputError for one that is not there."""
    from ..volumes import channel_names, channel_number

    if asked in channel_names(volume):  # with a comma in it
        return [channel_number(volume, asked)]
    return [channel_number(volume, part.strip()) for part in asked.split(",")]


def channel_overrides(images: list[Any], given: dict[str, Any], known: Any) -> list[str]:
    """What --fixed-channel and --moving-channel say of several channels, and the labels, as overrides.

    known   the configuration without them, whose pairs of channels keep their weights and settings
    Raises InputError where they are not as many, ConfigError where the configuration has another number of pairs.
    """
    from ..errors import ConfigError, InputError

    overrides = []
    asked = {which: given[f"{which}_channel"] for which in ("fixed", "moving")}
    numbers = [_channels(text or "0", image) for text, image in zip(asked.values(), images, strict=True)]
    several = max(map(len, numbers)) > 1
    if several and len(numbers[0]) != len(numbers[1]):
        said = " and ".join(
            f"--{w}-channel {asked[w] or '(none)'} names {len(n)}" for w, n in zip(asked, numbers, strict=True)
        )
        raise InputError(f"{said}: channels are compared in pairs, in order; name as many of both images")
    if several or (known.channels and any(asked.values())):
        pairs = [pair.model_dump(mode="json") for pair in known.channels] or [{} for _ in numbers[0]]
        if len(pairs) != len(numbers[0]):
            raise ConfigError(
                f"{len(numbers[0])} channels of each image are named, and the configuration has {len(pairs)} pairs "
                "(channels); name as many"
            )
        for pair, fixed, moving in zip(pairs, *numbers, strict=True):
            pair |= {"fixed": fixed, "moving": moving}
        overrides.append(f"channels={json.dumps(pairs)}")
    labels = {which: given.get(f"{which}_labels") for which in ("fixed", "moving")}
    for which, path in labels.items():
        if path is not None:
            overrides.append(f"labels.{which}={json.dumps(path)}")
    if any(labels.values()) and not all(labels.values()) and known.labels is None:
        missing = next(which for which, path in labels.items() if path is None)
        raise InputError(f"labels are given for one image only; pass --{missing}-labels too")
    if given.get("labels_weight") is not None:
        if not any(labels.values()) and known.labels is None:
            raise InputError("--labels-weight is given without labels; pass --fixed-labels and --moving-labels")
        overrides.append(f"labels.weight={given['labels_weight']}")
    return overrides


def tell_written(target: str, written: Any, as_json: bool) -> None:
    """What was written: time points and channels where there are several, voxels, levels."""
    from .app import out, print_json

    if as_json:
        print_json(
            out=target, times=written.times, channels=written.channels, shape=list(written.shape),
            spacing_um=list(written.spacing), dtype=str(written.dtype), levels=len(written.levels),
        )  # fmt: skip
        return
    shape = [n for n in (written.times, written.channels) if n > 1] + list(written.shape)
    count = len(written.levels)
    out.print(
        f"{target}: {' x '.join(map(str, shape))} voxels, {count} level{'s' if count > 1 else ''}", soft_wrap=True
    )


def tell(images: list[Any], *, every: bool = False) -> None:
    """A line for each image: what was understood of it. `every`: all channels and time points are used."""
    from ..volumes.told import understood
    from .app import out

    for image in images:
        out.print(f"{image.name}: {understood(image, every=every)['line']}", soft_wrap=True, highlight=False)
