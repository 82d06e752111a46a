"""Intervals of cells per region against true counts, where the map between a brain and an atlas is known.

    python tests/benchmarks/intervals.py --bench BENCH --data DATA --work DIR [--seed S] [--least VOXELS ...]
                                         [--set KEY=VALUE ...]

The case `atlas` of compare.py, made of the template of DATA at 100 um, in another contrast, preset `brain-to-atlas`.
Random cells, even over the tissue or gathered around some of them, are counted by region through the true map and
through the found one; a row says in how many regions of at least MANY cells the true count lies in the interval, by the
SD that is added to sigma. Beside it: how errors of the map correlate from place to place.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from compare import CASES, make
from labels import atlas_at_100um
from scipy import ndimage

import bigreg
from bigreg.atlases import intervals

MANY = 50
CELLS = 40000


def counts(annotation: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(labels,) how many of (N, 3) voxels lie in each label."""
    inside = ((places > -0.5) & (places < np.array(annotation.shape) - 0.5)).all(1)
    return np.bincount(annotation[tuple(np.rint(places[inside]).astype(int).T)], minlength=annotation.max() + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--amplitude", type=float, default=4.0, help="of the map, voxels")
    parser.add_argument("--smooth", type=float, default=8.0, help="SD of its Gaussian, voxels")
    parser.add_argument("--least", type=float, nargs="+", default=[0.0, 0.65])
    parser.add_argument("--set", nargs="+", default=[], dest="settings")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    template, annotation = atlas_at_100um(options.data)
    annotation = np.unique(annotation, return_inverse=True)[1]
    CASES["atlas"] |= {"amplitude": options.amplitude, "sigma": options.smooth, "seed": options.seed}
    case = options.work / "atlas.npz"
    if not case.exists():
        make("atlas", case, template, [100.0] * 3, options.bench)
    known = np.load(case)
    truth = known["truth"]  # (3, z, y, x) voxels of moving, at the voxels of fixed
    seen = ndimage.map_coordinates(annotation, np.nan_to_num(truth, nan=-1e6), order=0)
    out = options.work / "run.zarr"
    shutil.rmtree(out, ignore_errors=True)
    settings = ["ladder.finest=1", "output.report=false", "output.warped=false", *options.settings]
    config = bigreg.load_config(preset="brain-to-atlas", overrides=settings)
    images = [(known[w], (100.0,) * 3) for w in ("fixed", "moving")]
    run = bigreg.register(*images, out=str(out), config=config)
    at = np.argwhere(seen > 0)
    found = run.map_points(at * 100.0) / 100.0
    error = np.full((3, *seen.shape), np.nan)
    error[:, *at.T] = (found - truth[:, *at.T].T).T
    sigma = np.full_like(error, np.nan)
    sigma[:, *at.T] = run.sigma_at(at * 100.0).T / 100.0
    rms = [np.sqrt(np.nanmean(values**2)) for values in (error, sigma)]
    print("error along an axis (root mean square) {:.3f} voxels, sigma {:.3f}".format(*rms))
    scaled = error / sigma
    told = []
    for lag in (2, 4, 8, 12, 16, 24):
        pairs = [
            np.nanmean(np.take(scaled, range(lag, n), axis + 1) * np.take(scaled, range(n - lag), axis + 1))
            for axis, n in enumerate(seen.shape)
        ]
        told.append(f"{lag}: {np.mean(pairs) / np.nanmean(scaled**2):.2f}")
    print("correlation of errors over so many voxels:", "; ".join(told), flush=True)
    rng = np.random.default_rng(4)
    tissue = np.argwhere(annotation > 0)
    even = tissue[rng.integers(len(tissue), size=CELLS)] + rng.uniform(-0.5, 0.5, (CELLS, 3))
    middles = tissue[rng.integers(len(tissue), size=400)]
    gathered = middles[rng.integers(400, size=CELLS)] + rng.normal(0, 2.0, (CELLS, 3))
    # Cells are given in the sample (moving) here, and counted in the atlas by the map back to fixed.
    print("| cells | added SD (voxels) | regions | true count inside | width / count | error / count |")
    print("|---|---|---|---|---|---|")
    for name, cells in (("even", even), ("gathered", gathered)):
        # The true place in fixed of a cell of moving: a fixed point of x = cell - (truth(x) - x).
        x = cells.copy()
        for _ in range(60):
            x = cells - np.stack([ndimage.map_coordinates(t - i, x.T, order=1, mode="nearest")
                                  for t, i in zip(truth, np.indices(seen.shape), strict=True)], 1)  # fmt: skip
        true = counts(seen, x)
        there = run.map_points(cells * 100.0, "moving_to_fixed")
        estimate = counts(seen, np.nan_to_num(there / 100.0, nan=-1e6))
        use = np.flatnonzero((true >= MANY) & (np.arange(len(true)) > 0))
        for least in options.least:
            intervals.LEAST = least
            moves = intervals.sampled_moves(run)
            samples = np.array([counts(seen, np.nan_to_num(m(there) / 100.0, nan=-1e6)) for m in moves])
            both = np.array([intervals.interval(int(estimate[r]), samples[:, r].tolist()) for r in use])
            inside = (true[use] >= both[:, 0]) & (true[use] <= both[:, 1])
            width = np.mean((both[:, 1] - both[:, 0]) / true[use])
            off = np.mean(np.abs(estimate[use] - true[use]) / true[use])
            print(f"| {name} | {least:g} | {len(use)} | {inside.mean():.2f} | {width:.2f} | {off:.2f} |", flush=True)


if __name__ == "__main__":
    main()
