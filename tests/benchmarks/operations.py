"""What the operations cost that every run is made of, and which became slower than the figures that are kept.

    python tests/benchmarks/operations.py                  compare; ends with status 1 where one is slower by over 10 %
    python tests/benchmarks/operations.py --only lncc mi   compare some
    python tests/benchmarks/operations.py --keep           keep what is measured: operations.json

A figure is no time but a ratio, to a reference loop that is timed right before and after in the same process: so what
else a machine does counts for both. Processor time counts, of one thread; the best of some rounds is taken, and what
seems slower is measured again before it is said. Ratios of another processor are another's: keep your own first.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bigreg
from bigreg import storage
from bigreg.cluster import Cluster, local_client
from bigreg.geometry import BlockGrid
from bigreg.jit import compiled
from bigreg.phantom import make_pair
from bigreg.pipeline.calibrate import moved, texture
from bigreg.pipeline.tasks import stitch
from bigreg.similarity import NAMES, by_name
from bigreg.transforms.bspline import BOUND_CELLS
from bigreg.transforms.field import compose, exponential, identity, invert, sample

KEPT = Path(__file__).with_name("operations.json")
SLOWER = 0.10
EDGE = 96  # voxels of an image
SHORT = 0.25  # seconds of one measurement at least: what takes less is repeated
ROUNDS = 5
AGAIN = 3  # times that what seems slower is measured anew

Step = Callable[[], Any]


# ------------------------------------------------------------------------------------------------------- the clock


def clock() -> float:
    """Processor seconds of this process and of those that it has waited for."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def seconds(step: Step, times: int) -> float:
    begin = clock()
    for _ in range(times):
        step()
    return (clock() - begin) / times


@compiled
def _reference(values: np.ndarray, out: np.ndarray) -> None:
    for z in range(1, values.shape[0] - 1):
        for y in range(1, values.shape[1] - 1):
            for x in range(1, values.shape[2] - 1):
                around = values[z - 1, y, x] + values[z + 1, y, x] + values[z, y - 1, x] + values[z, y + 1, x]
                out[z, y, x] = (around + values[z, y, x - 1] + values[z, y, x + 1]) / (1.0 + abs(values[z, y, x]))


def reference() -> Step:
    """A loop of bigreg's kind that no change of bigreg touches: neighbours of a volume in one sweep, many times."""
    values = np.random.default_rng(0).random((64, 128, 128)).astype(np.float32)
    out = np.zeros_like(values)

    def step() -> None:
        for _ in range(8):
            _reference(values, out)

    return step


def ratio(step: Step, loop: Step, rounds: int = ROUNDS) -> float:
    """Time of a step in times of the loop: the best of each over rounds in which both take turns."""
    step()  # compiles and warms up
    once = max(seconds(step, 1), 1e-6)
    times, loops = max(1, round(SHORT / once)), max(1, round(SHORT / max(seconds(loop, 1), 1e-6)))
    own, others = [], []
    for _ in range(rounds):
        others.append(seconds(loop, loops))
        own.append(seconds(step, times))
    others.append(seconds(loop, loops))
    return min(own) / min(others)


# -------------------------------------------------------------------------------------------------- the operations


def look(name: str, folder: Path) -> Step:
    """One look of an engine at a patch: a similarity with its forces, features made before."""
    similarity = by_name(name)
    fixed = texture((EDGE,) * 3, 1)
    images = [torch.as_tensor(i.astype(np.float32) / 4000) for i in (fixed, moved(fixed))]
    mask = torch.ones(fixed.shape)
    pair = [similarity.features(image, mask) for image in images]

    def step() -> None:
        for one, other in zip(*pair, strict=True):
            similarity(one, other, mask)

    return step


def features(name: str, folder: Path) -> Step:
    """The features of a patch."""
    image, mask = torch.as_tensor(texture((EDGE,) * 3, 1).astype(np.float32) / 4000), torch.ones((EDGE,) * 3)
    return partial(by_name(name).features, image, mask)


def waves(amplitude: float) -> torch.Tensor:
    """(3, z, y, x) a smooth displacement, in voxels."""
    index = identity((EDGE,) * 3)
    return amplitude * torch.sin(2 * torch.pi * index[[1, 2, 0]] / 48)


def warp(folder: Path) -> Step:
    image = torch.as_tensor(texture((EDGE,) * 3, 1).astype(np.float32))[None]
    index = identity((EDGE,) * 3) + waves(2.0)
    return lambda: sample(image, index)


def warp_cubic(folder: Path) -> Step:
    image = torch.as_tensor(texture((EDGE,) * 3, 1).astype(np.float32))[None]
    index = identity((EDGE,) * 3) + waves(2.0)
    return lambda: sample(image, index, "cubic")


def composition(folder: Path) -> Step:
    field = waves(2.0)
    return lambda: compose(field, field, (1.0, 1.0, 1.0))


def exponentiated(folder: Path) -> Step:
    velocity = waves(2.0)
    return lambda: exponential(velocity, (1.0, 1.0, 1.0), 6)


def inverse(folder: Path) -> Step:
    field = waves(2.0)
    return lambda: invert(field, (1.0, 1.0, 1.0))


def stitched(folder: Path) -> Step:
    """A block that has all its neighbours."""
    blocks = BlockGrid((36, 36, 36), (12, 12, 12), (4, 4, 4))
    bound = np.full(3, BOUND_CELLS)
    rng = np.random.default_rng(0)
    patches = {}
    for block in blocks:
        points = tuple(n + 4 for n in block.halo_shape)
        coefficients = rng.uniform(-0.5, 0.5, (3, *points)) * BOUND_CELLS
        patches[block.index] = np.concatenate([coefficients, np.ones((1, *points))]).astype(np.float32)
    return lambda: stitch.blend(blocks, (1, 1, 1), patches.__getitem__, bound)


def shard(folder: Path) -> tuple[storage.Array, np.ndarray]:
    data = np.random.default_rng(0).poisson(200, (128,) * 3).astype(np.uint16)
    place = str(folder / f"shard{len(list(folder.iterdir()))}")
    array = storage.create_array(place, shape=data.shape, dtype=data.dtype, chunks=(32,) * 3, shards=(128,) * 3)
    array.write((0, 0, 0), data)
    return array, data


def decode(folder: Path) -> Step:
    array, _ = shard(folder)
    return lambda: array.read((0, 0, 0), array.shape)


def encode(folder: Path) -> Step:
    array, data = shard(folder)
    return lambda: array.write((0, 0, 0), data)


def opening(folder: Path) -> Step:
    """A finished run, with its state and its map."""
    pair = make_pair((24, 32, 32), (4.0, 4.0, 4.0), seed=3, max_displacement_um=4.0)
    overrides = ["blocks.core=16", "blocks.halo=4", "ladder.finest=1", "ladder.coarsest=1", "affine.rotations_deg=0"]
    config = bigreg.load_config(preset="demo", overrides=[*overrides, "affine.least_confidence=0"])
    out = str(folder / "run.zarr")
    images = [(image, pair.spacing) for image in (pair.fixed, pair.moving)]
    with local_client(Cluster(workers=1)) as client:
        bigreg.register(*images, out=out, config=config, client=client)

    def step() -> None:
        run = bigreg.open_run(out)
        run.status()
        run.map()

    return step


def planning(folder: Path) -> Step:
    """A plan of a million blocks and more, for images that do not exist."""
    rates = bigreg.Rates()

    def step() -> None:
        made = bigreg.plan(shape=(8000, 6400, 6400), spacing=(2.0, 2.0, 2.0), rates=rates)
        assert made.tasks > 1_000_000, made.tasks

    return step


def command(*words: str) -> Callable[[Path], Step]:
    def prepared(folder: Path) -> Step:
        return lambda: subprocess.run([sys.executable, "-m", "bigreg", *words], check=True, stdout=subprocess.DEVNULL)

    return prepared


OPERATIONS: dict[str, Callable[[Path], Step]] = {
    **{f"look {name}": partial(look, name) for name in NAMES},
    **{f"features {name}": partial(features, name) for name in ("mind", "ngf")},
    "warp": warp,
    "warp cubic": warp_cubic,
    "compose": composition,
    "exponential": exponentiated,
    "inverse": inverse,
    "stitch": stitched,
    "decode a shard": decode,
    "encode a shard": encode,
    "open a run": opening,
    "plan a million blocks": planning,
    "command line --version": command("--version"),
    "command line register --help": command("register", "--help"),
}


# ------------------------------------------------------------------------------------------------- what is kept


def machine() -> dict[str, str]:
    """Where figures hold."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {"processor": names[0].partition(": ")[2] if names else platform.machine(), **versions}


def table(found: dict[str, float], kept: dict[str, float]) -> str:
    rows = ["| operation | in reference loops | kept | change |", "| --- | --- | --- | --- |"]
    for name, value in found.items():
        before = kept.get(name)
        change = "new" if before is None else f"{value / before - 1:+.0%}"
        rows.append(f"| {name} | {value:.3g} | {'' if before is None else f'{before:.3g}'} | {change} |")
    return "\n".join(rows)


def slower(found: dict[str, float], kept: dict[str, float]) -> list[str]:
    """What takes over 10 % longer than the figure that is kept."""
    return [name for name, value in found.items() if name in kept and value > kept[name] * (1 + SLOWER)]


def measure(names: list[str], kept: dict[str, float], say: Callable[[str], Any]) -> dict[str, float]:
    """The ratio of each operation."""
    loop = reference()
    loop()
    found = {}
    with tempfile.TemporaryDirectory(prefix="bigreg-operations-") as folder:
        for name in names:
            say(name)
            step = OPERATIONS[name](Path(folder))
            found[name] = ratio(step, loop)
            for _ in range(AGAIN):
                if not slower({name: found[name]}, kept):
                    break
                found[name] = min(found[name], ratio(step, loop))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="operations whose names contain one of these")
    parser.add_argument("--keep", action="store_true", help="keep the figures that are measured now")
    given = parser.parse_args()
    names = [name for name in OPERATIONS if any(part in name for part in given.only)]
    if not names:
        parser.error(f"no operation is called so; there are {', '.join(OPERATIONS)}")
    torch.set_num_threads(1)
    storage.configure(copies=1, transfers=1)
    stored = json.loads(KEPT.read_text()) if KEPT.exists() else {"machine": machine(), "ratios": {}}
    kept = {} if given.keep else stored["ratios"]
    begin = time.perf_counter()
    found = measure(names, kept, lambda name: print(f"  {name}", file=sys.stderr, flush=True))
    print(table(found, stored["ratios"]), f"\n\n{time.perf_counter() - begin:.0f} s")
    if given.keep:
        KEPT.write_text(json.dumps({"machine": machine(), "ratios": {**stored["ratios"], **found}}, indent=1) + "\n")
        return 0
    if stored["machine"] != machine():
        print(f"kept on another machine: {stored['machine']}, this is {machine()}; its ratios may differ")
    late = slower(found, kept)
    print(f"slower by more than {SLOWER:.0%}: {', '.join(late) or 'nothing'}")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
