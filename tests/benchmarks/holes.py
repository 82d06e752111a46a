"""Whole registrations with a known map where moving lacks a part: what holes do to the map around them.

    python tests/benchmarks/holes.py DATA WORK [CASE ...] [--ways off on] [--set KEY=VALUE ...]

A case is SOURCE-SEED-KIND: an image of confidence.py, seen through a random map, and of `blank` two balls of moving
are empty, of `bubble` they have a bright rim too, of `none` nothing is missing. Preset `rounds`, images as they lie.
Each is registered without and with the mask of non-correspondence (`masks.noncorrespondence`). Prints the mean error of
fixed voxels, in voxels: within RIM voxels of a hole, inside, and further away; and the mask's recall and precision, in
the fixed frame. CHOSEN are the cases on which constants were chosen.
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
from bigreg.phantom import make_pair

KINDS = ("none", "far", "blank", "bubble")
RADII = (17.0, 12.0)
RIM = 8  # voxels around a hole
BORDER = 8  # voxels of the image's that are not judged
MOTIONS = {"far": (18.0, 16.0, 5.0)}  # largest, smooth, shift
MOTION = (8.0, 10.0, 2.0)
CHOSEN = tuple(f"{s}-{n}-{k}" for s, n in (("left", 301), ("left", 302), ("brain", 303), ("brain", 304)) for k in KINDS)
JUDGED = tuple(
    f"{s}-{n}-{k}"
    for s, n in (
        ("right", 311), ("right", 312), ("second", 313), ("second", 314), ("brain", 315), ("brain", 316),
        ("template", 317), ("phantom", 318),
    )
    for k in KINDS
)  # fmt: skip
BARE = ["output.report=false", "output.warped=false", "output.confidence=false", "output.sigma=false"]
SETTINGS = ["affine.kind=none", "ladder.samples=2", *BARE]
WAYS = {"off": "masks.noncorrespondence=false", "on": "masks.noncorrespondence=true"}
COLUMNS = ("rim", "inside", "far", "recall", "precision", "seconds")


def make_case(data: Path, name: str) -> dict[str, np.ndarray]:
    """fixed, moving, spacing, truth: (3, z, y, x) um in moving of each fixed voxel; gone: (z, y, x) of moving, bool."""
    source, seed, kind = name.split("-")
    rng = np.random.default_rng(int(seed))
    if source == "phantom":
        spacing = (4.0, 2.6, 2.6)
        pair = make_pair(confidence.SHAPE, spacing, seed=int(seed), max_displacement_um=None)
        fixed, moving, truth = pair.fixed.astype("f4"), pair.moving.astype("f4"), pair.truth
    else:
        moving, spacing = confidence.images(data)[source]()
        voxels = confidence.random_map(confidence.SHAPE, rng, *MOTIONS.get(kind, MOTION))
        low, high = np.percentile(moving, [1, 99.9])
        fixed = ndimage.map_coordinates(moving, voxels, order=3, mode="nearest")
        fixed = np.clip((fixed - low) / (high - low), 0, None) ** 0.8 * (high - low) * 0.8 + low
        truth = voxels * np.reshape(spacing, (3, 1, 1, 1))
    shape = moving.shape
    low, high = np.percentile(moving, [1, 99.9])
    centres = [[rng.uniform(0.25 * n, 0.75 * n) for n in shape] for _ in RADII]
    distance = np.min([_depth(shape, c, r) for c, r in zip(centres, RADII, strict=True)], axis=0)
    gone = distance < 0
    if kind in ("blank", "bubble"):
        moving = np.where(gone, low, moving)
    if kind == "bubble":
        moving = np.where(np.abs(distance + 1) < 1.5, high, moving)
    fixed, moving = (i + rng.normal(0, 0.01 * (high - low), shape) for i in (fixed, moving))
    shift = max(0.0, -min(fixed.min(), moving.min()))
    fixed, moving = ((i + shift).clip(0, 65535).astype("u2") for i in (fixed, moving))
    return {"fixed": fixed, "moving": moving, "truth": truth.astype("f4"), "spacing": np.array(spacing), "gone": gone}


def _depth(shape: tuple[int, ...], centre: list[float], radius: float) -> np.ndarray:
    """Distance from the surface of a ball in voxels, negative inside."""
    return np.sqrt(sum((g - c) ** 2 for g, c in zip(np.indices(shape), centre, strict=True))) - radius


def figures(run: bigreg.Run, case: dict[str, np.ndarray], found: np.ndarray | None) -> dict[str, float]:
    """Mean errors in voxels, and recall and precision of a mask (z, y, x) of the fixed frame."""
    error = confidence.errors(run, case)
    places = case["truth"] / np.reshape(case["spacing"], (3, 1, 1, 1))
    gone = ndimage.map_coordinates(case["gone"].astype("f4"), places, order=1, mode="constant") > 0.5
    rim = (ndimage.distance_transform_edt(~gone) <= RIM) & ~gone
    known = np.isfinite(error)
    inner = np.zeros_like(known)
    inner[(slice(BORDER, -BORDER),) * 3] = True
    known &= inner
    parts = {"rim": rim, "inside": gone, "far": ~gone & ~rim}
    out = {name: float(error[known & part].mean()) for name, part in parts.items()}
    if found is not None:
        both = float((gone & found & known).sum())
        out |= {"recall": both / max((gone & known).sum(), 1), "precision": both / max((found & known).sum(), 1)}
        out["false"] = float((found & ~gone & known).sum() / known.sum())
    return out


def _mask(run: bigreg.Run) -> np.ndarray:
    volume = run.noncorrespondence
    return volume.read((0, 0, 0), volume.shape) > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("cases", nargs="*", default=[*CHOSEN, *JUDGED])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--set", nargs="+", default=[], dest="settings")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print(f"| case | way | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 2)}")
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster, Client(cluster, set_as_default=False) as client:  # fmt: skip
        for name in options.cases:
            case = make_case(options.data, name)
            spacing = tuple(float(s) for s in case["spacing"])
            for way in options.ways:
                out = options.work / f"{name}-{way}.zarr"
                shutil.rmtree(out, ignore_errors=True)
                config = bigreg.load_config(preset="rounds", overrides=[*SETTINGS, WAYS[way], *options.settings])
                begin = time.perf_counter()
                run = bigreg.register(
                    (case["fixed"], spacing), (case["moving"], spacing), out=str(out), config=config, client=client
                )
                seconds = time.perf_counter() - begin
                found = _mask(run) if way == "on" else None
                row = {**figures(run, case, found), "seconds": seconds}
                cells = " | ".join(f"{row[c]:.3f}" if c in row else "" for c in COLUMNS)
                print(f"| {name} | {way} | {cells} |", flush=True)
                shutil.rmtree(out)


if __name__ == "__main__":
    main()
