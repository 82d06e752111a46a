"""Any image through any map onto any grid, out of core: what `Transform.warp` does.

A task is one shard of one channel at one time point. What is done is kept in a group `unfinished` of the output, as a
run keeps it: the same call goes on where it stopped. The output gets its metadata last and loses that group then, so
what looks like an image is a finished one.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Any, Protocol

import numpy as np

from ... import storage
from ...cluster import Cluster, default_cluster, require_memory
from ...cluster import client as cluster_client
from ...cluster.workers import BASE_BYTES
from ...config import IO
from ...device import current_device
from ...errors import InputError, OutputError
from ...geometry import BlockGrid, Grid, Shape, triple
from ...transforms.maps import Map
from ...transforms.positions import Positions
from ...volumes import ImageSpec, ImageWriter, Volume, create_image, open_volume
from ...volumes.convert import cast
from ..schedule.driver import Driver, new_stamp
from ..schedule.flow import Need, Stage
from ..store.lock import working_on
from ..store.store import Progress, RunStore, Status
from ..tasks import warp
from ..tasks.averaging import Averaged, averaging_factors

HERE_VOXELS = 2**26
"""Fewer are resampled by this process: in the time that others take to start it is done."""
PIECE_BYTES = 400 * 2**20
"""What a worker needs for a piece beside its shard: positions, the part of the image and of the field around it."""
PLACE = "unfinished"


class Mapped(Protocol):
    """What an image is taken through: a run, a chain or a file's map, all of them small enough to travel."""

    def map(self, direction: str) -> Map: ...

    def identity(self) -> str: ...


@dataclass(frozen=True)
class Job:
    """Everything that is to be known of one resampling; it travels with its blocks.

    image     how to open it, or an array in memory (then it does not travel)
    planes    (time point, channel) of each plane of the output
    grids     of its levels
    dtype     of its voxels; None is that of the image
    """

    transform: Mapped
    direction: str
    image: ImageSpec | Volume
    planes: tuple[tuple[int, int], ...]
    grids: tuple[Grid, ...]
    out: str
    interpolation: str
    io: IO = field(default_factory=IO)
    dtype: str | None = None

    @property
    def labels(self) -> bool:
        return self.interpolation == "nearest"


class Opened:
    """A job in the process that does its blocks."""

    def __init__(self, job: Job) -> None:
        storage.configure(copies=job.io.copies, transfers=job.io.transfers, cache_bytes=job.io.cache_bytes)
        self.job = job
        self.map = job.transform.map(job.direction)
        self.writer = ImageWriter(job.out)
        self._planes: dict[int, Volume] = {}
        self._averaged: dict[tuple[int, bytes], Averaged] = {}

    @cached_property
    def _volume(self) -> Volume:
        return open_volume(self.job.image)

    def plane(self, number: int) -> Volume:
        """An image of the job."""
        if number not in self._planes:
            self._planes[number] = self._volume.plane(*self.job.planes[number])
        return self._planes[number]

    def averaged(self, number: int, through: Map) -> Averaged:
        """The same as it is sampled through the map, or through one of its pieces."""
        key = number, through.affine.tobytes()
        if key not in self._averaged:
            volume = self.plane(number)
            factors = averaging_factors(volume.grid(), self.job.grids[0], through.affine)
            self._averaged[key] = Averaged(volume, factors, labels=self.job.labels)
        return self._averaged[key]

    def locate(self, level: int, index: Shape) -> tuple[int, Shape]:
        """(plane, block index in it) of a block: the planes lie one after another along z."""
        plane, first = divmod(index[0], blocks_of(self.writer, level).counts[0])
        return plane, (first, *index[1:])


@lru_cache(maxsize=2)
def opened(payload: bytes, url: str, stamp: str) -> Opened:
    """The job on a worker, opened once. `payload` came from the client with the task."""
    return Opened(pickle.loads(payload))


def blocks_of(writer: ImageWriter, level: int) -> BlockGrid:
    """The shards of one plane of a level."""
    return BlockGrid(triple(writer.array(level).shape[-3:]), writer.unit(level), (0, 0, 0))


def resample(here: Opened, index: Shape) -> tuple[Status, dict[str, float]]:
    """Task: one shard of the finest level; 0 where the map is not defined."""
    number, index = here.locate(0, index)
    inside = here.plane(number).grid()
    block = blocks_of(here.writer, 0)[index]
    data = np.zeros(block.shape, here.writer.array(0).dtype)
    for start, stop in warp.pieces(block.start, block.stop):
        box = tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, block.start, strict=True))
        places = Positions.of_grid(here.job.grids[0].cropped(start, stop), current_device())
        for rows, through, some in here.map.parted(places):
            there, known = through.follow(some)
            if known is not None and not bool(known.any()):
                continue
            image = here.averaged(number, through)
            values, _ = warp.sampled(there, image, image.grid, here.job.interpolation, inside=inside)
            if known is not None:
                values = np.where(known.cpu().numpy(), values, 0)
            if rows is None:
                data[box] = cast(values, data.dtype)
            else:
                data[box][np.unravel_index(rows, data[box].shape)] = cast(values, data.dtype)
    here.writer.write(0, block.start, data, channel=number)
    return Status.DONE, {}


def coarsen(here: Opened, level: int, index: Shape) -> tuple[Status, dict[str, float]]:
    """Task: one shard of a coarser level, from the level above."""
    number, index = here.locate(level, index)
    warp.coarsen(here.writer, level, here.job.labels, index, plane=number)
    return Status.DONE, {}


def stages_of(job: Job) -> list[Stage]:
    """The levels of the output, each from the one before."""
    writer, out = ImageWriter(job.out), []
    for level in range(len(job.grids)):
        blocks = blocks_of(writer, level)
        counts = (len(job.planes) * blocks.counts[0], *blocks.counts[1:])
        if level == 0:
            out.append(Stage("level-0", "resample", counts, resample))
            continue
        need = Need(out[-1].name, partial(_finer, blocks_of(writer, level - 1), blocks))
        out.append(Stage(f"level-{level}", f"level {level}", counts, coarsen, (level,), needs=(need,)))
    return out


def _finer(fine: BlockGrid, blocks: BlockGrid, index: Shape) -> tuple[Shape, Shape]:
    """What a block reads of the level above, the planes one after another along z."""
    plane, first = divmod(index[0], blocks.counts[0])
    block = blocks[(first, *index[1:])]
    ratio = warp.ratio_of(fine.cells, blocks.cells)
    low, high = fine.touching(*(tuple(a * r for a, r in zip(c, ratio, strict=True)) for c in (block.start, block.stop)))
    before = plane * fine.counts[0]
    return (low[0] + before, *low[1:]), (high[0] + before, *high[1:])


# ------------------------------------------------------------------------------------------------ the whole of it


class Work(RunStore):
    """How far an output is, inside of it."""

    def __init__(self, out: str) -> None:
        super().__init__(storage.join(out, PLACE))
        self.out = out

    @property
    def again(self) -> str:
        return "the same command"

    def begin(self, description: dict[str, Any]) -> None:
        """Say what the output is going to be. Raises OutputError where something else is begun there."""
        if storage.find_node(self.url) is None:
            self.create({"job": description, "updated": time.time()})
        elif self.attributes.get("job") != description:
            raise OutputError(
                f"'{self.out}' holds the unfinished result of another command; remove it or choose another output"
            )


def run(
    job: Job,
    volume: Volume,
    *,
    name: str,
    orientation: str | None,
    chunk: int,
    shard: int,
    client: Any = None,
    cluster: Cluster | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Volume:
    """Do a job, or what is left of it, and return the image.

    client, cluster   who works; both None is this process, or for a large output the cores of this machine
    Raises OutputError where something else is at `job.out` or another process works on it.
    """
    alone = not isinstance(job.image, ImageSpec)
    if alone and (client is not None or cluster is not None):
        raise InputError("the image is an array in memory, which workers do not see; write it with bigreg.convert")
    voxels = len(job.planes) * job.grids[0].voxels
    if client is None and cluster is None and voxels > HERE_VOXELS and not alone:
        cluster = default_cluster()
    if client is None and cluster is not None:
        shard_bytes = math.prod(min(shard, n) for n in job.grids[0].shape) * volume.dtype.itemsize
        require_memory(BASE_BYTES + PIECE_BYTES + 3 * shard_bytes, cluster, smaller="")
    work = Work(job.out)
    times, channels = (len({plane[axis] for plane in job.planes}) for axis in (0, 1))
    description = {
        "image": volume.identity(), "map": job.transform.identity(), "direction": job.direction,
        "planes": [list(p) for p in job.planes], "grid": job.grids[0].to_json(), "interpolation": job.interpolation,
        "chunk": chunk, "shard": shard,
    }  # fmt: skip
    if job.dtype is not None:
        description["dtype"] = job.dtype
    if len(job.grids) < len(warp.output_grids(job.grids[0])):
        description["levels"] = len(job.grids)

    if storage.exists(job.out) and not storage.exists(work.url):
        raise OutputError(f"'{job.out}' exists already; choose another output or remove it")
    with working_on(work.url):
        work.begin(description)
        dtype = volume.dtype if job.dtype is None else np.dtype(job.dtype)
        writer = create_image(
            job.out, job.grids, dtype, name=name, chunks=(chunk,) * 3, shards=(shard,) * 3,
            channels=channels if channels > 1 else 0, times=times if times > 1 else 0, labels=job.labels,
            orientation=orientation, display=volume.shown(sorted({c for _, c in job.planes})), finished=False,
            exist_ok=True,
        )  # fmt: skip
        _fill(job, work, client, cluster, progress)
        writer.finish()
    storage.remove(work.url)
    return open_volume(job.out)


def _fill(
    job: Job, work: Work, client: Any, cluster: Cluster | None, progress: Callable[[int, int, str], None] | None
) -> None:
    stages = stages_of(job)
    listener = None if progress is None else _Counting(stages, progress)
    if client is None and cluster is None:
        _here(Opened(job), work, stages, listener)
        return
    with cluster_client(cluster) if cluster is not None else nullcontext(client) as used:
        expected = (cluster.workers or 0) if cluster is not None else 0
        driver = Driver(
            used, work, listener, expected=expected, device_change=True, opener=partial(opened, pickle.dumps(job))
        )
        with driver.stopping_on_ctrl_c():
            driver.run(*stages, stamp=new_stamp())


def _here(job: Opened, work: Work, stages: Sequence[Stage], listener: _Counting | None) -> None:
    """All blocks, one after another, in this process."""
    for stage in stages:
        progress = Progress(work, stage.name, stage.counts, stage.metrics)
        left = progress.unfinished()
        if listener is not None:
            listener.stage(stage.name, stage.title, stage.blocks, stage.blocks - len(left))
        try:
            for index in (triple(int(i) for i in row) for row in left):
                status, metrics = stage.task(job, *stage.arguments, index)
                progress.set(index, status, metrics)
                if listener is not None:
                    listener.block(stage.name, int(status), index)
        finally:
            progress.flush()


class _Counting:
    """A run's listener that counts all blocks as one."""

    def __init__(self, stages: Sequence[Stage], tell: Callable[[int, int, str], None]) -> None:
        self.total, self.done, self.tell = sum(s.blocks for s in stages), 0, tell
        self.titles: dict[str, str] = {}

    def plan(self, stages: list[tuple[str, str, int]]) -> None:
        pass

    def stage(self, name: str, title: str, blocks: int, done: int) -> None:
        self.titles[name] = title
        self.done += done

    def block(self, name: str, status: int, index: tuple) -> None:
        self.done += status != Status.FAILED
        self.tell(self.done, self.total, self.titles[name])

    def finish(self, name: str) -> None:
        pass
