"""How a run of a terabyte opens in napari: figures, nothing asserted. Needs a display (xvfb-run -a).

python tests/benchmarks/viewer.py --work DIR    a pair of 8192^3 voxels that is nowhere (see virtual.py), and a finished
                                                run of it with 10^5 blocks a level, of whose arrays the finest levels
                                                hold nothing: seconds and memory of opening, of a slice, of the monitor
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil

SIZE = 8192
CORE = 176  # voxels: 47^3 blocks


def make(folder: Path, address: str) -> str:
    """A run store as a finished run leaves it, but for the data."""
    from bigreg import load_config, open_volume
    from bigreg.pipeline.context.context import Context
    from bigreg.pipeline.context.frames import Frames
    from bigreg.pipeline.store.store import Progress, RunStore, Status
    from bigreg.pipeline.tasks import estimate, fields, stitch, warp
    from bigreg.transforms import ngff
    from bigreg.volumes import ImageWriter

    url = str(folder / "terabyte.zarr")
    volumes = {w: open_volume(f"{address}/{SIZE}/{w}.zarr", name=w) for w in ("fixed", "moving")}
    config = load_config("rounds", overrides=[f"blocks.core={CORE}", "output.shard=512"])
    frames = Frames.from_affine(volumes["fixed"].grid(), volumes["moving"].grid(), np.eye(4), np.eye(4))
    store = RunStore(url)
    store.create(
        {
            "config": config.model_dump(mode="json", exclude={"cluster"}),
            "cluster": {},
            "identities": {},
            "start": None,
            "orientations": {w: None for w in volumes},
            "engines": {},
            "images": {w: v.spec.model_dump(mode="json") for w, v in volumes.items()},
            "versions": {},
            "state": "finished",
            "created": time.time(),
            "updated": time.time(),
            "frames": frames.to_json(),
            "intensity": {w: [50, 600] for w in volumes},
            "stages": [],
        }
    )
    for group in ("levels", "transforms", "check"):
        store.groups(group)
    context = Context(url, "benchmark")
    stages = []

    def done(name: str, title: str, counts: tuple, metrics: tuple = ()) -> None:
        progress = Progress(store, name, counts, metrics)
        progress.status[...] = Status.DONE
        rng = np.random.default_rng(0)
        for metric in metrics:
            progress.metric(metric)[...] = rng.random(counts)
        for key, array in progress.arrays.items():
            array.write((0, 0, 0), progress.values[key])
        stages.append([name, title, int(np.prod(counts))])

    for level in sorted(context.levels.values(), key=lambda p: -p.index):
        place, counts = f"levels/{level.index}", level.blocks.counts
        store.groups(place)
        done(place, f"level {level.index}: estimate", counts, estimate.METRICS)
        done(f"{place}/stitch", f"level {level.index}: stitch", counts, stitch.METRICS)
        done(f"{place}/compose/0", f"level {level.index}: compose", counts, ("min_jacobian", "max_displacement"))
    for direction in fields.DIRECTIONS:
        fields.create(context, direction)
        grids = fields.field_grids(context, direction)
        for number, grid in enumerate(grids):
            name = f"stages/{direction}" + (f"-level-{number}" if number else "")
            done(name, direction, fields.field_blocks(grid, config).counts, ("folds",) if not number else ())
    finest = fields.field_grids(context, "fixed_to_moving")[0]
    done("stages/check", "round trip", fields.field_blocks(finest, config).counts, ("inverse_error",))
    warp.create(store.path("warped"), frames.fixed, np.dtype("uint16"), config, name="moving on fixed")
    ImageWriter(store.path("warped")).finish()
    done("stages/warped", "warped image", warp.output_blocks(frames.fixed, config).counts)
    store.update(stages=stages)
    ngff.write_scene(store.path("transforms"), fixed=frames.fixed, moving=frames.moving, affine=frames.affine)
    print(f"{sum(s[2] for s in stages)} blocks, {np.prod(context.levels[0].blocks.counts)} of the finest level")
    return url


def look(url: str) -> None:
    """In a process of its own: open it as napari does, and say what it takes."""
    import napari
    from napari.layers import Layer
    from qtpy.QtWidgets import QApplication

    viewer = napari.Viewer()
    process = psutil.Process()
    before = process.memory_info().rss

    def tell(what: str, begin: float, cpu: float) -> None:
        seconds, used = time.perf_counter() - begin, time.process_time() - cpu
        more = (process.memory_info().rss - before) / 2**20
        print(f"| {what} | {seconds:.2f} s | {used:.2f} s | {more:.0f} MiB |", flush=True)

    print("| what | wall | CPU | more memory than an empty napari |\n| --- | --- | --- | --- |")
    begin, cpu = time.perf_counter(), time.process_time()
    for _ in range(5):
        viewer.add_image([np.ones((n,) * 3, np.uint16) for n in (64, 32)], multiscale=True, contrast_limits=(0, 2))
    viewer.add_vectors(np.ones((500, 2, 3)))
    QApplication.processEvents()
    tell("napari alone, as many small layers from memory", begin, cpu)
    viewer.layers.clear()
    QApplication.processEvents()
    begin, cpu = time.perf_counter(), time.process_time()
    from napari_bigreg.reader import get_reader

    reader = get_reader(url)
    tell("importing bigreg, seeing that it is a run", begin, cpu)
    begin, cpu = time.perf_counter(), time.process_time()
    import bigreg.pipeline.run  # noqa: F401 - torch above all

    tell("importing what reads a run, once", begin, cpu)
    for what in ("opened, first slice drawn", "opened again, all in place"):
        begin, cpu = time.perf_counter(), time.process_time()
        for data in reader(url):
            viewer.add_layer(Layer.create(*data))
        QApplication.processEvents()
        tell(what, begin, cpu)
        if what.startswith("opened,"):
            viewer.layers.clear()
            QApplication.processEvents()
    begin, cpu = time.perf_counter(), time.process_time()
    viewer.dims.set_point(0, SIZE / 3)
    QApplication.processEvents()
    tell("another slice", begin, cpu)
    begin, cpu = time.perf_counter(), time.process_time()
    from napari_bigreg.monitor.model import MonitorModel

    MonitorModel(url).poll()
    tell("one look of the monitor, in its thread", begin, cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--look", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.look:
        look(arguments.look)
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("virtual.py"))], stdout=subprocess.PIPE, text=True
    )
    try:
        url = make(arguments.work, server.stdout.readline().strip())
        subprocess.run([sys.executable, __file__, "--work", str(arguments.work), "--look", url], check=True)
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
