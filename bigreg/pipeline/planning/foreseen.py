"""What is foreseen of a run, written down stage by stage: blocks with their work, and every array of the store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...config import Config
from ...engines import Engine
from ...geometry import BlockGrid, Grid, Shape, triple
from ...similarity import by_name
from ...volumes import Volume
from ..context import images, masks
from ..context.channels import images as images_of
from ..context.channels import is_labels, mask_of, pairs, preprocess_of
from ..context.despeckled import DespeckledVolume, Source
from ..context.engines import EngineChoice, engine_choice
from ..context.frames import Frames
from ..context.given import GivenStart
from ..context.label_images import MOST
from ..context.ladder import LevelPlan, pooling
from ..context.outline import Outline
from ..schedule.flow import Stage
from ..store.inputs import Image
from ..store.store import Progress
from ..tasks import preprocess
from .workload import Amount, Stored, Work, spans

MILLION = 1e-6
SAMPLE_ARRAYS = 60
"""float32 arrays of a block's size while a field is inverted and verified, or an image resampled."""
PATCH_ARRAYS = 40
"""float32 arrays of a patch's size that are alive at once at the worst moment of an estimate (measured)."""
FEATURE_ARRAYS = 4
"""And for each further channel of what a similarity compares: of both images, as they lie and warped."""
CHANNEL_ARRAYS, PER_CHANNEL = 4, 6
"""And for each further pair of channels, or labels: masks and what is added up; and of each of its features both images
as they are read, compared and warped (measured)."""
LABELS_TAKE = 3.5
"""Time of the most labels that are compared, of that of an image by local correlation (measured; 6 of them 1.3)."""


@dataclass(eq=False)
class Foreseen:
    """The record, and what is asked again and again of a run that is not there yet.

    volumes      both images, or descriptions of them
    start_from   the start that the run is given
    phase        that of the stages that are written down next (see `Work`)
    """

    outline: Outline
    volumes: dict[str, Image]
    start_from: GivenStart | None = None
    stages: list[Work] = field(default_factory=list)
    arrays: list[Stored] = field(default_factory=list)
    phase: int = 0

    def __post_init__(self) -> None:
        self.made: dict[str, set[Shape]] = {}
        self._needs: dict[EngineChoice, float] = {}
        self.mask_files: dict[str, masks.GivenMask] = {}
        self.masks = {which: self._mask(which) for which in self.volumes}

    @property
    def frames(self) -> Frames:
        return self.outline.frames

    @property
    def config(self) -> Config:
        return self.outline.config

    @property
    def images(self) -> tuple[str, ...]:
        """The names of all images but labels."""
        return images_of(self.config)

    def pooling(self, which: str, spacing: Sequence[float]) -> Shape:
        """By how much an image is block-averaged for a level of that spacing."""
        grid = self.volumes[which].grid() if is_labels(which) else None
        return pooling(self.frames, which, np.asarray(spacing), grid)

    @property
    def levels(self) -> dict[int, LevelPlan]:
        return self.outline.levels

    def add(self, stage: Stage, does: tuple = (), **more) -> None:
        """A stage with its work, and the arrays in which the store keeps how it goes."""
        needs = stage.needs
        self.stages.append(
            Work(
                stage.name, stage.title, stage.counts, self.phase, does, metrics=len(stage.metrics), needs=needs, **more
            )
        )
        unit = tuple(min(n, Progress.CHUNK) for n in stage.counts)
        self.arrays.append(Stored(f"{stage.name}/status", stage.counts, unit, 1))
        self.arrays.append(Stored(f"{stage.name}/worker", stage.counts, unit, 4))
        if stage.metrics:
            self.arrays.append(Stored(f"{stage.name}/metrics/*", stage.counts, unit, 4, arrays=len(stage.metrics)))
        else:
            self.arrays.append(Stored(f"{stage.name}/metrics/", (), (), 0, arrays=0))

    def keeps(self, place: str, shape: Sequence[int], unit: Sequence[int], itemsize: int) -> None:
        """An array of the store; `unit` is a file."""
        self.arrays.append(Stored(place, tuple(shape), tuple(unit), itemsize))

    def images_of(self, which: str) -> list[Source]:
        """An image as it is stored, and before it as it is compared, where that is another."""
        volume = self.volumes[which]
        if is_labels(which) or preprocess_of(self.config, which).despeckle is not True:
            return [volume]
        return [DespeckledVolume(volume, 0.0), volume]

    def source(self, which: str, factors: Shape, *, compared: bool = True) -> tuple[Grid, Shape, int, bool]:
        """Of an image at one resolution: grid, chunks, bytes a voxel, whether it is the image's own."""
        return self.level_of(self.images_of(which)[0 if compared else -1], factors, which)

    def level_of(self, volume: Source, factors: Shape, which: str) -> tuple[Grid, Shape, int, bool]:
        level, itemsize = images.own_level(volume, factors, self.masks[which]), np.dtype(volume.dtype).itemsize
        if level is not None:
            return volume.grid(level), volume.chunks, itemsize, True
        grid = volume.grid().downsampled(factors)
        return grid, triple(min(images.BLOCK, n) for n in grid.shape), min(itemsize, 4), False

    def voxel_bytes(self, level: LevelPlan) -> float:
        """Bytes a voxel of a patch at the worst moment of an estimate; of several engines that need most."""
        chosen = engine_choice(self.config, level, len(self.levels))
        if chosen not in self._needs:
            self._needs[chosen] = max(
                4 * (PATCH_ARRAYS + FEATURE_ARRAYS * (getattr(engine, "channels", 1) - 1) + self._more_arrays(engine))
                + getattr(engine, "bytes_a_voxel", 0)
                for engine in chosen.load(level.iterations).values()
            )
        return self._needs[chosen]

    def card_bytes(self, level: LevelPlan) -> float:
        """The same of a GPU's memory."""
        chosen = engine_choice(self.config, level, len(self.levels))
        engines = chosen.load(level.iterations).values()
        return max(
            float(getattr(engine, "card_bytes_a_voxel", self.voxel_bytes(level))) + 4 * self._more_arrays(engine)
            for engine in engines
        )

    def all_channels(self, one: Amount) -> Amount:
        """What all pairs of channels take, and labels, where one takes that."""
        return Amount(one.each * (len(self.images) / 2 + LABELS_TAKE * (self.config.labels is not None)), one.lengths)

    def _more_arrays(self, engine: Engine) -> int:
        """Arrays of a patch's size that are there because of further channels, and labels."""
        own = getattr(engine, "channels", 1)
        kept = [own if p.similarity is None else by_name(p.similarity).channels for p in pairs(self.config)[1:]]
        kept += [MOST] if self.config.labels is not None else []
        return sum(PER_CHANNEL * channels + CHANNEL_ARRAYS for channels in kept)

    def coarsened(self, stage: Stage, finer: BlockGrid, blocks: BlockGrid, voxel_bytes: int) -> None:
        """A level of a pyramid, made of the one before."""
        ratio = tuple(max(1, round(a / b)) for a, b in zip(finer.cells, blocks.cells, strict=True))
        box = spans(blocks, scale=ratio)
        voxels = Amount.of(MILLION * max(1, voxel_bytes // 4), box)
        self.add(
            stage, (("downsample", voxels),), reads=(Amount.of(voxel_bytes, box),),
            writes=(Amount.of(voxel_bytes, spans(blocks)),), memory=voxels.largest / MILLION * (voxel_bytes + 6),
        )  # fmt: skip

    def _mask(self, which: str) -> masks.SourceMask | None:
        """What matters of a given mask: the finest resolution that is compared."""
        if is_labels(which):
            return None
        choice, floats = mask_of(self.config, which), np.dtype(self.volumes[which].dtype).kind == "f"
        if choice in (masks.AUTO, masks.NONE, masks.TISSUE) or (choice == masks.FINITE and not floats):
            return None
        base = preprocess.level_of(self.frames, self.config, which)
        image = self.volumes[which]
        if choice not in masks.OWN and isinstance(image, Volume):
            self.mask_files[which] = masks.given_mask(choice, which, image)
        identity = {"padding": math.nan} if choice == masks.PADDING else {}  # which value it is, costs nothing
        return masks.SourceMask(which, {"base": base, "image": None, "identity": identity})
