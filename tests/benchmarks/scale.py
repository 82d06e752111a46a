"""How the pipeline scales: figures, nothing asserted.

python tests/benchmarks/scale.py overhead             seconds of scheduling a block that does nothing
python tests/benchmarks/scale.py workers --work DIR   one worker and two on the same pair
python tests/benchmarks/scale.py warp --work DIR      throughput of `warp` beside reading, interpolating, writing alone
python tests/benchmarks/scale.py virtual --work DIR   1024^3 and 2048^3 volumes that are nowhere, at coarse levels:
                                                      memory, time, and what the simulator says of it
python tests/benchmarks/scale.py shards --work DIR    four processes write one sharded array
python tests/benchmarks/scale.py terabyte             what the simulator says of a terabyte on 8, 64 and 512 GPUs
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from bigreg import load_config, plan, register, storage
from bigreg.cluster import local_client
from bigreg.config import Cluster
from bigreg.phantom import make_pair
from bigreg.pipeline.calibrate import calibrate
from bigreg.pipeline.planning.rates import Rates
from bigreg.pipeline.schedule.driver import Driver
from bigreg.pipeline.schedule.flow import Need, Stage, same_block
from bigreg.pipeline.store.store import RunStore, Status
from bigreg.transforms.field import sample
from bigreg.volumes import convert


def row(*cells) -> None:
    print("| " + " | ".join(str(c) for c in cells) + " |", flush=True)


def nothing(context, index):
    return Status.DONE, {"seconds": 0.0}


def overhead(work: Path) -> None:
    counts = (10, 20, 20)
    stages = [Stage("a", "a", counts, nothing, metrics=("seconds",))]
    stages.append(Stage("b", "b", counts, nothing, metrics=("seconds",), needs=(Need("a", same_block),)))
    row("workers", "blocks", "ms a block")
    row("---", "---", "---")
    for workers in (1, 2):
        store = RunStore(str(work / f"overhead{workers}.zarr"))
        store.create({"config": load_config("demo").model_dump(mode="json"), "state": "running"})
        with local_client(Cluster(workers=workers)) as client:
            Driver(client, store).run(Stage("warm", "warm", (1, 1, 8), nothing, metrics=("seconds",)), stamp="1")
            begin = time.perf_counter()
            Driver(client, store).run(*stages, stamp="1")
            seconds = time.perf_counter() - begin
        row(workers, 2 * np.prod(counts), f"{1000 * seconds / (2 * np.prod(counts)):.2f}")


def workers(work: Path) -> None:
    pair = make_pair((256, 320, 384), (2.0, 2.0, 2.0), seed=1, max_displacement_um=10.0)
    row("workers", "all", *Phases.NAMES, "in patches")
    row(*["---"] * 6)
    found = []
    for number in (1, 2):
        out = str(work / f"workers{number}.zarr")
        config = load_config("rounds", overrides=[f"cluster.workers={number}", "blocks.core=64"])
        images = (pair.fixed, pair.spacing), (pair.moving, pair.spacing)
        phases, begin = Phases(), time.perf_counter()
        run = register(*images, out=out, config=config, progress=phases)
        seconds = time.perf_counter() - begin
        patches = sum(float(np.nansum(run.metrics()[f"levels/{k}"]["seconds"])) for k in run._context().levels)
        found.append((seconds, *phases.seconds(), patches))
        row(number, *(f"{s:.1f}" for s in found[-1]))
    row("ratio", *(f"{a / b:.2f}" for a, b in zip(*found, strict=True)))


class Phases:
    """Listens to a run: seconds of the stages that run into one another, from the first begin to the last end."""

    NAMES = ("levels", "fields", "results")

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {name: [] for name in self.NAMES}

    def plan(self, stages) -> None:
        pass

    def stage(self, name, title, blocks, done) -> None:
        self.note(name, time.perf_counter())

    def block(self, name, status, index) -> None:
        self.note(name, time.perf_counter())

    def finish(self, name) -> None:
        pass

    def note(self, name: str, now: float) -> None:
        level, field = name.startswith("levels/"), name.endswith(("fixed_to_moving", "moving_to_fixed"))
        if level or name.startswith(("stages/warped", "stages/check")) or "_to_" in name:
            self.times["levels" if level else "fields" if field else "results"].append(now)

    def seconds(self) -> list[float]:
        return [max(t) - min(t) for t in self.times.values()]


def warp(work: Path) -> None:
    import torch

    torch.set_num_threads(1)
    pair = make_pair((224, 256, 288), (2.0, 2.0, 2.0), seed=1, max_displacement_um=10.0)
    config = load_config("rounds", overrides=["cluster.workers=2", "ladder.finest=4", "output.warped=false"])
    run = register((pair.fixed, pair.spacing), (pair.moving, pair.spacing), out=str(work / "warp.zarr"), config=config)
    image, source = pair.moving, str(work / "image.ome.zarr")
    convert(image, source, spacing=pair.spacing)
    voxels = image.size / 1e6
    stored = storage.open_array(f"{source}/0")
    warm = torch.from_numpy(image[:128, :128, :128].astype("f4"))[None]
    index = torch.rand(3, 2**21) * 126
    sample(warm, index)

    def seconds(action) -> float:
        begin = time.perf_counter()
        action()
        return time.perf_counter() - begin

    def interpolate() -> None:
        for _ in range(0, image.size, 2**21):
            sample(warm, index)

    read = seconds(lambda: [stored.read(a, b) for a, b in tiles(image.shape, stored.shards or stored.chunks)])
    interpolated = seconds(interpolate)
    copy = storage.create_array(
        str(work / "copy.zarr"), shape=image.shape, dtype=image.dtype, chunks=stored.chunks, shards=stored.shards
    )
    written = seconds(lambda: [copy.write(a, image[box(a, b)]) for a, b in tiles(image.shape, copy.shards)])
    floor = read + interpolated + written
    warped = seconds(lambda: run.warp(source, out=str(work / "warped.ome.zarr")))
    row("what, one thread", "seconds", "Mvoxel/s")
    row("---", "---", "---")
    for name, value in (("read", read), ("interpolate", interpolated), ("write", written), ("floor", floor)):
        row(name, f"{value:.2f}", f"{voxels / value:.1f}")
    row("warp, pyramid included", f"{warped:.2f}", f"{voxels / warped:.1f}")
    print(f"{100 * floor / warped:.0f} % of the floor")


def tiles(shape, unit):
    for start in product(*(range(0, n, u) for n, u in zip(shape, unit, strict=True))):
        yield start, tuple(min(a + u, n) for a, u, n in zip(start, unit, shape, strict=True))


def box(start, stop) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(start, stop, strict=True))


@contextmanager
def virtual_server():
    command = [sys.executable, str(Path(__file__).with_name("virtual.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def virtual(work: Path) -> None:
    overrides = ["ladder.finest=8", "blocks.core=64", "output.warped=false", "cluster.workers=2"]
    configs = {
        "rounds": load_config("rounds", overrides=overrides),
        "rounds, 3 steps": load_config("rounds", overrides=[*overrides, "ladder.iterations=[3]"]),
    }
    rates = {name: calibrate(config, place=str(work)) for name, config in configs.items()}
    row("volume", "preset", "blocks", "seconds", *Phases.NAMES, "peak GiB of a worker", "of the client", "TRE um")
    row(*["---"] * 10)
    with virtual_server() as url:
        for size, name in ((1024, "rounds"), (2048, "rounds"), (2048, "rounds, 3 steps"), (4096, "rounds, 3 steps")):
            config = configs[name]
            images = [f"{url}/{size}/{which}.zarr" for which in ("fixed", "moving")]
            out = str(work / f"virtual{size}-{len(name)}.zarr")
            begin, phases = time.perf_counter(), Phases()
            run = register(*images, out=out, config=config, progress=phases)
            seconds = time.perf_counter() - begin
            peak = max(float(np.nanmax(m["peak_memory"])) for m in run.metrics().values() if "peak_memory" in m)
            made = plan(*images, config=config, rates=rates[name])
            row(
                f"{size}^3", name, made.blocks, f"{seconds:.1f}", *(f"{t:.1f}" for t in phases.seconds()),
                f"{peak:.3f}", f"{own_peak():.3f}", f"{virtual_error(run, size):.2f}",
            )  # fmt: skip
            simulated, same = made.simulate(2), Phases()
            for stage, times in simulated.stages.items():
                for moment in times:
                    same.note(stage, moment)
            row("simulated", "", "", f"{simulated.seconds:.1f}", *(f"{t:.1f}" for t in same.seconds()), "", "", "")
    print(rates)


def virtual_error(run, size: int) -> float:
    """Mean target registration error in the bright part, um: moving(x) is the tissue at x + s(x)."""
    rng = np.random.default_rng(0)
    there = rng.uniform(0.3, 0.7, (20_000, 3))  # of moving
    tissue = there + 0.01 * np.sin(2 * np.pi * there)
    found = run.map_points(there * size, direction="moving_to_fixed")
    return float(np.linalg.norm(found - tissue * size, axis=1).mean())


def own_peak() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20


def write_part(url: str, part: int) -> int:
    out = storage.open_array(url, write=True)
    mine = [t for number, t in enumerate(tiles(out.shape, out.shards)) if number % 4 == part]
    for start, stop in mine:
        out.write(start, pattern(start, stop))
    return len(mine)


def pattern(start, stop) -> np.ndarray:
    grids = np.meshgrid(*(np.arange(a, b) for a, b in zip(start, stop, strict=True)), indexing="ij", sparse=True)
    return ((grids[0] * 7919 + grids[1] * 104729 + grids[2] * 1299709) % 65521).astype(np.uint16)


def shards(work: Path) -> None:
    url = str(work / "shards.zarr")
    storage.create_array(url, shape=(500, 510, 520), dtype="uint16", chunks=(32,) * 3, shards=(128,) * 3)
    begin = time.perf_counter()
    with ProcessPoolExecutor(4, get_context("spawn")) as pool:
        written = list(pool.map(write_part, [url] * 4, range(4)))
    seconds = time.perf_counter() - begin
    same = np.array_equal(storage.open_array(url)[...], pattern((0, 0, 0), (500, 510, 520)))
    print(f"{sum(written)} shards by 4 processes in {seconds:.1f} s, read back {'exactly' if same else 'WRONG'}")


def terabyte(work: Path) -> None:
    gpu = Rates(
        step=0.0015, patch=0.02, stitch=0.03, compose=0.02, field=0.025, check=0.01, warp=0.02, affine=2.0,
        streams=64.0, decode_mb_s=2000.0, encode_mb_s=600.0, source_mb_s=2000.0, read_mb_s=1500.0, write_mb_s=1000.0,
        start=60.0, schedule=0.003, device="GPU", machine="assumed",
    )  # fmt: skip
    config = load_config("rounds", overrides=["blocks.core=256", "blocks.halo=32", "cluster.threads=2"])
    made = plan(shape=(10000, 8000, 6250), spacing=(1, 1, 1), dtype="uint16", config=config, rates=gpu)
    print(made.rates)
    row("GPUs", "hours", "efficiency", "compute", "storage", "scheduler", "bound by")
    row(*["---"] * 7)
    for number in (8, 64, 512):
        s = made.simulate(number)
        parts = (s.efficiency, s.compute, s.storage, s.scheduler)
        row(number, f"{s.seconds / 3600:.2f}", *(f"{100 * p:.0f} %" for p in parts), s.binds)


PARTS = {f.__name__: f for f in (overhead, workers, warp, virtual, shards, terabyte)}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.work))
    try:
        PARTS[arguments.part](folder)
    finally:
        shutil.rmtree(folder)
