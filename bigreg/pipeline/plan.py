"""What a run will cost, before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.utils import format_bytes

from ..cluster import BASE_BYTES, worker_count, worker_memory
from ..config import Config, load_config
from ..engines import load_engine
from ..volumes import Volume, open_volume
from .frames import Frames
from .ladder import LevelPlan, ladder, pooling
from .start import provisional

PATCH_ARRAYS = 40
"""float32 arrays of a patch's size that are alive at once at the worst moment of an estimate (measured)."""
FEATURE_ARRAYS = 4
"""And for each further channel of what a similarity compares: of both images, as they lie and warped."""
SECONDS_PER_MVOXEL_STEP = 0.15
"""One engine step on a million voxels on one core of a 2020s CPU (measured, lncc radius 3)."""


@dataclass(frozen=True)
class Plan:
    """Levels (coarsest first), blocks of all levels, bytes, and a rough time.

    memory_per_worker   bytes, from the block alone; memory_limit: what the configured local cluster gives each worker
    bytes_read, bytes_written   from the images and to the run store
    seconds   of all workers of the configured local cluster together, estimated
    """

    levels: tuple[LevelPlan, ...]
    blocks: int
    memory_per_worker: int
    memory_limit: int
    bytes_read: int
    bytes_written: int
    seconds: float
    redundancy: float

    def rows(self) -> list[tuple[str, str]]:
        """(what, value) for people."""
        rows = [
            (
                f"level {p.index}",
                f"voxels of {' x '.join(f'{s:.3g}' for s in p.spacing)} um, "
                f"{' x '.join(map(str, p.blocks.counts))} blocks, at most {p.iterations} steps",
            )
            for p in self.levels
        ]
        minutes = self.seconds / 60
        return [
            *rows,
            ("blocks", f"{self.blocks}"),
            ("memory a worker", f"{format_bytes(self.memory_per_worker)} of {format_bytes(self.memory_limit)} allowed"),
            ("read", format_bytes(self.bytes_read)),
            ("written", format_bytes(self.bytes_written)),
            ("overlap", f"{self.redundancy:.2f} voxels read for each voxel of the domain at the finest level"),
            ("time", f"about {minutes:.0f} minutes" if minutes >= 2 else f"about {self.seconds:.0f} s"),
        ]


def make_plan(frames: Frames, volumes: dict[str, Volume], config: Config) -> Plan:
    """The plan for frames that are known or provisional."""
    levels = ladder(frames, config)
    memory = read = written = 0
    seconds = 10.0
    engine = load_engine(config.engine, {**config.engine_options, "iterations": 1})
    arrays = PATCH_ARRAYS + FEATURE_ARRAYS * (getattr(engine, "channels", 1) - 1)
    for level in levels:
        voxels = np.asarray(level.patch((0, 0, 0), _largest(level)).grid.shape, dtype=float)
        memory = max(memory, int(arrays * 4 * voxels.prod()))
        domain = float(np.prod(np.multiply(level.lattice.cells, level.cell_voxels), dtype=float))
        seconds += domain * level.blocks.redundancy * level.iterations * SECONDS_PER_MVOXEL_STEP / 1e6
        read += sum(int(domain * level.blocks.redundancy) * volumes[w].dtype.itemsize for w in volumes)
        written += int(2 * 12 * np.prod(level.lattice.grid.shape, dtype=float))
        for which, volume in volumes.items():
            factors = pooling(frames, which, np.asarray(level.spacing))
            written += int(volume.grid().voxels / np.prod(factors)) * volume.dtype.itemsize if max(factors) > 1 else 0
    finest = levels[-1].lattice
    cell = np.prod(np.divide(finest.spacing, finest.samples))
    written += int(sum(12 * g.voxels * np.prod(g.spacing) / cell for g in (frames.fixed, frames.moving)))
    if config.output.warped:
        written += int(frames.fixed.voxels * volumes["moving"].dtype.itemsize * 8 / 7)
    return Plan(
        tuple(levels),
        sum(len(p.blocks) for p in levels),
        memory + BASE_BYTES + config.io.cache_bytes,
        worker_memory(config.cluster),
        read,
        written,
        seconds / worker_count(config.cluster),
        levels[-1].blocks.redundancy,
    )


def _largest(level: LevelPlan) -> tuple[int, int, int]:
    blocks = level.blocks
    return tuple(min(c + 2 * h, n) for c, h, n in zip(blocks.core, blocks.halo, blocks.cells, strict=True))


def plan(fixed: Any, moving: Any, *, config: Any = None) -> Plan:
    """Blocks, memory per worker, bytes read and written and estimated time of `register(fixed, moving)`.

    Reads no voxel; the affine is taken to put the images centre on centre.
    """
    config = load_config(config)
    volumes = {"fixed": as_volume(fixed, "fixed"), "moving": as_volume(moving, "moving")}
    return make_plan(provisional(volumes["fixed"], volumes["moving"]), volumes, config)


def as_volume(source: Any, name: str) -> Volume:
    """An image argument: path, URL, ImageSpec, Volume, or a pair (array, spacing in um)."""
    if isinstance(source, tuple) and len(source) == 2 and hasattr(source[0], "shape"):
        return open_volume(source[0], spacing=source[1], name=name)
    return open_volume(source, name=name)
