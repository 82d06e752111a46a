"""What a run will cost, before it starts, and for images that do not exist yet."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dask.utils import format_bytes

from ... import storage
from ...cluster import BASE_BYTES, card_memory, worker_count, worker_memory
from ...config import Config, load_config
from ...errors import ConfigError, InputError
from ...quality.verdict import roughly
from ...volumes import Volume
from ...volumes.described import described
from ..choosing.choice import chosen_config
from ..context.beginning import beginning
from ..context.engines import check_spacings, settled_engines
from ..context.frames import Frames
from ..context.given import GivenStart
from ..context.inputs import chosen_channels, with_labels
from ..context.ladder import LevelPlan, ladder
from ..context.lying import provisional
from ..context.masks import given_masks
from ..store.inputs import Image, as_pair, require_one_plane
from ..tasks.steering import given_pairs
from .foresee import foresee
from .rates import Rates, known_rates
from .simulate import Simulation, simulate
from .workload import Work, Workload

WAITING = 0.75
"""What a block holds while it is read or written and another is computed, for each byte of the latter at its worst."""
CARD_BASE_BYTES = 500 << 20
"""What a process holds of a GPU before it computes; predicted, not measured."""
MANY_FILES = 10**6
"""Files at which file systems and copying become slow."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run does: levels (coarsest first), every stage and every array, and what that costs at some rates.

    workers             of the configured cluster
    in_hand             blocks that each has in hand
    memory_per_worker   bytes, from the block alone; memory_limit: what the configured local cluster gives each worker
    card_per_worker     bytes of a GPU's memory, 0 where none works; card_limit: each worker's part of a GPU, or None
    remark              on the rates, for people
    """

    levels: tuple[LevelPlan, ...]
    work: Workload
    workers: int
    in_hand: int
    memory_per_worker: int
    memory_limit: int
    rates: Rates = dataclasses.field(default_factory=Rates)
    remark: str = ""
    deformation: bool = True
    card_per_worker: int = 0
    card_limit: int | None = None

    @property
    def stages(self) -> tuple[Work, ...]:
        return self.work.stages

    @property
    def blocks(self) -> int:
        """Patches of all levels."""
        return sum(len(p.blocks) for p in self.levels)

    @property
    def tasks(self) -> int:
        """Blocks of all stages."""
        return sum(w.blocks for w in self.stages)

    @property
    def redundancy(self) -> float:
        """Voxels read for each voxel of the domain at the finest level."""
        return self.levels[-1].blocks.redundancy

    @property
    def bytes_read(self) -> int:
        """By all stages, whole chunks, before compression."""
        return sum(w.bytes_read for w in self.stages)

    @property
    def bytes_written(self) -> int:
        return sum(w.bytes_written for w in self.stages)

    @property
    def files(self) -> int:
        """Of the finished run, metadata included."""
        return self.work.files

    @property
    def disk(self) -> int:
        """Bytes of the finished run before compression: nothing that is written is taken away again."""
        return self.work.bytes

    @property
    def disk_peak(self) -> int:
        """Bytes at the worst moment: a file is written beside the one that it replaces."""
        largest = max(math.prod(a.unit) * a.itemsize for a in self.work.arrays)
        return self.disk + self.workers * largest

    @property
    def worker_seconds(self) -> float:
        """Computing, reading and writing of all blocks, one after the other: CPU- or GPU-seconds."""
        return sum(_seconds(w, self.rates)[0] for w in self.stages)

    @property
    def seconds(self) -> float:
        """Wall time on the configured workers."""
        return self.wall_seconds(self.workers)

    def wall_seconds(self, workers: int) -> float:
        """Wall time on some workers, by Graham's bound for lists of tasks; `simulate` follows every block."""
        rates, total = self.rates, self.rates.start
        for phase in dict.fromkeys(w.phase for w in self.stages):
            stages = [w for w in self.stages if w.phase == phase]
            costs = [_seconds(w, rates) for w in stages]
            all_work = sum(work for work, _, _ in costs)
            chain = sum(longest for _, longest, _ in costs)
            shared = sum(moved for _, _, moved in costs) / rates.streams
            served = sum(w.blocks for w in stages) * rates.schedule
            total += max(all_work / workers + (1 - 1 / workers) * chain, shared, served) + rates.stage * len(stages)
        return total

    def simulate(self, workers: int, **options: Any) -> Simulation:
        """Follow every block on some workers (see `bigreg.pipeline.planning.simulate`)."""
        return simulate(self.stages, self.rates, workers, **{"overlap": self.in_hand > 1, **options})

    def rows(self) -> list[tuple[str, str]]:
        """(what, value) for people."""
        rows = [
            (
                f"level {p.index}",
                f"voxels of {' x '.join(f'{s:.3g}' for s in p.spacing)} µm, "
                f"{' x '.join(map(str, p.blocks.counts))} blocks, at most {p.iterations} steps",
            )
            for p in self.levels
            if self.deformation
        ] or [("deformation", "none: the affine alone")]
        kind = "CPU" if self.rates.device == "CPU" else "GPU"
        stored = self.rates.stored
        many = "; larger output.shard makes fewer" if self.files > MANY_FILES else ""
        return [
            *rows,
            ("blocks", f"{self.blocks}"),
            ("tasks", f"{self.tasks} in {len(self.stages)} stages"),
            (
                "memory per worker",
                f"{format_bytes(self.memory_per_worker)} of {format_bytes(self.memory_limit)} allowed",
            ),
            *self._card_row(),
            ("read", f"{format_bytes(self.bytes_read)} in whole chunks, uncompressed"),
            ("written", f"{format_bytes(self.bytes_written)} uncompressed"),
            (
                "disk",
                f"{format_bytes(self.disk)} uncompressed, about {format_bytes(int(self.disk * stored))} compressed; "
                f"at the peak {format_bytes(self.disk_peak - self.disk)} more",
            ),
            ("files", f"{self.files}{many}"),
            ("overlap", f"{self.redundancy:.2f} voxels read for each voxel of the domain at the finest level"),
            (f"{kind} time", roughly(self.worker_seconds)),
            ("time", f"about {roughly(self.seconds)} on {self.workers} worker{'s' * (self.workers != 1)}"),
            ("rates", self.rates.origin + (f"; {self.remark}" if self.remark else "")),
        ]

    def _card_row(self) -> list[tuple[str, str]]:
        if not self.card_per_worker:
            return []
        needed = format_bytes(self.card_per_worker)
        if self.card_limit is None:
            return [("GPU memory per worker", f"at least {needed}")]
        few = self.card_per_worker > self.card_limit
        remedy = "use fewer workers or make blocks.core smaller"
        short = f": TOO LITTLE, blocks will be computed in smaller pieces; {remedy}" if few else ""
        return [("GPU memory per worker", f"{needed} of {format_bytes(self.card_limit)}{short}")]

    def to_json(self) -> dict[str, Any]:
        """The same in numbers, with every stage; seconds, bytes, um (z, y, x)."""
        seconds = self.stage_seconds()
        return {
            "levels": [
                {
                    "level": p.index, "spacing_um": list(p.spacing), "blocks": list(p.blocks.counts),
                    "steps": p.iterations,
                }
                for p in self.levels
                if self.deformation
            ],
            "stages": [
                {
                    "name": w.name, "title": w.title, "blocks": w.blocks, "bytes_read": w.bytes_read,
                    "bytes_written": w.bytes_written, "worker_seconds": seconds[w.name],
                }
                for w in self.stages
            ],
            "blocks": self.blocks, "tasks": self.tasks, "workers": self.workers, "seconds": self.seconds,
            "worker_seconds": self.worker_seconds, "memory_per_worker_bytes": self.memory_per_worker,
            "memory_limit_bytes": self.memory_limit, "card_per_worker_bytes": self.card_per_worker,
            "card_limit_bytes": self.card_limit, "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written, "disk_bytes": self.disk,
            "disk_bytes_compressed": int(self.disk * self.rates.stored), "disk_peak_bytes": self.disk_peak,
            "files": self.files, "redundancy": self.redundancy, "device": self.rates.device,
            "rates": self.rates.origin, "remark": self.remark,
        }  # fmt: skip

    def place_rows(self, out: str | None) -> list[tuple[str, str]]:
        """A row on the disk where the run is to be, if that can be seen from here."""
        free = None if out is None else free_bytes(out)
        if free is None:
            return []
        needed = self.rates.stored * self.disk_peak
        enough = "enough" if free > needed else "TOO LITTLE"
        return [(f"free at {out}", f"{format_bytes(free)}: {enough} for about {format_bytes(int(needed))} compressed")]

    def stage_seconds(self) -> dict[str, float]:
        """CPU- or GPU-seconds of each stage."""
        return stage_seconds(self.stages, self.rates)


def stage_seconds(stages: Sequence[Work], rates: Rates) -> dict[str, float]:
    """Seconds of all blocks of each stage on one worker, by its name."""
    return {w.name: _seconds(w, rates)[0] for w in stages}


def _seconds(work: Work, rates: Rates) -> tuple[float, float, float]:
    """(seconds of all blocks, of the largest, of transfers alone) of a stage on one worker."""
    priced = [(rates.of(what, work.looks), a) for what, a in work.does]
    priced += [(rates.decode_seconds, a) for a in work.reads]
    priced += [(rates.source_decode_seconds, a) for a in work.source]
    priced += [(rates.encode_seconds, a) for a in work.writes]
    moved = [(rates.read_seconds, a) for a in (*work.reads, *work.source)]
    moved += [(rates.write_seconds, a) for a in work.writes]
    return (
        sum(rate * a.total for rate, a in priced + moved),
        sum(rate * a.largest for rate, a in priced + moved),
        sum(rate * a.total for rate, a in moved),
    )


def make_plan(
    frames: Frames,
    volumes: Mapping[str, Image],
    config: Config,
    rates: Rates | None = None,
    remark: str = "",
    given: GivenStart | None = None,
) -> Plan:
    """The plan for frames that are known or provisional. Builds no object a block."""
    work = foresee(frames, dict(volumes), config, given)
    in_hand = config.cluster.in_hand
    held = 1 + WAITING * (in_hand - 1)
    block = max(w.memory for w in work.stages) * held
    card = int(max(w.card for w in work.stages) * held) + CARD_BASE_BYTES if config.cluster.has_gpus else 0
    return Plan(
        tuple(ladder(frames, config)),
        work,
        worker_count(config.cluster),
        in_hand,
        int(block) + BASE_BYTES + config.io.cache_bytes,
        worker_memory(config.cluster),
        rates or Rates(),
        remark,
        config.deformation,
        card,
        card_memory(config.cluster),
    )


def plan(
    fixed: Any = None,
    moving: Any = None,
    *,
    config: Any = None,
    shape: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    dtype: Any = None,
    moving_shape: Sequence[int] | None = None,
    moving_spacing: Sequence[float] | None = None,
    pyramid: bool | None = None,
    rates: Rates | None = None,
    remark: str = "",
) -> Plan:
    """What `register(fixed, moving)` would do and cost; reads voxels only to choose a preset where `config` is None, to
    find padding, and to tell one mask from another.

    fixed, moving   images as `register` takes them, or VolumeDescriptions; the affine is assumed to put them centre on
                    centre
    shape ...       in place of images, see `described`
    rates           None: this machine's calibration if there is one, else built-in; remark: on them, for people
    """
    own = {
        "shape": shape, "spacing": spacing, "dtype": dtype, "moving_shape": moving_shape,
        "moving_spacing": moving_spacing, "pyramid": pyramid,
    }  # fmt: skip
    if fixed is None and moving is None:
        fixed, moving = described(**own)
    elif fixed is None or moving is None:
        raise InputError(f"only one image is given ({fixed if moving is None else moving}); give fixed and moving")
    elif any(v is not None for v in own.values()):
        said = ", ".join(f"{k}={v}" for k, v in own.items() if v is not None)
        raise InputError(f"{said} is given together with images; give images or a shape, not both")
    asked = None if config is None else load_config(config)
    volumes: dict[str, Any] = as_pair(fixed, moving, asked.channels if asked is not None else (), plan=True)
    if asked is None:
        require_one_plane(*volumes.values())
        asked = chosen_config(volumes)[0]
    config, volumes = chosen_channels(asked, volumes)
    require_one_plane(*volumes.values())
    config, labels = with_labels(config, volumes)
    config, _ = settled_engines(config)
    config, given = beginning(config, volumes)
    config, _ = given_pairs(config, volumes)
    stored = {which: volume for which, volume in volumes.items() if isinstance(volume, Volume)}
    if len(stored) == len(volumes):
        config, _ = given_masks(config, stored)
    volumes |= labels
    frames = provisional(volumes["fixed"], volumes["moving"], given)
    check_spacings(config, ladder(frames, config))
    if rates is None:
        rates, remark = known_rates(config)
    return make_plan(frames, volumes, config, rates, remark, given)


def free_bytes(out: str) -> int | None:
    """Bytes that are free where a run is to be; None where that cannot be known."""
    path = storage.local_path(out)
    if path is None:
        return None
    there = next(p for p in (path, *path.parents) if p.exists())
    return shutil.disk_usage(there).free


def numbers_of_workers(items: Sequence[str]) -> list[int]:
    """From "8" or "8,64,512". Raises ConfigError that names what is no number of workers."""
    found = []
    for item in (part.strip() for each in items for part in each.split(",")):
        if not item.isdigit() or int(item) < 1:
            raise ConfigError(f"{item!r} is not a number of workers to simulate; write for instance 8,64,512")
        found.append(int(item))
    return found
