"""Tissue that is torn: one run of both images, and a run of each piece joined by label.

    python tests/benchmarks/pieces.py DATA WORK [SOURCE ...]

DATA holds the real volumes (easifish, lsfm_mouse). Moving is a real image; fixed is the same through a known smooth
map, cut through and opened to a wedge of up to 10 voxels. The error is that of the voxels of tissue within 6 voxels of
the gap.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import tifffile
from confidence import SETTINGS, SHAPE, random_map
from confidence import images as sources
from distributed import Client, LocalCluster
from scipy import ndimage

import bigreg

OPEN = 10.0
"""Voxels by which the wedge is open at its wide end; its tip is at a third of the way."""
NEAR = 6
SEEDS = {"left": 201, "right": 202, "brain": 203, "template": 204}


def opened(shape: tuple[int, ...], wide: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels (1, 2, gap 0) of a volume that is cut across x, and the x of before the cut of each of its voxels."""
    _, y, x = np.indices(shape).astype(float)
    half = 0.5 * wide * np.clip((y / (shape[1] - 1) - 1 / 3) * 1.5, 0, 1)
    cut = (shape[2] - 1) / 2 + 3 * np.sin(2 * np.pi * y / shape[1])
    labels = np.where(x < cut - half, 1, np.where(x >= cut + half, 2, 0)).astype(np.uint8)
    return labels, np.where(labels == 2, x - half, x + half)


def make_case(data: Path, source: str, wide: float = OPEN) -> dict[str, np.ndarray]:
    """fixed, moving (uint16), spacing, labels, and truth: (3, z, y, x) voxel in moving of each fixed voxel."""
    rng = np.random.default_rng(SEEDS[source])
    moving, spacing = sources(data)[source]()
    whole = random_map(SHAPE, rng, 5.0, 12.0, 2.0)
    labels, before = opened(SHAPE, wide)
    z, y, _ = np.indices(SHAPE).astype(float)
    voxels = np.stack([ndimage.map_coordinates(part, (z, y, before), order=1, mode="nearest") for part in whole])
    low, high = np.percentile(moving, [1, 99.9])
    fixed = ndimage.map_coordinates(moving, voxels, order=3, mode="nearest")
    fixed = np.where(labels > 0, np.clip((fixed - low) / (high - low), 0, None) ** 0.8 * (high - low) * 0.8 + low, low)
    fixed, moving = (i + rng.normal(0, 0.01 * (high - low), SHAPE) for i in (fixed, moving))
    shift = max(0.0, -min(fixed.min(), moving.min()))
    fixed, moving = ((i + shift).clip(0, 65535).astype("u2") for i in (fixed, moving))
    return {"fixed": fixed, "moving": moving, "spacing": np.array(spacing), "labels": labels, "truth": voxels}


def errors(mapped: bigreg.Transform, case: dict[str, np.ndarray]) -> np.ndarray:
    """(z, y, x) distance of the found from the true place in voxels; NaN in the gap and where that is not in moving."""
    points = np.moveaxis(np.indices(SHAPE), 0, -1).reshape(-1, 3) * case["spacing"]
    truth = case["truth"].reshape(3, -1).T
    error = np.linalg.norm(mapped.map_points(points) / case["spacing"] - truth, axis=1)
    inside = ((truth >= 0) & (truth <= np.array(SHAPE) - 1)).all(1) & (case["labels"].ravel() > 0)
    return np.where(inside, error, np.nan).reshape(SHAPE)


def way_back(mapped: bigreg.Transform, case: dict[str, np.ndarray], near: np.ndarray) -> tuple[float, float]:
    """Mean error (voxels) on the way back from the true places of voxels near the gap, and the share that has none."""
    truth = case["truth"].reshape(3, -1).T
    inside = ((truth >= 0) & (truth <= np.array(SHAPE) - 1)).all(1) & (case["labels"].ravel() > 0) & near.ravel()
    index = np.argwhere(inside.reshape(SHAPE))
    found = mapped.map_points(truth[inside] * case["spacing"], "moving_to_fixed") / case["spacing"]
    error = np.linalg.norm(found - index, axis=1)
    return float(np.nanmean(error)), float(np.isnan(error).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("sources", nargs="*", default=list(SEEDS))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster, Client(cluster, set_as_default=False) as client:  # fmt: skip
        for source in args.sources:
            measure(args.data, args.work / source, source, client)


def measure(data: Path, work: Path, source: str, client: Client) -> None:
    work.mkdir(exist_ok=True)
    case, whole = make_case(data, source), make_case(data, source, 0.0)
    spacing = tuple(case["spacing"])
    tifffile.imwrite(work / "labels.tif", case["labels"])
    begin = time.perf_counter()

    def run(name: str, images: dict[str, np.ndarray], mask: str = "none") -> bigreg.Run:
        config = bigreg.load_config(preset="rounds", overrides=[*SETTINGS, f"masks.fixed={mask}"])
        pair = (images["fixed"], spacing), (images["moving"], spacing)
        return bigreg.register(*pair, out=str(work / f"{name}.zarr"), config=config, client=client)

    labels = work / "labels.tif"
    parts = [run(f"piece-{label}", case, f"{labels}:{label}") for label in (1, 2)]
    joined = work / "pieces.zarr"
    apart = bigreg.Pieces(str(joined)) if joined.exists() else bigreg.pieces(labels, parts, out=str(joined))
    maps = {
        "no tear": (run("whole", whole), whole),
        "one run": (run("torn", case), case),
        "gap masked": (run("masked", case, f"{labels}:1,2"), case),
        "pieces": (apart, case),
    }
    near = ndimage.binary_dilation(case["labels"] == 0, ndimage.generate_binary_structure(3, 1), NEAR)
    for name, (mapped, images) in maps.items():
        error = errors(mapped, images)
        back, lost = way_back(mapped, images, near)
        print(
            f"{source}: {name}: near {np.nanmean(error[near]):.3f}, elsewhere {np.nanmean(error[~near]):.3f}; "
            f"there and back {back:.3f}, {lost:.2%} without a way back",
            flush=True,
        )
    folds = [int(value) for part in parts for _, name, value, *_ in part.summary() if name.startswith("folds")]
    print(f"{source}: folds of the pieces {folds}; {time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
