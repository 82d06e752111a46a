"""What a GPU makes of bigreg: ceilings of the card, each similarity against the CPU, looks, stages, whole runs.

    python tests/benchmarks/gpu.py OUT.json [--dry] [--edges 160,288] [--run 512,512,512]

The checks that decide most come first, and the file is written after each, so it may be cut off at any time. What was
predicted stands beside what is measured. --dry runs on the simulated device, small: its times mean nothing, its counts
do. Nothing is changed on the card.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from bigreg import kernels
from bigreg.device import computing_on
from bigreg.engines import PatchPair, load_engine
from bigreg.engines.gauss_newton import MidSpacePair
from bigreg.geometry import Lattice
from bigreg.pipeline.calibrate import moved, texture
from bigreg.similarity import NAMES, by_name
from bigreg.transforms.field import exponential, min_determinant, sample

PREDICTED = {
    "look_ms_per_mvoxel": "lncc with the kernels 0.10 to 0.18; without 1.09 (measured on an H200)",
    "estimate_ms": "160: 73 without the kernels (measured, H200), 15 to 30 with them",
    "run_gpu_busy_percent": "less than 15",
}  # fmt: skip


class Record:
    """Results by name, written after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, Any] = {"predicted": PREDICTED}

    def check(self, name: str, work: Callable[[], Any]) -> None:
        begin = time.perf_counter()
        try:
            found = work()
        except Exception as error:  # the next check may still say something
            found = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-1500:]}
        self.results[name] = found
        self.results.setdefault("seconds", {})[name] = round(time.perf_counter() - begin, 2)
        self.path.write_text(json.dumps(self.results, indent=1))
        print(f"{name}: {json.dumps(found)[:400]}", flush=True)


def milliseconds(work: Callable[[], Any], repeats: int) -> float:
    """The best of some timings; the first warms up."""
    work()
    best = float("inf")
    for _ in range(repeats):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return best * 1e3


def patch(edge: int, device: str) -> PatchPair:
    cells = max(4, edge // 4)
    still = texture((4 * cells,) * 3, 1)
    images = [torch.as_tensor(i.astype(np.float32) / 4000, device=device)[None] for i in (still, moved(still))]
    mask = torch.ones(still.shape, device=device)
    return PatchPair(*images, mask, mask, Lattice((cells,) * 3, (4.0,) * 3, (0.0,) * 3, (4,) * 3))


def ceilings(elements: int, repeats: int) -> dict[str, float]:
    a = torch.zeros(elements, device="cuda")
    b = torch.empty_like(a)
    size = 4e-9 * elements
    host = torch.zeros(elements)
    return {
        "copy_gb_s": 2 * size / milliseconds(lambda: b.copy_(a), repeats) * 1e3,
        "to_device_gb_s": size / milliseconds(lambda: host.to("cuda"), repeats) * 1e3,
        "to_host_gb_s": size / milliseconds(lambda: a.cpu(), repeats) * 1e3,
        "launch_us": 10 * milliseconds(lambda: [a[:8].add_(1) for _ in range(100)], repeats),
    }


def against_cpu(edge: int, names: tuple[str, ...]) -> dict[str, Any]:
    """Each similarity: the velocity of a patch on the card and on the CPU, and whether the card repeats itself."""
    out = {}
    for name in names:
        found = []
        for device in ("cpu", "cuda", "cuda"):
            engine = load_engine("optimise", {"similarity": name}, iterations=6)
            found.append(engine.estimate(patch(edge, device)).coefficients.cpu())
        out[name] = {
            "largest_difference_voxels": float((found[0] - found[1]).abs().max()),
            "largest_velocity_voxels": float(found[0].abs().max()),
            "same_bits_again": bool(torch.equal(found[1], found[2])),
        }
    return out


def look(name: str, edge: int, repeats: int) -> dict[str, float]:
    p = patch(edge, "cuda")
    channels = by_name(name).features
    fixed, moving = (
        torch.cat([channels(c, m) for c in i]) for i, m in ((p.fixed, p.fixed_mask), (p.moving, p.moving_mask))
    )
    pair = MidSpacePair(fixed, moving, p.fixed_mask, p.moving_mask, by_name(name), (4, 4, 4))
    c = torch.zeros(3, *(n + 4 for n in p.lattice.cells), device="cuda")
    million = p.fixed.numel() * 1e-6
    torch.cuda.reset_peak_memory_stats()
    plain, curved = (milliseconds(lambda k=k: pair(c, curvature=k), repeats) / million for k in (False, True))
    peak = torch.cuda.max_memory_allocated() / p.fixed.numel()
    return {"look_ms_per_mvoxel": plain, "with_curvature": curved, "peak_bytes_per_voxel": peak}


def estimate(edge: int, repeats: int) -> dict[str, float]:
    """A whole patch of six steps: what the host takes to launch it counts too."""
    engine, p = load_engine("optimise", {"tolerance": 0.0}, iterations=6), patch(edge, "cuda")
    return {"estimate_ms": milliseconds(lambda: engine.estimate(p), repeats)}


def with_and_without(work: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """With the fused kernels and by tensor operations."""
    with mock.patch.object(kernels, "present", lambda: False):
        tensors = work()
    return {"kernels": work() if kernels.present() else "Triton is missing", "tensor operations": tensors}


def counted(simulated: Any, name: str) -> dict[str, float]:
    """What one look more of a patch of 24^3 voxels takes, with its step: kernels, waits, bytes a voxel."""
    p, counts = patch(24, "cuda"), []
    for iterations in (2, 3):
        with simulated.measured() as found:
            load_engine("optimise", {"similarity": name, "tolerance": 0.0}, iterations=iterations).estimate(p)
        counts.append(found)
    less, more = counts
    return {
        "kernels": more.launches - less.launches, "waits": more.waits - less.waits,
        "bytes_per_voxel": round((more.bytes - less.bytes) / p.fixed.numel()),
        "peak_bytes_per_voxel": round(more.peak_bytes / p.fixed.numel()),
    }  # fmt: skip


def maps(edge: int, repeats: int) -> dict[str, float]:
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 6, 6, generator=g) - 0.5
    field = torch.nn.functional.interpolate(coarse, size=(edge,) * 3, mode="trilinear")[0].cuda() * 4
    image = torch.rand(1, edge, edge, edge, generator=g).cuda()
    million, place = edge**3 * 1e-6, field + edge / 2
    return {
        "exponential_ms_per_msample": milliseconds(lambda: exponential(field, (1.0,) * 3, 4), repeats) / million / 2,
        "min_determinant_ms_per_msample": milliseconds(lambda: min_determinant(field, (1.0,) * 3), repeats) / million,
        "sample_ms_per_mvoxel": milliseconds(lambda: sample(image, place), repeats) / million,
        "cubic_ms_per_mvoxel": milliseconds(lambda: sample(image, place, "cubic"), repeats) / million,
    }


def write_pair(shape: tuple[int, ...], folder: str) -> None:
    import bigreg

    # Texture of a few voxels alone says nothing at the coarse levels, where a start is looked for.
    coarse = torch.rand(1, 1, *(n // 40 + 2 for n in shape), generator=torch.Generator().manual_seed(3))
    large = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0, 0]
    fixed = texture(shape, 2) // 2 + (2000 * large.numpy()).astype(np.uint16)
    for name, image in (("fixed", fixed), ("moving", moved(fixed))):
        bigreg.convert(image, f"{folder}/{name}.ome.zarr", spacing=(1.0, 1.0, 1.0))


def whole_run(shape: tuple[int, ...], folder: str, pair: Future[None]) -> dict[str, Any]:
    """A registration from disk to disk by the default cluster, and how much of it the card is at work."""
    import threading

    import bigreg
    from bigreg.cluster import default_kind

    pair.result()
    busy: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            try:
                busy.append(float(torch.cuda.utilization()))
            except (ImportError, ModuleNotFoundError, RuntimeError):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    begin = time.perf_counter()
    run = bigreg.register(
        f"{folder}/fixed.ome.zarr", f"{folder}/moving.ome.zarr", out=f"{folder}/run.zarr", config="rounds"
    )
    seconds = time.perf_counter() - begin
    ended.set()
    thread.join()
    return {
        "cluster": default_kind(), "seconds": seconds, "mvoxel_per_second": float(np.prod(shape)) * 1e-6 / seconds,
        "run_gpu_busy_percent": float(np.mean(busy)) if busy else None, "stages": run.store.attributes["seconds"],
        "devices": run.store.attributes["devices"], "verdict": run.verdict.to_json(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dry", action="store_true", help="on the simulated device")
    parser.add_argument("--edges", default=None, help="of the patches whose looks are timed")
    parser.add_argument("--run", default=None, help="voxels (z,y,x) of the whole run; none in a dry one")
    given = parser.parse_args()
    edges = [int(n) for n in (given.edges or ("16" if given.dry else "160,288")).split(",")]
    repeats, small = (1, 16) if given.dry else (5, 64)
    record = Record(given.out)
    shape = tuple(int(n) for n in given.run.split(",")) if given.run and not given.dry else None
    with ExitStack() as stack:
        if shape:  # beside the checks of the card: it is work of one core, and not short
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bigreg-gpu-"))
            pool = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
            pair = pool.submit(write_pair, shape, folder)
        if given.dry:
            from bigreg.testing import simulated_cuda

            simulated = stack.enter_context(simulated_cuda())
        stack.enter_context(computing_on("cuda"))
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        card = torch.cuda.get_device_properties(0)
        record.check("card", lambda: {"name": card.name, "bytes": card.total_memory, "torch": torch.__version__})
        record.check("ceilings", lambda: ceilings(2**16 if given.dry else 2**28, repeats))
        names = ("lncc", "mi") if given.dry else NAMES
        record.check("against the CPU", lambda: against_cpu(small, names))
        for edge in edges:
            record.check(
                f"look of lncc at {edge}", lambda edge=edge: with_and_without(lambda: look("lncc", edge, repeats))
            )
        record.check("patch", lambda: with_and_without(lambda: estimate(edges[0], repeats)))
        record.check("maps", lambda: maps(edges[-1], repeats))
        if shape:
            record.check(f"run of {given.run}", lambda: whole_run(shape, folder, pair))
        for name in [n for n in names if n != "lncc"]:
            record.check(f"look of {name}", lambda name=name: look(name, edges[0], repeats))
        if given.dry:
            for name in NAMES:
                record.check(f"counted, a look of {name}", lambda name=name: counted(simulated, name))
            record.check("counted", lambda: simulated.counts.to_json())


if __name__ == "__main__":
    main()
