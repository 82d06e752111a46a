"""Large motion with a known answer: without pairs of points, with those that a run finds by itself, and with true ones.

    python tests/benchmarks/pairs.py DATA WORK [CASE ...]

A case is SOURCE-SEED-MOTION: an image of confidence.py, as it is seen through a smooth random map of `MOTIONS` (voxels
of 56 x 80 x 96). The images lie as they lie (affine.kind none), preset rounds. Each is registered without pairs, with
`landmarks.path: auto` and a spline, and with a spline through true pairs at the points with texture. Prints the error
of every fixed voxel whose place lies in the moving image: mean, and share above 2 voxels; and what the run tells of its
pairs. TUNED are the cases on which constants were chosen.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import confidence
import numpy as np
from distributed import Client, LocalCluster
from scipy import ndimage

import bigreg
from bigreg.engines.keypoints import keypoints, texture
from bigreg.transforms.landmarks import write_bigwarp
from bigreg.volumes import downsample

MOTIONS = {
    "5": (5.0, 12.0, 2.0),
    "18": (18.0, 20.0, 2.0),
    "30": (30.0, 32.0, 2.0),
    "bent": (30.0, 24.0, 5.0),
}  # largest, smooth, shift
TUNED = ("left-1-18", "left-1-30", "left-1-bent", "brain-1-18", "brain-1-30", "brain-2-30", "template-2-18")
JUDGED = (
    "right-2-18", "right-1-30", "second-3-30", "second-4-bent", "brain-3-18", "brain-3-30", "brain-4-30",
    "brain-5-bent", "template-2-30", "right-7-5", "brain-8-5", "second-9-5",
)  # fmt: skip
SETTINGS = [*confidence.SETTINGS, "output.report=false", "output.warped=false", "output.confidence=false"]
CELL = 4
WAYS = ("without", "found", "true")


def make_case(data: Path, name: str) -> dict[str, np.ndarray]:
    """fixed, moving, spacing, and truth: (3, z, y, x) world um in moving of each fixed voxel."""
    source, seed, motion = name.split("-")
    rng = np.random.default_rng(int(seed))
    moving, spacing = confidence.images(data)[source]()
    voxels = confidence.random_map(confidence.SHAPE, rng, *MOTIONS[motion])
    low, high = np.percentile(moving, [1, 99.9])
    fixed = ndimage.map_coordinates(moving, voxels, order=3, mode="nearest")
    fixed = np.clip((fixed - low) / (high - low), 0, None) ** 0.8 * (high - low) * 0.8 + low
    fixed, moving = (i + rng.normal(0, 0.01 * (high - low), confidence.SHAPE) for i in (fixed, moving))
    shift = max(0.0, -min(fixed.min(), moving.min()))
    fixed, moving = ((i + shift).clip(0, 65535).astype("u2") for i in (fixed, moving))
    truth = voxels * np.reshape(spacing, (3, 1, 1, 1))
    return {"fixed": fixed, "moving": moving, "truth": truth, "spacing": np.array(spacing)}


def true_pairs(case: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Points with texture at half resolution (N, 3) um and where they went, of those that moving shows."""
    small = downsample(case["fixed"], (2, 2, 2)).astype("f4")
    low, high = np.percentile(small, [1, 99.9])
    cells = tuple(n // CELL for n in small.shape)
    response = texture((small - low) / (high - low), np.ones(small.shape))
    fine = 2.0 * keypoints(response, (0, 0, 0), cells, CELL) + 0.5
    moved = np.stack([ndimage.map_coordinates(t, fine.T, order=1, mode="nearest") for t in case["truth"]], 1)
    top = (np.array(case["moving"].shape) - 1) * case["spacing"]
    inside = ((moved >= 0) & (moved <= top)).all(1)
    return (fine * case["spacing"])[inside], moved[inside]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("cases", nargs="*", default=[*TUNED, *JUDGED])
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print("| case | way | mean error, voxels | above 2 voxels | found, agree | seconds |\n|---|---|---|---|---|---|")
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster, Client(cluster, set_as_default=False) as client:  # fmt: skip
        for name in options.cases:
            case = make_case(options.data, name)
            spacing = tuple(case["spacing"])
            for way in options.ways:
                out, more = options.work / f"{name}-{way}.zarr", []
                shutil.rmtree(out, ignore_errors=True)
                if way == "true":
                    file = options.work / f"{name}.csv"
                    write_bigwarp(file, *true_pairs(case))
                    more = [f"landmarks.path={file}", "landmarks.spline=true"]
                if way == "found":
                    more = ["landmarks.path=auto", "landmarks.spline=true"]
                config = bigreg.load_config(preset="rounds", overrides=[*SETTINGS, *more])
                begin = time.perf_counter()
                run = bigreg.register(
                    (case["fixed"], spacing), (case["moving"], spacing), out=str(out), config=config, client=client
                )
                seconds, error = time.perf_counter() - begin, confidence.errors(run, case)
                above = (error > 2).sum() / np.isfinite(error).sum()
                told = run.status().pairs
                pairs = "" if told is None else f"{told['found']}, {told['used']}"
                print(
                    f"| {name} | {way} | {np.nanmean(error):.3f} | {above:.1%} | {pairs} | {seconds:.0f} |", flush=True
                )
                shutil.rmtree(out)


if __name__ == "__main__":
    main()
