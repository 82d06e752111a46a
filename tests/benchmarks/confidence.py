"""Whole registrations whose answer is known, failures put in.

    python tests/benchmarks/confidence.py DATA WORK [CASE ...]     make the pairs and register them

DATA holds the real volumes (easifish, lsfm_mouse). A case is an image, a seed and a failure. JUDGED, one case of each
image and each failure, shares no seed with CALIBRATED. confidence_fit.py fits the risk of an error on such pairs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from distributed import Client, LocalCluster
from scipy import ndimage
from scipy.spatial.transform import Rotation

import bigreg
from bigreg.phantom import make_pair
from bigreg.quality.metrics import min_jacobian

SHAPE = (56, 80, 96)
SETTINGS = ["affine.kind=none", "blocks.core=40", "blocks.halo=12", "ladder.samples=2"]
CALIBRATED = (
    "left-1-plain", "left-2-missing", "left-3-blank", "left-4-noise", "left-5-far", "left-6-missing", "left-7-far",
    "right-11-missing", "right-12-far", "right-13-blank", "right-19-plain", "right-51-noise", "right-56-missing",
    "right-61-far", "right-71-missing", "right-77-blank",
    "second-14-noise", "second-15-far", "second-20-missing", "second-52-blank", "second-62-missing", "second-66-noise",
    "second-72-far", "second-76-noise",
    "template-6-missing", "template-7-plain", "template-8-noise",
    "brain-16-missing", "brain-17-far", "brain-18-noise", "brain-23-plain", "brain-54-blank", "brain-55-far",
    "brain-63-missing", "brain-64-plain", "brain-73-missing", "brain-74-noise", "brain-78-far",
    "phantom-1-missing", "phantom-3-noise", "phantom-4-blank", "phantom-5-plain", "phantom-22-missing",
    "phantom-53-far", "phantom-65-missing", "phantom-75-blank",
)  # fmt: skip
SOURCES = ("left", "right", "second", "template", "brain", "phantom")
FAILURES = ("plain", "missing", "blank", "noise", "far")
JUDGED = tuple(f"{s}-{100 + 10 * i + j}-{f}" for i, s in enumerate(SOURCES) for j, f in enumerate(FAILURES))


def images(data: Path) -> dict[str, Callable[[], tuple[np.ndarray, tuple[float, ...]]]]:
    """Real images by name: (z, y, x) of SHAPE and their spacing, um."""

    def tissue(name: str, x: int) -> tuple[np.ndarray, tuple[float, ...]]:
        volume = bigreg.open_volume(data / "easifish" / f"{name}.n5")
        whole = volume.read((0, 0, 0), volume.shape).astype("f4")
        half = whole[: whole.shape[0] // 2 * 2, :240, :456].reshape(-1, 2, 120, 2, 228, 2).mean((1, 3, 5))
        image = half[: SHAPE[0], : SHAPE[1], x : x + SHAPE[2]]
        return image, tuple(2 * s for s in volume.grid().spacing)

    def brain(name: str, start: tuple[int, ...]) -> tuple[np.ndarray, tuple[float, ...]]:
        volume = bigreg.open_volume(data / "lsfm_mouse" / name)
        return volume.read(start, tuple(np.add(start, SHAPE))).astype("f4"), volume.grid().spacing

    return {
        "left": lambda: tissue("fix", 0),
        "right": lambda: tissue("fix", 116),
        "second": lambda: tissue("mov", 60),
        "template": lambda: brain("ccf_template_25um.ome.zarr", (300, 100, 250)),
        "brain": lambda: brain("brain_25um.ome.zarr", (220, 60, 90)),
    }


def random_map(
    shape: tuple[int, ...], rng: np.random.Generator, amplitude: float, smooth: float, shift: float
) -> np.ndarray:
    """(3, z, y, x) places in voxels: a small rotation and scale, a shift, and a smooth part of at most `amplitude`.

    The smooth part is made smaller where its smallest Jacobian determinant would be under 0.3.
    """
    field = np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), smooth, mode="wrap") for _ in range(3)])
    field *= amplitude / np.sqrt((field**2).sum(0)).max()
    while min_jacobian(field, (1.0, 1.0, 1.0)).min() < 0.3:
        field *= 0.9
    middle = np.reshape(np.subtract(shape, 1) / 2, (3, 1, 1, 1))
    turn = Rotation.from_rotvec(np.deg2rad(rng.uniform(-1.5, 1.5, 3))).as_matrix() * (1 + rng.uniform(-0.02, 0.02))
    offset = rng.uniform(-shift, shift, (3, 1, 1, 1))
    return np.tensordot(turn, np.indices(shape) - middle, 1) + middle + offset + field


def ball(shape: tuple[int, ...], rng: np.random.Generator, radius: float) -> np.ndarray:
    centre = [rng.uniform(0.25 * n, 0.75 * n) for n in shape]
    distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(np.indices(shape), centre, strict=True)))
    return distance < radius


def make_case(data: Path, name: str) -> dict[str, np.ndarray]:
    """fixed, moving, spacing, and truth: (3, z, y, x) world um in moving of each fixed voxel."""
    source, seed, failure = name.split("-")
    rng = np.random.default_rng(int(seed))
    motion = {"plain": (5.0, 12.0, 2.0), "far": (18.0, 16.0, 5.0), "lost": (8.0, 10.0, 12.0)}.get(
        failure, (8.0, 10.0, 2.0)
    )
    if source == "phantom":
        spacing = (4.0, 2.6, 2.6)
        pair = make_pair(SHAPE, spacing, seed=int(seed), max_displacement_um=None)
        fixed, moving, truth = pair.fixed.astype("f4"), pair.moving.astype("f4"), pair.truth
        voxels = truth / np.reshape(spacing, (3, 1, 1, 1))
        if failure == "far":  # what the anatomy does not do is added: moving is seen through another map
            more = random_map(SHAPE, rng, *motion)
            fixed = ndimage.map_coordinates(fixed, more, order=1, mode="nearest")
            voxels = np.stack([ndimage.map_coordinates(v, more, order=1, mode="nearest") for v in voxels])
    else:
        moving, spacing = images(data)[source]()
        voxels = random_map(SHAPE, rng, *motion)
        fixed = None
    low, high = np.percentile(moving, [1, 99.9])
    if failure == "blank":  # no structure in a part of the sample, in both images
        empty = ndimage.gaussian_filter(ball(SHAPE, rng, 24.0).astype("f4"), 2.0)
        moving = moving * (1 - empty) + low * empty
        if fixed is not None:
            seen = ndimage.map_coordinates(empty, voxels, order=1, mode="nearest")
            fixed = fixed * (1 - seen) + np.percentile(fixed, 1) * seen
    if fixed is None:
        fixed = ndimage.map_coordinates(moving, voxels, order=3, mode="nearest")
        fixed = np.clip((fixed - low) / (high - low), 0, None) ** 0.8 * (high - low) * 0.8 + low
    span = np.percentile(fixed, 99.9) - np.percentile(fixed, 1)
    if failure == "missing":
        gone = ball(SHAPE, rng, 17.0) | ball(SHAPE, rng, 12.0)
        moving = np.where(gone, low, moving)
    if failure == "noise":
        place = ndimage.gaussian_filter(ball(SHAPE, rng, 26.0).astype("f4"), 3.0)
        fixed = fixed + place * rng.normal(0, 1.5 * span, SHAPE)
        moving = moving + place * rng.normal(0, 1.5 * (high - low), SHAPE)
    fixed, moving = (i + rng.normal(0, 0.01 * (high - low), SHAPE) for i in (fixed, moving))
    truth = voxels * np.reshape(spacing, (3, 1, 1, 1))
    shift = max(0.0, -min(fixed.min(), moving.min()))
    fixed, moving = ((i + shift).clip(0, 65535).astype("u2") for i in (fixed, moving))
    return {"fixed": fixed, "moving": moving, "truth": truth.astype("f4"), "spacing": np.array(spacing)}


def make(data: Path, work: Path, names: list[str]) -> None:
    """Make and register cases that are not there yet."""
    work.mkdir(parents=True, exist_ok=True)
    config = bigreg.load_config(preset="rounds", overrides=SETTINGS)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster, Client(cluster, set_as_default=False) as client:  # fmt: skip
        for name in names:
            path = work / f"{name}.npz"
            if not path.exists():
                np.savez(path, **make_case(data, name))
            case = np.load(path)
            spacing = tuple(case["spacing"])
            begin = time.perf_counter()
            out = str(work / f"{name}.zarr")
            run = bigreg.register(
                (case["fixed"], spacing), (case["moving"], spacing), out=out, config=config, client=client
            )
            error = errors(run, case)
            print(
                f"{name}: {time.perf_counter() - begin:.0f} s, error {np.nanmean(error):.2f} voxels on average, "
                f"{(error > 2).sum() / np.isfinite(error).sum():.1%} above 2",
                flush=True,
            )


def errors(run: bigreg.Run, case: dict) -> np.ndarray:
    """(z, y, x) distance of the found from the true place in voxels; NaN where that lies outside of moving."""
    shape, spacing = case["fixed"].shape, np.asarray(case["spacing"])
    points = np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 3) * spacing
    truth = np.moveaxis(case["truth"], 0, -1).reshape(-1, 3).astype(float)
    error = np.linalg.norm((run.map_points(points) - truth) / spacing, axis=1)
    inside = ((truth >= 0) & (truth <= (np.array(case["moving"].shape) - 1) * spacing)).all(1)
    return np.where(inside, error, np.nan).reshape(shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("cases", nargs="*", default=[*CALIBRATED, *JUDGED])
    args = parser.parse_args()
    make(args.data, args.work, args.cases)


if __name__ == "__main__":
    main()
