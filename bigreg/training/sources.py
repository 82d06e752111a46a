"""The images that a network learns from, in mid-space, read patch by patch and never whole."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..config import Intensity
from ..errors import ConfigError, InputError
from ..geometry import Grid, Shape, triple
from ..pipeline.context.context import compressed, field_reader
from ..pipeline.context.frames import Frames
from ..pipeline.context.images import stored_level
from ..pipeline.context.ladder import level_spacing, pooling
from ..pipeline.context.lying import canonical_frame
from ..pipeline.tasks.start import percentiles
from ..transforms.affine import apply_affine
from ..transforms.positions import Positions
from ..volumes import Volume, downsample, open_volume
from .config import Source

BOX = 64  # voxels along an axis of the boxes that the intensities of a large image are judged by
BOXES = 48
SMALL = 2**24  # voxels of an image whose intensities are judged as a whole


class Pooled:
    """An image at the block means of `factors`: `grid`, and `read(start, stop)` of stored values (z, y, x)."""

    def __init__(self, volume: Volume, factors: Shape, *, labels: bool = False) -> None:
        self.volume, self.labels = volume, labels
        self.grid: Grid = volume.grid().downsampled(factors)
        self.level, self.rest = 0, factors
        # The coarsest level of the image's own pyramid that these means can be made of; means of labels are not labels.
        for level in () if labels else volume.levels:
            own = triple(round(f) for f in level.factors)
            index = stored_level(volume, own) if not any(f % o for f, o in zip(factors, own, strict=True)) else None
            if index is not None:
                self.level, self.rest = index, triple(f // o for f, o in zip(factors, own, strict=True))

    def read(self, start: Shape, stop: Shape) -> np.ndarray:
        """Voxels (z, y, x). Raises InputError at a voxel that is not a finite number."""
        low, high = (tuple(int(i) * r for i, r in zip(box, self.rest, strict=True)) for box in (start, stop))
        data = self.volume.read(low, high, self.level)
        if data.dtype.kind == "f" and not np.isfinite(data).all():
            raise InputError(
                f"{self.volume.name}: voxels {low} to {high} of level {self.level} hold a number that is not finite; "
                "replace NaN and Inf by the background value"
            )
        return downsample(data, self.rest, labels=self.labels) if max(self.rest) > 1 else data


@dataclass
class Patch:
    """What was read of one place: two images of a pair, or one to deform, on a grid of `spacing` um in mid-space.

    images, masks   (1 or 2, z, y, x) float32, intensities about 0 .. 1; 1 where there is data
    labels          (1 or 2, z, y, x) int64 or None
    points          (2, P, 3) index positions in the patch of landmarks of both images
    """

    images: np.ndarray
    masks: np.ndarray
    spacing: np.ndarray
    labels: np.ndarray | None = None
    points: np.ndarray = field(default_factory=lambda: np.zeros((2, 0, 3)))

    @property
    def synthetic(self) -> bool:
        return len(self.images) == 1


class Opened:
    """A source that is open.

    box     lower and upper corner (um) in mid-space of what both images see
    """

    def __init__(self, source: Source, intensity: Intensity, number: int) -> None:
        self.source, self.knee = source, intensity.knee
        names = ("image",) if source.image is not None else ("fixed", "moving")
        self.volumes = {n: open_volume(getattr(source, n), name=f"{n} of source {number}") for n in names}
        specs = [source.labels] if source.image is not None else [source.fixed_labels, source.moving_labels]
        self.labels = {
            n: open_volume(s, name=f"labels of {n} of source {number}")
            for n, s in zip(names, specs, strict=True)
            if s is not None
        }
        self.maps: dict[str, tuple] = {}
        self.frames = self._frames()
        self.scale = {n: _intensities(v, intensity) for n, v in self.volumes.items()}
        boxes = [self.frames.grid(w).bounds(self.frames.to_mid(w), faces=True) for w in ("fixed", "moving")]
        self.box = np.maximum(boxes[0][0], boxes[1][0]), np.minimum(boxes[0][1], boxes[1][1])
        if (self.box[1] <= self.box[0]).any():
            raise InputError(
                f"source {number}: the images do not overlap before registration; give its affine, or a run"
            )
        self.points = self._landmarks() if source.landmarks is not None else np.zeros((2, 0, 3))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.volumes)

    def _frames(self) -> Frames:
        if self.source.image is not None:
            grid = self.volumes["image"].grid()
            return Frames(grid, grid, np.eye(4), np.eye(4))
        fixed, moving = self.volumes["fixed"], self.volumes["moving"]
        if self.source.run is not None:
            from ..pipeline.run import open_run

            context = open_run(self.source.run)._context()
            self._check_run(context)
            if self.source.after is not None:
                if self.source.after not in context.levels:
                    raise ConfigError(
                        f"run '{self.source.run}' has no level {self.source.after}; it has {sorted(context.levels)}"
                    )
                found = ((w, context.half_map(self.source.after, w)) for w in ("fixed", "moving"))
                self.maps = {w: half for w, half in found if half is not None}
            return context.frames
        canonical = canonical_frame(fixed, moving)
        whole = np.eye(4) if self.source.affine is None else np.asarray(self.source.affine, dtype=float)
        if self.source.affine is not None:
            whole = np.linalg.inv(canonical) @ whole
        return Frames.from_affine(fixed.grid(), moving.grid(), canonical, whole)

    def _check_run(self, context) -> None:
        if "frames" not in context.attributes:
            raise InputError(f"run '{self.source.run}' has no affine yet; `bigreg resume` it first")
        for which, grid in (("fixed", context.frames.fixed), ("moving", context.frames.moving)):
            own = self.volumes[which].grid()
            if own.shape != grid.shape or not np.allclose(own.affine, grid.affine, rtol=1e-6):
                raise InputError(
                    f"{which} of run '{self.source.run}' has {grid.shape} voxels of {grid.spacing} µm, that of the "
                    f"training {own.shape} of {own.spacing} µm; give the same image, spacing and orientation"
                )

    def _landmarks(self) -> np.ndarray:
        assert self.source.landmarks is not None, "asked for only where there are some"
        path = Path(self.source.landmarks)
        try:
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            table = [[[float(r[f"{w}_{a}"]) for a in "zyx"] for r in rows] for w in ("fixed", "moving")]
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"landmarks '{path}' need columns fixed_z, fixed_y, fixed_x, moving_z, moving_y, moving_x (µm): {error}"
            ) from error
        places = zip(("fixed", "moving"), table, strict=True)
        return np.stack([apply_affine(self.frames.to_mid(w), np.reshape(p, (-1, 3))) for w, p in places])

    def spacing(self, downsampling: int) -> np.ndarray:
        """Voxel size (um) in mid-space of a level, as the pipeline has it."""
        base = np.maximum(self.frames.mid_spacing("fixed"), self.frames.mid_spacing("moving"))
        return level_spacing(base, self.box[1] - self.box[0], downsampling)

    def snapped(self, origin: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """The nearest place where the voxels of a patch are voxels of the image, which keeps it sharp.

        Only of an image by itself: two images have no voxels in common.
        """
        if len(self.volumes) > 1:
            return origin
        grid = self.volumes["image"].grid().downsampled(pooling(self.frames, "fixed", spacing))
        return grid.index_to_world(np.rint(grid.world_to_index(origin[None])))[0]

    def read(self, grid: Grid) -> Patch:
        """The patch of a mid-space grid; reads the boxes of the images that it falls in, and nothing else."""
        images, masks, labels = [], [], []
        for name, which in zip(self.names, ("fixed", "moving"), strict=False):
            positions = Positions.of_grid(grid)
            if which in self.maps:
                array, where = self.maps[which]
                positions = positions.moved(positions.sample(field_reader(array), where))
            positions = positions.through(self.frames.mid_to(which))
            factors = pooling(self.frames, which, np.asarray(grid.spacing))
            image = Pooled(self.volumes[name], factors)
            mask = positions.inside(image.grid).float()
            low, high = self.scale[name]
            values = (positions.sample(image.read, image.grid)[0] - low) / (high - low)
            images.append((compressed(values, self.knee) * mask).numpy())
            masks.append(mask.numpy())
            if name in self.labels:
                volume = self.labels[name]
                found = positions.sample(Pooled(volume, (1, 1, 1)).read, volume.grid(), "nearest")[0]
                labels.append((found * positions.inside(volume.grid())).long().numpy())
        return Patch(
            np.stack(images), np.stack(masks), np.asarray(grid.spacing), np.stack(labels) if labels else None,
            (self.points - grid.origin) / np.asarray(grid.spacing),
        )  # fmt: skip


def _intensities(volume: Volume, intensity: Intensity) -> tuple[float, float]:
    """The values that become 0 and 1, of a coarse level if the image has one, else of boxes all over it."""
    level = next((i for i, v in enumerate(volume.levels) if v.grid.voxels <= SMALL), len(volume.levels) - 1)
    shape = volume.grid(level).shape
    if volume.grid(level).voxels <= SMALL:
        data = volume.read((0, 0, 0), shape, level)
    else:
        rng = np.random.default_rng(0)
        size = np.minimum(shape, BOX)
        starts = rng.integers(0, np.subtract(shape, size) + 1, (BOXES, 3))
        data = np.concatenate([volume.read(tuple(s), tuple(s + size), level).ravel() for s in starts])
    return percentiles(volume.name, data, intensity.low, intensity.high)


Reader = Callable[[Grid], Patch]


def as_tensor(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """A contiguous float32 tensor on a device."""
    return torch.as_tensor(np.ascontiguousarray(values, dtype=np.float32), device=device)
