"""Memory and throughput of `warp` for three channels that are many times larger than a worker: figures, not asserted.

python tests/benchmarks/warping.py --work DIR [--size 256 --times 8] [--limit 1GB] [--workers 1]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from bigreg import chain, open_volume, storage
from bigreg.cluster import local_client
from bigreg.config import Cluster
from bigreg.geometry import Grid
from bigreg.pipeline.tasks.estimate import peak_memory
from bigreg.transforms import ngff
from bigreg.transforms.affine import about
from bigreg.volumes import create_image

SPACING = (2.0, 2.0, 2.0)
FIELD = 16.0


def make_scene(url: str, grid: Grid) -> str:
    """A smooth map from a frame onto itself: a small turn and waves of 6 um, written as a run writes its own."""
    field = ngff.field_grid(grid, (FIELD,) * 3)
    places = np.stack(np.meshgrid(*(np.arange(n) * FIELD for n in field.shape), indexing="ij")).astype(np.float32)
    waves = 6.0 * np.sin(places[[1, 2, 0]] / 60.0)
    for name, ends, sign in (("fixed_to_moving", ("fixed", "moving"), 1), ("moving_to_fixed", ("moving", "fixed"), -1)):
        place = storage.join(url, name)
        ngff.create_field(place, [field], input_name=ends[0], output_name=ends[1], chunks=(64,) * 3)
        storage.open_array(ngff.level_url(place, 0), write=True).write((0, 0, 0, 0), sign * waves)
    centre = grid.index_to_world((np.array(grid.shape) - 1) / 2)
    turn = about(np.array([[1.0, 0.03, 0.0], [-0.03, 1.0, 0.02], [0.0, -0.02, 1.0]]), centre, centre)
    ngff.write_scene(url, fixed=grid, moving=grid, affine=turn)
    return url


def make_image(url: str, grid: Grid, channels: int) -> str:
    """Noise that compresses as badly as tissue; made a shard at a time."""
    writer = create_image(url, [grid], "uint16", name="noise", shards=(128,) * 3, channels=channels, finished=False)
    tile = np.random.default_rng(0).poisson(200, (128,) * 3).astype(np.uint16)
    counts = [-(-n // 128) for n in grid.shape]
    for channel in range(channels):
        for index in np.ndindex(*counts):
            start = [128 * i for i in index]
            box = tuple(slice(0, min(128, n - a)) for a, n in zip(start, grid.shape, strict=True))
            writer.write(0, start, tile[box] + np.uint16(channel), channel=channel)
    writer.finish()
    return url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", type=int, default=256, help="voxels along an edge of the smaller image")
    parser.add_argument("--times", type=int, default=8, help="the larger one is so many times larger, along x")
    parser.add_argument("--limit", default="1GB", help="memory of a worker")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    print("| voxels | GB read | seconds | Mvoxel/s | peak of a worker, MB |\n| --- | --- | --- | --- | --- |")
    with local_client(Cluster(workers=given.workers, memory_limit=given.limit)) as client:
        for number, factor in enumerate((1, given.times)):
            grid = Grid.from_spacing((given.size, given.size, given.size * factor), SPACING)
            scene = make_scene(str(given.work / f"scene{number}"), grid)
            image = make_image(str(given.work / f"image{number}.ome.zarr"), grid, 3)
            begin = time.perf_counter()
            chain(scene).warp(image, out=str(given.work / f"out{number}.ome.zarr"), client=client)
            seconds = time.perf_counter() - begin
            peak = max(client.run(peak_memory).values())
            voxels = 3 * grid.voxels
            size = open_volume(image).shape
            print(
                f"| 3 x {' x '.join(map(str, size))} | {2 * voxels / 1e9:.2f} | {seconds:.0f} | "
                f"{voxels / seconds / 1e6:.1f} | {1024 * peak:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
