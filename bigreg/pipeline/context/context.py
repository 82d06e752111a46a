"""What a task sees of its run: opened once in each worker process and kept while the run's attributes stand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch

from ...config import Config
from ...device import current_device
from ...engines import Engine
from ...engines.chain import chained
from ...geometry import Grid, Shape
from ...intensity import LIMIT
from ...storage import Array, configure
from ...transforms.positions import Positions
from ...volumes import ImageSpec, open_volume
from ..store.identity import same_engines
from ..store.store import FOUND, FOUND_LABELS, RunStore
from .channels import IMAGES as IMAGES
from .channels import Pair, everything, images, intensity_of, is_labels, mask_of, pairs, preprocess_of
from .despeckled import DespeckledVolume, Impulses, Readable
from .engines import engine_choice, matched_by
from .frames import Frames
from .given import PLACE, GivenStart
from .images import LevelImage
from .label_images import CommonLabels, LabelVolume, OneHots
from .ladder import LevelPlan, along_axes, ladder, pooling
from .masks import NONE, TISSUE, Mask, SourceMask, source_mask
from .pairing import PairGrid, pair_grid, sought
from .seen import Measured, SeenImage, seen_image


class Context:
    """Read-only view of a run. `stamp` tells one state of its attributes from the next."""

    def __init__(self, url: str, stamp: str) -> None:
        self.store = RunStore(url)
        self.attributes = self.store.attributes
        self.config = Config.model_validate(self.attributes["config"])
        io = self.config.io
        configure(copies=io.copies, transfers=io.transfers, cache_bytes=io.cache_bytes)
        self._arrays: dict[str, Array] = {}

    @cached_property
    def volumes(self) -> dict[str, Any]:
        """All images, labels as a LabelVolume, any other as a Volume."""
        known, grids = self.store.images, self.attributes.get("label_grids", {})
        opened = {w: open_volume(ImageSpec.model_validate(known[w]), name=w) for w in everything(self.config)}
        return {
            w: LabelVolume(volume, w, Grid.from_json(grids[w])) if is_labels(w) else volume
            for w, volume in opened.items()
        }

    @property
    def images(self) -> tuple[str, ...]:
        """The names of all images but labels."""
        return images(self.config)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Which images are compared with each other, without labels."""
        return pairs(self.config)

    def pooling(self, which: str, spacing: Sequence[float]) -> Shape:
        """By how much an image is block-averaged for a level of that spacing."""
        grid = self.volumes[which].grid() if is_labels(which) else None
        return pooling(self.frames, which, np.asarray(spacing), grid)

    @property
    def compared_volumes(self) -> dict[str, Readable]:
        """The images that engines compare: see `_compared_volumes`."""
        return self._compared_volumes()

    # No cached_property: it would hold its lock while it reads, and a thread that reads waits for its turn.
    @lru_cache(maxsize=1)  # noqa: B019
    def _compared_volumes(self) -> dict[str, Readable]:
        """The images that engines compare: without impulses, where there are any and the configuration does not say no.

        Known once they were looked for.
        """
        found: dict[str, Readable] = {}
        for which, volume in self.volumes.items():
            if is_labels(which):
                found[which] = volume
                continue
            setting, impulses = preprocess_of(self.config, which).despeckle, Impulses.read(self.store, which)
            out = impulses if impulses is not None and impulses.taken_out(setting) else None
            found[which] = volume if out is None else DespeckledVolume(volume, out.floor)
        return found

    @cached_property
    def given(self) -> GivenStart | None:
        """The start that the run was given."""
        return GivenStart.from_json(self.attributes.get("start"))

    @cached_property
    def frames(self) -> Frames:
        return Frames.from_json(self.attributes["frames"])

    @cached_property
    def levels(self) -> dict[int, LevelPlan]:
        return {plan.index: plan for plan in ladder(self.frames, self.config)}

    @property
    def coarse_to_fine(self) -> list[LevelPlan]:
        return [self.levels[index] for index in sorted(self.levels, reverse=True)]

    @property
    def precision(self) -> float:
        """What stored displacements are multiples of (um): a power of two, about 1/4096 of a voxel of the finest level.

        So they take half the space. A determinant that is verified at the edge of a block changes by less than 0.01 if
        its neighbour rounds its samples the other way, where samples are a voxel apart and the map stretches at most
        threefold.
        """
        return float(2.0 ** np.floor(np.log2(min(self.levels[0].spacing) / 4096)))

    @property
    def coarsest(self) -> LevelPlan:
        return self.levels[max(self.levels)]

    @cached_property
    def pair_grid(self) -> PairGrid:
        """Where pairs of points are looked for."""
        return pair_grid(self.frames)

    @property
    def steered(self) -> bool:
        """Whether pairs of landmarks steer the levels: given ones, or such as the run has found by itself."""
        if sought(self.config):
            return self.attributes.get(FOUND, {}).get("used", 0) > 0
        return self.config.landmarks.path is not None

    def matched_by(self, level: LevelPlan) -> str | None:
        """See `engines.matched_by`. A run that began before non-correspondence was looked for does without."""
        if "noncorrespondence" not in self.attributes["config"].get("masks", {}):
            return None
        return matched_by(self.config, level, len(self.levels))

    @property
    def splined(self) -> bool:
        """Whether the run begins with a spline through them."""
        return self.config.landmarks.spline and self.steered

    @property
    def device(self) -> torch.device:
        return current_device()

    @lru_cache(maxsize=64)  # noqa: B019 - contexts are few and live as long as the process
    def image(self, which: str, factors: Shape) -> LevelImage:
        return LevelImage(self.store, self.volumes[which], factors, self.source_mask(which))

    @lru_cache(maxsize=64)  # noqa: B019
    def compared_image(self, which: str, factors: Shape) -> LevelImage:
        """The same of the image that engines compare, before any other correction."""
        volume = self.compared_volumes[which]
        if volume is self.volumes[which]:
            return self.image(which, factors)
        return LevelImage(self.store, volume, factors, self.source_mask(which))

    @lru_cache(maxsize=64)  # noqa: B019
    def seen(self, which: str, factors: Shape, *, tiles: bool = True) -> LevelImage | SeenImage:
        """The image as engines see it: corrected, where the configuration says so (see `seen_image`)."""
        image, settings = self.compared_image(which, factors), preprocess_of(self.config, which)
        if not settings.any:
            return image
        measured = self.compared_image(which, Measured.known(self.store, which).factors)
        return seen_image(self.store, which, settings, image, measured, tiles=tiles)

    def level_image(self, which: str, level: LevelPlan) -> LevelImage | SeenImage:
        """The image at a level's resolution, as engines see it."""
        return self.seen(which, self.pooling(which, level.spacing))

    @cached_property
    def common_labels(self) -> CommonLabels | None:
        """The labels that are compared; None without any. Known once the affine is."""
        return CommonLabels.from_json(self.attributes[FOUND_LABELS]) if self.config.labels is not None else None

    @lru_cache(maxsize=64)  # noqa: B019
    def one_hots(self, which: str, level: LevelPlan) -> OneHots:
        """A label image at a level's resolution, as engines see it."""
        assert self.common_labels is not None, "there are labels"
        image = self.image(which, self.pooling(which, level.spacing))
        return OneHots(image, self.common_labels, along_axes(self.frames, which, np.asarray(level.spacing), image.grid))

    @lru_cache(maxsize=64)  # noqa: B019
    def source_mask(self, which: str) -> SourceMask | None:
        """The given mask of an image, whose weights every `image` has; None where none is given."""
        return source_mask(self.attributes, which)

    @lru_cache(maxsize=64)  # noqa: B019
    def tissue(self, which: str) -> Mask | None:
        """The found tissue of an image; None where none is sought. Known once the affine is."""
        return Mask.tissue(self.store, which) if mask_of(self.config, which) == TISSUE else None

    @lru_cache(maxsize=64)  # noqa: B019
    def mask(self, which: str) -> Mask | None:
        """Where an image is compared, at the finest resolution; None is everywhere. Known once the affine is."""
        if mask_of(self.config, which) == NONE and self.source_mask(which) is None:
            return None
        weights = self.level_image(which, self.levels[0]).weights
        return self.tissue(which) if weights is None else weights.mask()

    @lru_cache(maxsize=64)  # noqa: B019
    def engine(self, level: LevelPlan) -> Engine:
        """The engine of one pass of the ladder. Raises ConfigError where it is not what the run began with."""
        chosen = engine_choice(self.config, level, len(self.levels))
        engines = chosen.load(level.iterations)
        same_engines(self.attributes["engines"], chosen.identities(engines), self.store.url)
        return chained(engines)

    def array(self, *parts: str | int, write: bool = False) -> Array:
        key = f"{write}:{'/'.join(map(str, parts))}"
        if key not in self._arrays:
            self._arrays[key] = self.store.array(*parts, write=write)
        return self._arrays[key]

    def half_map(self, level: int, which: str) -> tuple[Array, Grid] | None:
        """The stored displacement mid-space -> `which` after a level (um, mid-space), and its grid; None before any.

        Before the coarsest level it is that of the run, or of the spline, that this one starts from.
        """
        if level not in self.levels:
            if self.splined:
                return self.array(PLACE, which), self.coarsest.lattice.grid
            if self.given is None or self.given.run is None:
                return None
            return self.array(PLACE, which), self.given.run.lattice.grid
        return self.array("levels", level, "maps", which), self.levels[level].lattice.grid

    def half_maps(self, which: str) -> list[tuple[Array, Grid]]:
        """What `half_map` was after each level, from before the coarsest to the finest."""
        known = (self.half_map(level, which) for level in range(self.coarsest.index + 1, -1, -1))
        return [each for each in known if each is not None]

    def half_way(self, places: Positions, level: int, which: str) -> Positions:
        """Places of mid-space in the world of `which`, through the map after a level (see `half_map`)."""
        known = self.half_map(level, which)
        if known is not None:
            places = places.moved(places.sample(field_reader(known[0]), known[1]))
        return places.through(self.frames.mid_to(which))

    def compared(self, which: str, values: torch.Tensor) -> torch.Tensor:
        """Values of `seen` as engines compare them: about 0 .. 1, their logarithm where the configuration says so."""
        return compressed(self.scaled(which, values), intensity_of(self.config, which).knee)

    def scaled(self, which: str, values: torch.Tensor, *, stored: bool = False) -> torch.Tensor:
        """Values as engines see them (or as they are stored) to intensities of about 0 .. 1, at most `bright`."""
        known = self.attributes
        low, high = (known.get("stored_intensity") or known["intensity"] if stored else known["intensity"])[which]
        return ((values - low) / (high - low)).clamp(max=self.bright(which))

    def bright(self, which: str) -> float:
        """The scaled intensity from which on voxels are no tissue."""
        return self.attributes.get("bright", {}).get(which, LIMIT)


def compressed(values: torch.Tensor, knee: float | None) -> torch.Tensor:
    """Intensities 0 .. 1 by log(1 + x / knee), still 0 .. 1; odd, so that noise around 0 stays noise."""
    if knee is None:
        return values
    return torch.sign(values) * torch.log1p(values.abs() / knee) / math.log1p(1.0 / knee)


@lru_cache(maxsize=4)
def context(url: str, stamp: str) -> Context:
    return Context(url, stamp)


def field_reader(array: Array):
    """A `read` for Positions.sample of an array with a leading axis."""
    return lambda start, stop: array.read((0, *start), (array.shape[0], *stop))
