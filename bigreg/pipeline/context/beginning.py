"""Where a run begins: what `affine.start` names, read and checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ... import storage
from ...config import Config
from ...errors import ConfigError, InputError, named
from ...geometry import Grid
from ...transforms.files import axes_of, open_maps, unit_um
from ...transforms.maps import Frame
from ..store.inputs import INVERSE
from ..store.store import RunStore, is_run, require_fields
from .context import IMAGES, Context
from .given import GivenStart, RunStart
from .ladder import ladder
from .lying import lying


def beginning(config: Config, volumes: Mapping[str, Any]) -> tuple[Config, GivenStart | None]:
    """The given start, and the configuration with its path made absolute and a ladder that fits it.

    Raises InputError as `given_start` does and where it mirrors without `affine.allow_mirror`, ConfigError where a
    level would be too coarse for the maps of a run.
    """
    if config.affine.start is None:
        return config, None
    local = storage.local_path(config.affine.start)
    path = config.affine.start if local is None else str(local)
    config = config.model_copy(update={"affine": config.affine.model_copy(update={"start": path})})
    given = given_start(config, volumes)
    assert given is not None, "affine.start names one"
    _require_no_mirror(config, given, volumes)
    if given.run is None:
        return config, given
    if not config.deformation:
        raise ConfigError(
            f"affine.start '{path}' is a run, whose deformation would be taken over, and there is to be none "
            f"(deformation: false); start from its affine alone (bigreg export {path} start.txt)"
        )
    if config.landmarks.spline:
        raise ConfigError(
            f"affine.start '{path}' is a run, whose maps this one would begin with, and landmarks.spline true would "
            "begin with others; leave one out"
        )
    frames = given.frames(*(volumes[w].grid() for w in IMAGES))
    wanted = np.asarray(given.run.lattice.grid.spacing) * (1 + 1e-6)

    def trimmed(coarsest: int) -> Config:
        return config.model_copy(update={"ladder": config.ladder.model_copy(update={"coarsest": coarsest})})

    coarsest = config.ladder.coarsest or max(p.downsample for p in ladder(frames, config))
    found = coarsest
    while found >= config.ladder.finest and (ladder(frames, trimmed(found))[0].lattice.grid.spacing > wanted).any():
        found //= 2
    if found < config.ladder.finest or (config.ladder.coarsest is not None and found < coarsest):
        asked = "finest" if found < config.ladder.finest else "coarsest"
        raise ConfigError(
            f"ladder.{asked} {getattr(config.ladder, asked)} would lose what the start '{path}' holds: its maps are "
            f"sampled every {np.asarray(given.run.lattice.grid.spacing).round(3).tolist()} µm; set a smaller one, more "
            "ladder.samples, or start from its affine alone"
        )
    return trimmed(found), given


def _require_no_mirror(config: Config, given: GivenStart, volumes: Mapping[str, Any]) -> None:
    if config.affine.allow_mirror:
        return
    if np.linalg.det(np.linalg.solve(lying(*(volumes[w] for w in IMAGES)), given.matrix)[:3, :3]) < 0:
        asked = named("--allow-mirror", "affine.allow_mirror=true")
        raise InputError(
            f"start '{given.path}' mirrors: it turns left into right; check its axes and units (affine.start_axes), "
            f"the pairs or the orientations, or set {asked} where one image is stored mirrored"
        )


def given_start(config: Config, volumes: Mapping[str, Any]) -> GivenStart | None:
    """What `affine.start` names, for two images; None where nothing is given.

    Raises InputError where it is no start: displacements of another program, a run that is not finished or whose maps
    do not cover the images, an affine that leaves them apart.
    """
    path = config.affine.start
    if path is None:
        return None
    grids = volumes["fixed"].grid(), volumes["moving"].grid()
    ends = [Frame(volumes[w].grid(), volumes[w].orientation) for w in IMAGES]
    file, backwards = path.removesuffix(INVERSE), path.endswith(INVERSE)
    if is_run(file):
        if backwards:
            raise InputError(
                f"start '{path}': a run is a start forwards only; exchange fixed and moving, or start from it"
            )
        return _of_run(file, *grids)
    if axes_of(config.affine.start_axes) == "xyz":
        ends = [Frame(end.grid) for end in ends]
    source, target = ends[::-1] if backwards else ends
    found, _ = open_maps(file, source, target, unit_um(config.affine.start_unit))
    if found.matrix is None:
        raise InputError(
            f"start '{path}' holds displacements; start from its affine, or from the run that they come from"
        )
    start = GivenStart(path, np.linalg.inv(found.matrix) if backwards else found.matrix)
    _require_overlap(start, *grids)
    return start


def _of_run(path: str, fixed: Grid, moving: Grid) -> GivenStart:
    store = RunStore(path)
    require_fields(store)
    context = Context(store.url, "start")
    lattice = context.levels[0].lattice
    url = store.url if storage.local_path(store.url) is None else str(storage.local_path(store.url))
    run = RunStart(url, store.attributes["created"], context.frames.canonical, context.frames.half, lattice)
    start = GivenStart(path, context.frames.affine, run)
    low, high = start.frames(fixed, moving).domain()
    first = np.asarray(lattice.origin)
    last = first + np.multiply(lattice.cells, lattice.spacing)
    if (low < first - 1e-3).any() or (high > last + 1e-3).any():
        raise InputError(
            f"start '{path}': its maps span {first} to {last} µm half-way, the images {low} to {high}: it was made of "
            f"smaller images; start from its affine alone (bigreg export {path} start.txt)"
        )
    return start


def _require_overlap(start: GivenStart, fixed: Grid, moving: Grid) -> None:
    frames = start.frames(fixed, moving)
    boxes = [frames.grid(w).bounds(frames.to_mid(w), faces=True) for w in IMAGES]
    if (np.minimum(boxes[0][1], boxes[1][1]) <= np.maximum(boxes[0][0], boxes[1][0])).any():
        raise InputError(
            f"start '{start.path}' leaves fixed and moving apart: half-way they span {boxes[0]} and {boxes[1]} µm; "
            f"it must lead from fixed to moving, in µm (ITK: {named('--set ', '')}affine.start_unit=...), ':inverse' "
            "turns it round"
        )
