"""Pairs with a known map of the kinds that laboratories bring: noise, shading, little overlap, thin or small volumes.

A case is KIND-SOURCE-SEED-MOTION-SIMILARITY. Both images show one real image; fixed is the same through a random map.
A motion that is too large for the start of the run (far, lost) gives wrong registrations. Images are made on a scale
where the 1st and 99.9th percentile of the source are 0 and 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from confidence import SHAPE, ball, images, random_map
from scipy import ndimage

import bigreg
from bigreg.phantom import make_pair

MOST = (40, 56, 64)
MOTIONS = {"near": (3.0, 12.0, 1.5), "mid": (6.0, 12.0, 2.5), "far": (16.0, 14.0, 5.0), "lost": (5.0, 12.0, 13.0)}
ONE = ("plain", "noise3", "noise10", "noise25", "gamma", "gradient", "stripes", "overlap", "slab", "small", "sides",
       "block", "subvolume", "cut", "debris", "hole", "blank", "noisy")  # fmt: skip
ANY = ("plain", "noise10", "inverted", "curve", "regions", "invnoise", "overlap", "slab", "small")
SOURCES = ("left", "template", "whole", "second", "brain", "phantom", "right", "mouse", "head")
SIMILARITIES = ("mi", "mind", "ngf", "lncc_squared")


def names() -> list[str]:
    """Every case, one contrast first."""
    out, number = [], 0
    for kind in ONE:
        for motion in ("near", "mid", "near", "far", "lost"):
            out.append(f"{kind}-{SOURCES[number % len(SOURCES)]}-{number}-{motion}-lncc")
            number += 1
    for kind in ANY:
        for motion in ("near", "near", "mid", "far", "lost", "near"):
            source = "template" if kind == "regions" else SOURCES[number % len(SOURCES)]
            out.append(f"{kind}-{source}-{number}-{motion}-{SIMILARITIES[number % 4]}")
            number += 1
    return out


def source_image(data: Path, name: str, seed: int) -> tuple[np.ndarray, tuple[float, ...]]:
    """(z, y, x) of at most MOST, 0 .. 1 between its percentiles, and its spacing, um."""
    if name == "phantom":
        spacing = (4.0, 2.6, 2.6)
        image = make_pair(SHAPE, spacing, seed=seed, max_displacement_um=None).moving.astype("f4")
    elif name == "whole":  # the whole brain with air around
        volume = bigreg.open_volume(data / "lsfm_mouse" / "brain_25um.ome.zarr")
        grid = volume.levels[3].grid
        image, spacing = np.pad(volume.read((0, 0, 0), grid.shape, 3).astype("f4"), 3), grid.spacing
    elif name == "mouse":
        volume = bigreg.open_volume(str(data / "mouse_tiff"), spacing=(50, 40, 40))
        image = volume.read((0, 0, 0), volume.shape).astype("f4")[:268, :192, :268]
        image, spacing = image.reshape(67, 4, 48, 4, 67, 4).mean((1, 3, 5)), (200.0, 160.0, 160.0)
    elif name == "head":
        volume = bigreg.open_volume(data / "mouse_heads" / "FVB_NJ_.nii.gz")
        image = volume.read((0, 0, 0), volume.shape).astype("f4")
        z, y, x = (n // 2 for n in image.shape)
        image = image[: 2 * z, : 2 * y, : 2 * x].reshape(z, 2, y, 2, x, 2).mean((1, 3, 5))[:72, :72, :80]
        spacing = tuple(2 * s for s in volume.grid().spacing)
    else:
        image, spacing = images(data)[name]()
    image = image[
        tuple(slice((n - min(n, m)) // 2, (n + min(n, m)) // 2) for n, m in zip(image.shape, MOST, strict=True))
    ]
    low, high = np.percentile(image, [1, 99.9])
    return ((image - low) / (high - low)).clip(-0.05, 3).astype("f4"), tuple(float(s) for s in spacing)


def region_gains(data: Path, rng: np.random.Generator) -> np.ndarray:
    """(SHAPE) factor of the brightness of each region of the source 'template'."""
    volume = bigreg.open_volume(data / "lsfm_mouse" / "ccf_annotation_25um.nrrd")
    ids = volume.read((300, 100, 250), tuple(np.add((300, 100, 250), SHAPE)))
    _, index = np.unique(ids, return_inverse=True)
    gains = np.exp(rng.normal(0, 0.5, index.max() + 1))
    middle = tuple(slice((n - m) // 2, (n + m) // 2) for n, m in zip(SHAPE, MOST, strict=True))
    return ndimage.gaussian_filter(gains[index.reshape(SHAPE)][middle].astype("f4"), 0.7)


def make_case(data: Path, name: str) -> dict[str, np.ndarray]:
    """fixed, moving (uint16), spacing, origins (um), and truth: (3, z, y, x) place in moving of a fixed voxel, um."""
    kind, source, seed, motion, _ = name.split("-")
    rng = np.random.default_rng(7000 + int(seed))
    moving, spacing = source_image(data, source, 7000 + int(seed))
    shape = moving.shape
    voxels = random_map(shape, rng, *MOTIONS[motion])
    if kind == "blank":
        moving = moving * (1 - ndimage.gaussian_filter(ball(shape, rng, 14.0).astype("f4"), 2.0))
    fixed = moving * region_gains(data, rng) if kind == "regions" else moving
    fixed = ndimage.map_coordinates(fixed, voxels, order=1, mode="nearest").clip(0, 3) ** 0.8
    if kind in ("inverted", "invnoise"):
        fixed = 1.0 - 0.8 * fixed
    elif kind in ("curve", "regions"):  # dim and bright are both dark
        fixed = 4.0 * fixed.clip(0, 1) * (1.0 - fixed.clip(0, 1)) if kind == "curve" else fixed
    elif kind == "gamma":
        fixed, moving = fixed**0.5, moving.clip(0, 3) ** 1.6
    elif kind == "gradient":
        moving = moving * np.linspace(1, 0.08, shape[0])[:, None, None]
        fixed = fixed * np.linspace(1, 0.15, shape[1])[:, None]
    elif kind == "stripes":
        rows = (rng.random(shape[1] // 4 + 1) > 0.6).repeat(4)[: shape[1]]
        moving = moving * (1 - 0.7 * rows[:, None])
    elif kind == "cut":
        moving = moving.copy()
        moving[:, :, : int(shape[2] * rng.uniform(0.15, 0.4))] = 0.0
    elif kind == "debris":
        moving = moving.copy()
        for _ in range(4):
            centre = [rng.uniform(0, n) for n in shape]
            near = sum((g - c) ** 2 for g, c in zip(np.indices(shape), centre, strict=True)) < rng.uniform(3, 6) ** 2
            moving[near] = 3.0
    elif kind == "hole":
        moving = np.where(ball(shape, rng, 11.0) | ball(shape, rng, 8.0), 0.0, moving)
    elif kind == "noisy":
        place = ndimage.gaussian_filter(ball(shape, rng, 16.0).astype("f4"), 3.0)
        fixed, moving = (i + place * rng.normal(0, 1.5, shape) for i in (fixed, moving))
    sd = {"noise3": 0.03, "noise10": 0.1, "noise25": 0.25, "invnoise": 0.1}.get(kind, 0.01)
    fixed, moving = (i + rng.normal(0, sd, shape) for i in (fixed, moving))
    fixed, moving = ((4000 * i + 1000).clip(1, 65535).round().astype("u2") for i in (fixed, moving))
    corners = {"fixed": np.zeros(3, int), "moving": np.zeros(3, int)}
    stops = {"fixed": np.array(shape), "moving": np.array(shape)}
    if kind == "overlap":
        share = int(shape[2] * rng.uniform(0.6, 0.75))
        stops["fixed"][2], corners["moving"][2] = share, shape[2] - share
    elif kind == "slab":
        first = int(shape[0] * 0.4)
        for which in corners:
            corners[which][0], stops[which][0] = first, first + 10 + 2 * (int(seed) % 4)
    elif kind == "small":
        for which in corners:
            middle, size = np.array(shape) // 2, 16 + 8 * (int(seed) % 3)
            corners[which], stops[which] = np.maximum(middle - size // 2, 0), np.minimum(middle + size // 2, shape)
    elif kind == "subvolume":
        corners["fixed"], stops["fixed"] = np.array(shape) // 4, np.array(shape) // 4 + 32
    elif kind == "sides":
        for image, wide in ((fixed, 5), (moving, 10)):
            image[:wide] = image[:, -wide:] = image[:, :, :wide] = 0
    elif kind == "block":
        keep = tuple(slice(n // 4, n // 4 + n // 2) for n in shape)
        inner, fixed = fixed[keep], np.zeros_like(fixed)
        fixed[keep] = inner
    boxes = {w: tuple(map(slice, corners[w], stops[w])) for w in corners}
    return {
        "fixed": fixed[boxes["fixed"]],
        "moving": moving[boxes["moving"]],
        "truth": (voxels[:, *boxes["fixed"]] * np.reshape(spacing, (3, 1, 1, 1))).astype("f4"),
        "spacing": np.array(spacing),
        "fixed_origin": corners["fixed"] * spacing,
        "moving_origin": corners["moving"] * spacing,
    }
