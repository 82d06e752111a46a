"""Sigma against the error of maps that are known: its factors, and how well it holds on pairs that they did not see.

    python tests/benchmarks/sigma.py DATA WORK [--fit] [--only SIMILARITY ...]

A case is SOURCE-SEED-NOISE-SIMILARITY: a real image, the same through a random smooth map, independent noise in both
(in units of the median SD of the image in windows of 7 voxels), registered by the pipeline; contrast is inverted where
the similarity allows it. With --fit the factors of bigreg/engines/uncertainty.py are measured on FITTED; without it the
table of RESULTS.md is printed for JUDGED, other images and other seeds. WORK keeps what was measured: delete it when
the estimate has changed.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from confidence import images, random_map
from distributed import Client, LocalCluster
from scipy import ndimage

import bigreg
from bigreg.engines.uncertainty import FACTORS, ONE_CONTRAST

FITTED = ("left", "template")
JUDGED = ("second", "brain")
NOISE = (0.25, 0.5, 0.75, 1.0)
MOTION = (3.0, 12.0, 1.5)
BOX = (slice(4, 52), slice(8, 72), slice(8, 88))
BINS, WITHIN = 15, 1.645  # SD: 90 % of a normal error
SETTINGS = ["affine.kind=none", "blocks.core=40", "blocks.halo=12", "ladder.samples=2", "output.report=false",
            "output.warped=false", "output.confidence=false"]  # fmt: skip


def measure(data: Path, work: Path, source: str, seed: int, noise: float, similarity: str, client: Client) -> Path:
    """The file that keeps errors and sigmas (N, 3) of a case, um."""
    kept = work / f"{source}-{seed}-{noise}-{similarity}.npz"
    if kept.exists():
        return kept
    rng = np.random.default_rng(seed)
    moving, spacing = images(data)[source]()
    moving = moving[BOX].astype("f4")
    low, high = np.percentile(moving, [1, 99.9])
    moving = ((moving - low) / (high - low)).clip(-0.05, 3)
    mean = ndimage.uniform_filter(moving, 7)
    texture = float(np.median(np.sqrt((ndimage.uniform_filter(moving**2, 7) - mean**2).clip(0))))
    places = random_map(moving.shape, rng, *MOTION)
    fixed = ndimage.map_coordinates(moving, places, order=1, mode="nearest")
    if similarity not in ONE_CONTRAST:
        fixed = 1.0 - 0.8 * fixed
    fixed, moving = (
        (4000 * (i + rng.normal(0, noise * texture, i.shape)) + 6000).clip(1, 65535).astype("u2")
        for i in (fixed, moving)
    )
    config = bigreg.load_config(
        preset="rounds", overrides=[*SETTINGS, f"engine_options.optimise.similarity={similarity}"]
    )
    out = work / f"{kept.stem}.zarr"
    shutil.rmtree(out, ignore_errors=True)
    run = bigreg.register((fixed, spacing), (moving, spacing), out=str(out), config=config, client=client)
    inner = np.stack(np.meshgrid(*(np.arange(6, n - 6, 4) for n in fixed.shape), indexing="ij"), -1).reshape(-1, 3)
    truth = places[:, *inner.T].T
    inner = inner[((truth >= 4) & (truth <= np.subtract(fixed.shape, 5))).all(1)]
    error = run.map_points(inner * spacing) - places[:, *inner.T].T * spacing
    sigma = run.sigma_at(inner * spacing)
    known = np.isfinite(sigma).all(1) & np.isfinite(error).all(1)
    np.savez(kept, error=error[known], sigma=sigma[known], spacing=spacing)
    shutil.rmtree(out)
    return kept


def binned(error: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """(BINS, 2) root mean square of error and of sigma, in bins of as many values each by sigma."""
    order = np.argsort(sigma)
    return np.array([[np.sqrt(np.mean(v[part] ** 2)) for v in (error, sigma)] for part in np.array_split(order, BINS)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--only", nargs="+", default=["lncc", "mi", "mind"], choices=sorted(FACTORS))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    sources, first = (FITTED, 1000) if given.fit else (JUDGED, 5000)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster, Client(cluster, set_as_default=False) as client:  # fmt: skip
        for similarity in given.only:
            found = []
            for number, (source, noise) in enumerate((s, n) for s in sources for n in NOISE):
                seed = first + 100 * sorted(FACTORS).index(similarity) + number
                kept = dict(np.load(measure(given.data, given.work, source, seed, noise, similarity, client)))
                case = [(kept[k] / kept["spacing"]).ravel() for k in ("error", "sigma")]
                found.append(case)
                ratio = np.sqrt(np.mean(case[0] ** 2) / np.mean(case[1] ** 2))
                print(f"  {source} {noise} {similarity}: RMSE {np.sqrt(np.mean(case[0] ** 2)):.3f} voxels, "
                      f"ratio {ratio:.2f}", flush=True)  # fmt: skip
            error, sigma = (np.concatenate([case[i] for case in found]) for i in range(2))
            pairs = binned(error, sigma)
            ratios = pairs[:, 0] / pairs[:, 1]
            if given.fit:
                print(f"{similarity}: factor {FACTORS[similarity] * np.exp(np.log(ratios).mean()):.2f}")
            within = (abs(np.log(ratios)) < np.log(1.2)).sum()
            covered = np.mean(abs(error) < WITHIN * sigma)
            told = " ".join(f"{r:.2f}" for r in ratios)
            print(f"| {similarity} | {told} | {within} of {BINS} | {covered:.3f} |", flush=True)


if __name__ == "__main__":
    main()
