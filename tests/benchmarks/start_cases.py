"""The cases on which starts.py judges a start.

A case is a name and a function without arguments that makes its `Pair`. What is drawn at random comes from a generator
that is seeded by the name, so that a case is the same whichever others are run.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Literal

import numpy as np
import torch
from start_images import (
    DATA,
    Pair,
    Picture,
    any_turn,
    bent,
    brain,
    cut,
    known,
    mouse,
    noise,
    only,
    recorded,
    seeded,
    seen_through,
    tissue,
    tissue_mask,
    tissue_places,
    turned,
    unlike,
    with_ball,
    with_glow,
    with_rim,
    with_salt,
)

from bigreg.engines.affine import register_affine
from bigreg.geometry import Grid
from bigreg.pipeline.context.context import compressed
from bigreg.similarity import by_name
from bigreg.transforms.affine import about, apply_affine

ATLAS = ("--preset", "brain-to-atlas")
Cases = dict[str, Callable[[], Pair]]


# -------------------------------------------------------------------------------------------------------- heads


def landmarks(name: str) -> np.ndarray:
    """(45, 3) world um (z, y, x: superior, anterior, right) of a head's landmarks."""
    with open(DATA / "mouse_heads" / "landmarks" / f"{name}.csv", newline="") as file:
        rows = {int(r["id"]): [1000 * float(r[k]) for k in ("z_mm", "y_mm", "x_mm")] for r in csv.DictReader(file)}
    return np.array([rows[k] for k in sorted(rows)])


def head_pair(fixed: str, moving: str) -> Pair:
    paths = [str(DATA / "mouse_heads" / f"{n}.nii.gz") for n in (fixed, moving)]
    return Pair(*paths, landmarks(fixed), landmarks(moving), 1000.0, 1500.0, 500.0, note="45 landmarks of an expert")


def heads() -> Cases:
    names = sorted(p.name.removesuffix(".nii.gz") for p in (DATA / "mouse_heads").glob("*.nii.gz"))
    return {f"heads/{a}-{b}": partial(head_pair, a, b) for a, b in itertools.permutations(names, 2)}


# ---------------------------------------------------------------------------------------------------- rotations


def turned_mouse(name: str) -> Pair:
    rng = seeded(name)
    fixed, truth = turned(mouse(), any_turn(rng), 100.0)
    gamma, noise = rng.uniform(0.6, 1.4), rng.uniform(0.005, 0.03)
    return known(recorded(fixed, rng, gamma, noise), recorded(mouse(), rng), truth, tissue_places(fixed))


def turned_template(name: str) -> Pair:
    """The CCF's template turned, to the light-sheet brain: `reference` says where its places lie there."""
    fixed, truth = turned(brain("template"), any_turn(seeded(name)), 100.0)
    link = reference("brain")
    return known(fixed, brain(), lambda p: apply_affine(link, truth(p)), options=ATLAS)


def rotations() -> Cases:
    kinds = {"mouse": turned_mouse, "template": turned_template}
    names = [(kind, f"rotations/{kind}-{i:03d}") for kind in kinds for i in range(100)]
    return {name: partial(kinds[kind], name) for kind, name in names}


@lru_cache(maxsize=2)
def reference(name: Literal["brain", "mouse"]) -> np.ndarray:
    """The affine (4 x 4, um) from the CCF's template to the light-sheet brain or to mouse_tiff.

    All three lie alike (posterior, superior, left first): from the middles of the tissue upon each other the affine is
    refined by mutual information, and no search takes part in it.
    """
    pair = brain("template"), brain() if name == "brain" else mouse()
    start = about(np.eye(3), *(tissue_places(image).mean(0) for image in pair))
    images, grids = [], []
    for image in pair:
        low, high = np.percentile(image.data, [1, 99.9])
        images.append(compressed(torch.as_tensor((image.data - low) / (high - low)), 0.02))
        grids.append(Grid.from_spacing(image.data.shape, image.spacing))
    return register_affine(*images, *grids, similarity=by_name("mi"), start=start).matrix


def flipped(image: Picture, axes: tuple[int, ...]) -> tuple[Picture, np.ndarray]:
    """The image with axes reversed, and the affine from the image's world to the new one's."""
    signs = np.array([-1.0 if a in axes else 1.0 for a in range(3)])
    new = replace(image, data=np.ascontiguousarray(np.flip(image.data, axes)))
    return new, about(np.diag(signs), image.centre, image.centre)


# -------------------------------------------------------------------------------------------------------- crops

WHOLE = slice(None)
CROPS = ("front", "back", "hemisphere", "lower", "hindbrain", "slab", "slab-along", "cube", "corner", "middle")


def part_of(box: np.ndarray, kind: str, spacing: np.ndarray, rng: np.random.Generator) -> tuple[slice, ...]:
    """A crop of the tissue that lies within `box` (2, 3) of voxels; axis 0 runs from back to front, axis 1 down."""
    low, high = box
    size = high - low

    def along(axis: int, first: float, last: float) -> tuple[slice, ...]:
        ranges = [slice(int(a), int(b)) for a, b in zip(low, high, strict=True)]
        ranges[axis] = slice(int(low[axis] + first * size[axis]), int(low[axis] + last * size[axis]))
        return tuple(ranges)

    if kind == "front":
        return along(0, rng.uniform(0.5, 0.65), 1)
    if kind == "back":
        return along(0, 0, rng.uniform(0.35, 0.5))
    if kind == "hemisphere":
        return along(2, *rng.choice([(0, 0.5), (0.5, 1)]))
    if kind == "lower":
        return along(1, rng.uniform(0.4, 0.5), 1)
    if kind == "hindbrain":
        return along(0, 0, rng.uniform(0.22, 0.3))
    if kind == "middle":
        return along(0, 0.3, 0.7)
    if kind.startswith("slab"):  # of 2 mm
        axis = 0 if kind == "slab" else 2
        thick = 2000.0 / spacing[axis] / size[axis]
        first = rng.uniform(0.15, 0.85 - thick)
        return along(axis, first, first + thick)
    edges = np.minimum(3000.0 / spacing, size) if kind == "cube" else 0.7 * size
    first = low + rng.uniform(0.25, 0.75, 3) * (size - edges)
    return tuple(slice(int(a), int(a + e)) for a, e in zip(first, edges, strict=True))


def crop_pair(name: str, kind: str, mono: bool) -> Pair:
    """A part of a brain, turned by any angle, and a whole one; either is fixed."""
    rng = seeded(name)
    whole = mouse() if mono else brain("template")
    mask = tissue_mask(whole)
    index = np.argwhere(mask)
    ranges = part_of(np.array([index.min(0), index.max(0) + 1]), kind, np.array(whole.spacing), rng)
    piece, truth = turned(only(whole, ranges), any_turn(rng), 100.0)
    places = tissue_places(piece)
    piece = recorded(piece, rng, rng.uniform(0.7, 1.3))
    other, link = (recorded(whole, rng), np.eye(4)) if mono else (brain(), reference("brain"))
    pair = known(
        piece, other, lambda p: apply_affine(link, truth(p)), places, options=() if mono else ATLAS,
        note=f"{kind}, {mask[ranges].sum() / mask.sum():.0%} of the tissue",
    )  # fmt: skip
    if rng.random() < 0.5:
        return pair
    return replace(
        pair,
        fixed=pair.moving,
        moving=pair.fixed,
        points=pair.targets,
        targets=pair.points,
        note=pair.note + ", moving",
    )


def crops() -> Cases:
    out = {}
    for i in range(50):
        kind, mono = CROPS[i % 10], (i // 10) % 2 == 0
        name = f"crops/{'mouse' if mono else 'atlas'}-{i:02d}-{kind}"
        out[name] = partial(crop_pair, name, kind, mono)
    return out


# ------------------------------------------------------------------------------------------------------ bubbles

SPOILT: dict[str, Callable[[Picture, np.random.Generator], Picture]] = {
    **{f"ball{r}": partial(with_ball, radius=r, value=65535) for r in (9, 12, 16, 20, 25, 30)},
    "dim-ball16": partial(with_ball, radius=16, value=12000),
    "salt": with_salt,
    "glow": with_glow,
    "rim": lambda image, rng: with_rim(image),
}
ONE_SIDED = ("debris", "empty")


def spoilt_pair(name: str, source: str, what: str) -> Pair:
    """A few degrees, a shift and a bending, own contrast and noise; then dirt, elsewhere in each image."""
    rng = seeded(name)
    moving = cut(tissue(), slice(30, 118), slice(60, 172), slice(150, 262)) if source == "cells" else brain()
    scale = moving.spacing[2]
    truth = bent(moving.extent, rng, 4.0, 4 * scale, 8 * scale)
    fixed = seen_through(moving, truth)
    places = tissue_places(fixed)
    a, b = recorded(fixed, rng, 0.8, gain=4000.0), recorded(moving, rng, gain=4000.0)
    if what == "debris":
        for _ in range(8):
            b = with_ball(b, rng, rng.uniform(5, 9), 65535, 0.1)
    elif what == "empty":
        n = np.array(a.data.shape)
        box = tuple(slice(int(p), int(q)) for p, q in zip(0.2 * n, 0.75 * n, strict=True))
        a = only(a, box)
        places = tissue_places(fixed, only(replace(fixed, data=tissue_mask(fixed)), box).data)
    else:
        a, b = SPOILT[what](a, rng), SPOILT[what](b, rng)
    return known(a, b, truth, places)


def bubbles() -> Cases:
    out = {}
    for source, what, k in itertools.product(("cells", "brain"), (*SPOILT, *ONE_SIDED), range(2)):
        name = f"bubbles/{source}-{what}-{k}"
        out[name] = partial(spoilt_pair, name, source, what)
    return out


# ------------------------------------------------------------------------------------------------------ mirrors

TO_ATLAS = {  # axes that are reversed
    "right": (), "mirrored": (2,), "front-for-back": (0,), "turned": (0, 2), "upside-down": (1,), "rolled": (1, 2),
}  # fmt: skip


def brain_to_atlas(axes: tuple[int, ...]) -> Pair:
    moving, link = flipped(mouse(), axes)
    link = link @ reference("mouse")
    moving = recorded(moving, np.random.default_rng(0))
    kind = "mirrored" if len(axes) % 2 else "turned"
    return on_either_side(
        known(brain("template"), moving, lambda p: apply_affine(link, p), options=ATLAS, kind=kind), link
    )


def on_either_side(pair: Pair, link: np.ndarray) -> Pair:
    """The CCF is symmetric and a brain nearly so: only a warning can tell a mirrored one from one that is turned."""
    across = apply_affine(about(np.diag([1.0, 1.0, -1.0]), *[brain("template").centre] * 2), pair.points)
    return replace(pair, as_good=apply_affine(link, across))


def mirrored_mouse(name: str, part: str) -> Pair:
    rng = seeded(name)
    axis = int(rng.integers(3))
    whole = mouse()
    n = whole.data.shape
    box = {
        "whole": (WHOLE, WHOLE, WHOLE),
        "hemisphere": (WHOLE, WHOLE, slice(0, n[2] // 2)),
        "front": (slice(n[0] // 2, None), WHOLE, WHOLE),
    }[part]
    part_of_it = only(whole, box)
    moving, link = flipped(part_of_it, (axis,))
    turn = any_turn(rng) if rng.random() < 0.5 else np.eye(3)
    fixed, truth = turned(part_of_it, turn, 100.0)
    return known(
        recorded(fixed, rng, 0.8), recorded(moving, rng), lambda p: apply_affine(link, truth(p)), tissue_places(fixed),
        kind="mirrored", note=f"{part}, axis {axis} reversed",
    )  # fmt: skip


def mirrored_hemisphere(side: int) -> Pair:
    """A mirrored half of the light-sheet brain to a whole atlas: on a symmetric one nothing in the images tells."""
    whole, template = brain(), brain("template")
    n = whole.data.shape[2]
    half = only(whole, (WHOLE, WHOLE, slice(0, n // 2) if side == 0 else slice(n // 2, n)))
    moving, link = flipped(half, (2,))
    link = link @ reference("brain")
    points = tissue_places(template)
    points = points[half.at(apply_affine(reference("brain"), points)) > 0]
    return on_either_side(
        known(template, moving, lambda p: apply_affine(link, p), points, options=ATLAS, kind="mirrored"), link
    )


def mirrors() -> Cases:
    out: Cases = {f"mirrors/atlas-{name}": partial(brain_to_atlas, axes) for name, axes in TO_ATLAS.items()}
    for i, part in enumerate(("whole", "hemisphere", "front") * 3):
        out[f"mirrors/mouse-{i}-{part}"] = partial(mirrored_mouse, f"mirrors/mouse-{i}-{part}", part)
    for side in range(2):
        out[f"mirrors/atlas-hemisphere-{side}"] = partial(mirrored_hemisphere, side)
    return out


# --------------------------------------------------------------------------------------------------- impossible


def cells(*ranges: slice, seed: int = 0) -> Picture:
    return recorded(cut(tissue(), *ranges), np.random.default_rng(seed), gain=4000.0)


def left() -> Picture:
    return cells(slice(30, 118), slice(60, 150), slice(20, 110))


def right() -> Picture:
    return cells(slice(20, 108), slice(100, 190), slice(340, 430), seed=1)


def impossible() -> Cases:
    blank = Picture(np.zeros((88, 90, 90), np.uint16), (1.68, 1.84, 1.84))
    large = (130.0, 120.0, 120.0)  # cells as large as a brain
    return {
        "impossible/noise": lambda: unlike(noise(1), noise(2)),
        "impossible/noise-small": lambda: unlike(noise(3, voxels=24), noise(4, voxels=24)),
        "impossible/smooth-noise-2": lambda: unlike(noise(1, smooth=2.0), noise(2, smooth=2.0)),
        "impossible/smooth-noise-6": lambda: unlike(noise(3, smooth=6.0), noise(4, smooth=6.0)),
        "impossible/blank": lambda: unlike(left(), blank),
        "impossible/blank-but-noise": lambda: unlike(left(), noise(5, voxels=88, spacing=1.8)),
        "impossible/tissue-noise": lambda: unlike(left(), noise(6, smooth=1.0, voxels=80, spacing=2.0)),
        "impossible/elsewhere": lambda: unlike(left(), right()),
        "impossible/elsewhere-turned": lambda: unlike(left(), replace(right(), data=right().data[::-1, ::-1].copy())),
        "impossible/brain-cells": lambda: unlike(brain(), replace(left(), spacing=large)),
        "impossible/template-cells": lambda: unlike(brain("template"), replace(left(), spacing=large), ATLAS),
        "impossible/head-brain": lambda: unlike(
            str(DATA / "mouse_heads" / "A_J_.nii.gz"), mouse(), ("--moving-orientation", "psl")
        ),
    }


SUITES: dict[str, Callable[[], Cases]] = {
    "heads": heads, "rotations": rotations, "crops": crops, "bubbles": bubbles, "mirrors": mirrors,
    "impossible": impossible,
}  # fmt: skip
