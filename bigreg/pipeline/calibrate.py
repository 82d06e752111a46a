"""A short measurement of this machine: one small registration, timed block by block, and the bare disk.

The stages themselves are timed, on one worker of the kind that a run starts, so what is measured is what a run does.
Without a GPU it is the worker's processor time that counts: what else the machine does meanwhile does not spoil it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from scipy import ndimage

from .. import storage
from ..cluster import Cluster
from ..cluster import client as cluster_client
from ..config import Config
from ..engines.base import PatchPair, estimate_antisymmetric
from ..engines.chain import chained, load_engines
from ..geometry import Lattice, Shape
from ..intensity import Bins, stripe_profile
from ..volumes import Volume
from .context.seen import FLOOR
from .planning.foresee import foresee
from .planning.rates import Rates, cache_file, engine_name, known_rates, this_machine
from .planning.workload import Work
from .schedule.driver import Driver, new_stamp
from .schedule.flow import Stage
from .store.inputs import Image, as_volume
from .store.store import RunStore, Status

DISK_BYTES = 64 << 20
SOURCE_SECONDS = 1.0
FEW = 2  # steps of the engine at the finest level of the small registration
REPEATS = 3  # the best of which counts: the others met something else that ran
LEAST = 0.3  # of a block's time is its computing, whatever decoding is thought to take of it
EMPTY = (5, 6, 7)  # blocks of a stage that does nothing
KINDS = ("stitch", "compose", "field", "check", "warp", "likeness", "downsample", "affine", "report")


def calibrate(
    config: Config, *, place: str | None = None, image: Volume | None = None, say: Callable[[str], None] | None = None
) -> Rates:
    """Measure this machine with a configuration's engine, keep the rates in the user's cache and return them.

    place   folder whose disk is measured; None: where temporary files go
    image   one of the images to be registered, read for a second; None: what `bigreg convert` writes
    say     hears what is being measured

    Raises OutputError where the place or the cache cannot be written.
    """
    say = say or (lambda text: None)
    with tempfile.TemporaryDirectory(prefix="bigreg-calibration-", dir=place) as folder:
        say("disk")
        found = _disk(Path(folder) / "bytes")
        say("start of a worker")
        begin = time.perf_counter()
        gpu = config.cluster.gpu_here
        with cluster_client(Cluster(kind="cuda" if gpu else "local", workers=1)) as client:
            client.submit(_ready).result()
            found["start"] = time.perf_counter() - begin
            say("engine")
            found |= client.submit(_intensity_seconds, pure=False).result()
            found["step"] = client.submit(_engine_seconds, config, _edge(config), gpu, pure=False).result()
            say("all stages")
            found |= _run(client, config, folder, found["step"])
    if image is not None:
        say("image")
        found["source_mb_s"] = _reading(image)
    numbers: dict[str, Any] = {**found, **this_machine(config)}
    rates = Rates(**numbers, engine=engine_name(config), measured=time.time())
    rates.save(cache_file(config))
    return rates


def chosen_rates(
    config: Config, items: Sequence[str], measure: bool, out: str | None, image: Image, say: Any = None
) -> tuple[Rates, str]:
    """Rates to plan with and a remark: measured now, or known of this machine; then as `items` change them."""
    if measure:
        path = None if out is None else storage.local_path(out)
        place = None if path is None else str(next(p for p in path.parents if p.is_dir()))
        rates, remark = calibrate(config, place=place, image=image if isinstance(image, Volume) else None, say=say), ""
    else:
        rates, remark = known_rates(config)
    if items:
        given = ", ".join(item for item in items if "=" in item)
        rates, remark = rates.changed(items), f"with {given}" if given else ""
    return rates, remark


def _ready() -> bool:
    from . import stages  # noqa: F401 - what every worker imports first

    return True


def _nothing(context: Any, index: Shape) -> tuple[Status, dict[str, float]]:
    """Task: an empty block."""
    return Status.DONE, {"a": 0.0}


def _edge(config: Config) -> int:
    """Voxels along an axis of what just fills a block, with the margin that the ladder adds; a GPU wants more."""
    largest = 256 if config.cluster.gpu_here else 96
    return max(32, min(config.blocks.core, largest) - 2 * config.ladder.cell_voxels)


def texture(shape: Shape, seed: int) -> np.ndarray:
    """(z, y, x) uint16 noise of several sizes, and it is never flat."""
    rng = np.random.default_rng(seed)
    image = sum(ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), s) * s**1.5 for s in (1, 2, 4))
    image -= image.min()
    return (image * (4000 / image.max())).astype(np.uint16)


def moved(image: np.ndarray, amplitude: float = 2.0) -> np.ndarray:
    """An image displaced smoothly, by up to `amplitude` voxels an axis."""
    index = np.indices(image.shape, dtype=np.float32)
    waves = [amplitude * np.sin(2 * np.pi * index[(a + 1) % 3] / 48) for a in range(3)]
    return ndimage.map_coordinates(image, index + np.stack(waves), order=1, mode="nearest", output=image.dtype)


# ---------------------------------------------------------------------------------------------------- single rates


def _disk(path: Path) -> dict[str, float]:
    """MB a second of one stream, past the memory that the system keeps files in."""
    data = np.random.default_rng(0).integers(0, 256, DISK_BYTES, dtype=np.uint8).tobytes()
    begin = time.perf_counter()
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    middle = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        while file.read(8 << 20):
            pass
    end = time.perf_counter()
    path.unlink()
    mega = DISK_BYTES * 1e-6
    return {"write_mb_s": mega / (middle - begin), "read_mb_s": mega / (end - start)}


def _intensity_seconds() -> dict[str, float]:
    """Seconds a million voxels of what corrections of intensities are estimated from; windows of usual width."""
    image = texture((96, 96, 96), 3).astype(np.float32)
    bins = Bins.of(image)

    def stripes() -> None:
        wide = np.pad(image, ((0, 0), (10, 10), (0, 0)), mode="edge")
        stripe_profile(wide, [2], 1, 11, (1, 1, image.shape[2]), FLOOR * bins.scale)

    kinds: dict[str, Callable[[], Any]] = {"stripes": stripes, "histograms": lambda: bins.counts(image)}
    return {what: min(_timed(work) for _ in range(REPEATS)) / (image.size * 1e-6) for what, work in kinds.items()}


def _engine_seconds(config: Config, edge: int, gpu: bool) -> float:
    """Seconds a million voxels and look, of a patch that fills a block. On a worker."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if gpu else "cpu")
    cell = config.ladder.cell_voxels
    cells = -(-edge // cell)
    fixed = texture((cells * cell,) * 3, 1)
    still, gone = (torch.as_tensor(i.astype(np.float32) / 4000, device=device)[None] for i in (fixed, moved(fixed)))
    mask = torch.ones(fixed.shape, device=device)
    pair = PatchPair(still, gone, mask, mask, Lattice((cells,) * 3, (float(cell),) * 3, (0.0,) * 3, (cell,) * 3))

    taken: dict[int, float] = {}

    def look(steps: int) -> None:
        engine = chained(load_engines(config.engine, config.engine_options, iterations=steps))
        taken[steps] = estimate_antisymmetric(engine, pair).quality.get("iterations", steps)
        if device.type == "cuda":
            torch.cuda.synchronize()

    look(1)  # compiles
    short, long = (min(_timed(partial(look, n), gpu) for _ in range(REPEATS)) for n in (1, 6))
    return max(long - short, 1e-6) / max(taken[6] - taken[1], 1) / (fixed.size * 1e-6)


def _codec(maps: str, image: str, copy: str) -> dict[str, float]:
    """MB a second, before compression, that one thread decodes and encodes of arrays that it made. On a worker."""
    storage.configure(copies=1, transfers=1)
    array, kept = storage.open_array(maps), storage.open_array(image)
    target = storage.create_array(copy, shape=array.shape, dtype=array.dtype, chunks=array.chunks, shards=array.shards)
    data, other = array[...], kept[...]

    def rate(step: Callable[[], Any], size: int) -> float:
        return size * 1e-6 / min(_timed(step) for _ in range(REPEATS))

    return {
        "decode_mb_s": rate(lambda: array[...], data.nbytes),
        "source_mb_s": rate(lambda: kept[...], other.nbytes),
        "encode_mb_s": rate(lambda: target.write((0,) * array.ndim, data), data.nbytes),
    }


def _timed(step: Callable[[], Any], gpu: bool = False) -> float:
    """Seconds of a step in this process; by the wall clock where a GPU computes."""
    clock = time.perf_counter if gpu else time.process_time
    begin = clock()
    step()
    return clock() - begin


def _clock_of(client: Any, gpu: bool) -> Callable[[], float]:
    """Seconds that the one worker of a local client has computed, or a clock where it is a GPU that computes."""
    if gpu:
        return time.perf_counter
    worker = psutil.Process(client.submit(os.getpid, pure=False).result())
    return lambda: sum(worker.cpu_times()[:2])


def _reading(image: Volume) -> float:
    """MB a second, before compression, of boxes of whole chunks across an image."""
    size = tuple(min(-(-128 // c) * c, n) for c, n in zip(image.chunks, image.shape, strict=True))
    corners = [range(0, n - s + 1, s) for n, s in zip(image.shape, size, strict=True)]
    total = int(np.prod([len(c) for c in corners]))
    order = np.random.default_rng(0).permutation(total)[:64]
    read, begin = 0, time.perf_counter()
    for number in order:
        place = np.unravel_index(int(number), [len(c) for c in corners])
        start = tuple(c[i] for c, i in zip(corners, place, strict=True))
        read += image.read(start, tuple(a + s for a, s in zip(start, size, strict=True))).nbytes
        if time.perf_counter() - begin > SOURCE_SECONDS:
            break
    return read * 1e-6 / (time.perf_counter() - begin)


# ---------------------------------------------------------------------------------------------------- all stages


class _Stopwatch:
    """Hears a run of one worker: how long each block took, from the answer before it, by a clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.seconds: dict[str, list[tuple[Shape, float]]] = {}
        self._running: set[str] = set()
        self._last = 0.0

    def plan(self, stages: list[tuple[str, str, int]]) -> None:
        """Nothing to do."""

    def stage(self, name: str, title: str, blocks: int, done: int) -> None:
        if not self._running:
            self._last = self.clock()
        self._running.add(name)

    def block(self, name: str, status: int, index: tuple) -> None:
        now = self.clock()
        self.seconds.setdefault(name, []).append((tuple(index), now - self._last))
        self._last = now

    def finish(self, name: str) -> None:
        self._running.discard(name)
        self._last = self.clock()


def _run(client: Any, config: Config, folder: str, step: float) -> dict[str, float]:
    """Rates of everything that a small registration does, of two blocks at its finest level."""
    from .run import begin

    edge = _edge(config)
    fixed = texture((2 * edge + 2 * config.ladder.cell_voxels, edge, edge), 2)
    small = config.model_copy(
        update={
            "masks": type(config.masks)(),
            "channels": [],  # rates are of one pair of images
            "labels": None,
            "affine": config.affine.model_copy(update={"least_confidence": 0.0}),  # a texture, nothing to be sure of
            "ladder": config.ladder.model_copy(
                # The coarsest level warms up; the next shows how soon the engine stands still.
                update={"finest": 1, "coarsest": 4, "repeats": [1], "iterations": [FEW, max(config.ladder.iterations)]}
            ),
            "coarse": type(config.coarse)(),
            "output": config.output.model_copy(update={"confidence": True, "report": True}),  # whose rates are wanted
        }
    )
    watch = _Stopwatch(_clock_of(client, config.cluster.gpu_here))
    spacing = (1.0, 1.0, 1.0)
    volumes = {"fixed": as_volume((fixed, spacing), "fixed"), "moving": as_volume((moved(fixed), spacing), "moving")}
    run = begin(volumes, out=f"{folder}/run.zarr", config=small, client=client, progress=watch)
    store = RunStore(run.url)
    places = store.path("levels", 0, "maps", "fixed"), store.path("inputs", "fixed.ome.zarr", "0"), f"{folder}/copy"
    found = client.submit(_codec, *places, pure=False).result()
    found |= _overhead(client, store)

    context = run._context()
    work = foresee(context.frames, context.volumes, small)
    stored = sum(f.stat().st_size for f in Path(run.url).rglob("*") if f.is_file() and f.suffix != ".png")
    found["stored"] = min(1.0, stored / (work.bytes + fixed.nbytes * 2))
    blocks = [(work.by_name[name], *each) for name, times in watch.seconds.items() if name in work.by_name
              for each in times]  # fmt: skip
    for kind in KINDS:
        found[kind] = _rate([b for b in blocks if b[0].does and b[0].does[0][0] == kind], found)
    finest, next_to_it = (_rate([b for b in blocks if b[0].name == f"levels/{k}"], found) for k in (0, 1))
    found["patch"] = max(finest - (FEW + 1) * step, LEAST * finest)
    looks = (next_to_it - found["patch"]) / step
    found["looks"] = min(max(looks, 1.0), work.by_name["levels/1"].looks)
    return found


def _rate(blocks: list[tuple[Work, Shape, float]], found: dict[str, float]) -> float:
    """Seconds a million of some blocks without decoding and encoding; the first warms up, unless it is most of them."""
    units = [work.does[0][1].of_block(index) for work, index, _ in blocks]
    first = 1 if sum(units[1:]) >= 0.5 * units[0] else 0
    seconds = 0.0
    for work, index, took in blocks[first:]:
        other = sum(a.of_block(index) for a in work.reads) / found["decode_mb_s"]
        other += sum(a.of_block(index) for a in work.source) / found["source_mb_s"]
        other += sum(a.of_block(index) for a in work.writes) / found["encode_mb_s"]
        seconds += max(took - 1e-6 * other, LEAST * took)
    return seconds / sum(units[first:])


def _overhead(client: Any, store: RunStore) -> dict[str, float]:
    """Seconds of scheduler and client, which are both in this process, a block; and of the client a stage."""
    driver = Driver(client, store)

    def seconds(counts: Shape) -> float:
        stage = Stage(f"calibration/{counts[0]}", "", counts, _nothing, metrics=tuple("abcdef"))
        begin = time.process_time()
        driver.run(stage, stamp=new_stamp())
        return time.process_time() - begin

    one, many = seconds((1, 1, 1)), seconds(EMPTY)
    schedule = max(many - one, 0.0) / (int(np.prod(EMPTY)) - 1)
    return {"schedule": schedule, "stage": max(one - schedule, 0.0)}
