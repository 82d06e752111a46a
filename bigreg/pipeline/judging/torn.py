"""Pieces of torn tissue, proposed: what of the fixed image's tissue hangs together beside what has no counterpart.

A tear leaves a gap that one image shows and the other does not: it is empty in one of them alone, and where it is wide
(a narrow one the smooth map closes) it is in the mask of non-correspondence. Where tissue without it falls into parts,
each may be a piece that needs a run of its own. It is looked at on the small copy that the report shows, so a gap is
seen from about three of its voxels on. Nothing is done with a proposal by itself: a person looks at it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ...errors import InputError
from ...geometry import Grid
from ...quality.figures import overlay_slice, stretched
from ...quality.report import Picture, Section
from ...transforms.positions import Positions
from ...volumes import create_image
from ..context.context import Context
from ..context.masks import find_tissue
from . import noncorrespondence
from .likeness import Views, views

LEAST = 0.05
"""Of the tissue that a piece holds; what is smaller belongs to the piece that it is nearest to."""
GAP = 0.5
"""Share of a voxel of the small copy without a counterpart from which on it parts tissue."""
FAINT = 0.02
"""Of the range of intensities: from here on ratios count and not differences."""
TIMES = 3
"""How often the darker part is parted again: bright cells, tissue between them, and what is empty."""
APART = 3.5
"""SDs of the darker part between the means of two: what is empty. Parts of one hump of intensities have up to 2.8."""
OPENED = 1
"""Voxels: what hangs together by bridges that hold no cube of 2 OPENED + 1 of them is parted."""


@dataclass(frozen=True, eq=False)
class ProposedPieces:
    """Labels of the pieces that tissue of the fixed image may be torn into.

    labels   (z, y, x) uint8 on `grid`: 1, 2, ... from the largest piece on, with the background that is nearest to
             each; 0 in the gap. All 1 where the tissue is one piece.
    grid     of the labels, in the world of the fixed image
    shares   of the tissue that each piece holds, in the order of the labels
    """

    labels: np.ndarray
    grid: Grid
    shares: tuple[float, ...]

    def write(self, out: str) -> None:
        """As an OME-Zarr label image. Raises OutputError where something is there already."""
        writer = create_image(out, [self.grid], self.labels.dtype, name="pieces", labels=True, shards=None)
        writer.write(0, (0, 0, 0), self.labels)


def parted(tissue: np.ndarray, gap: np.ndarray) -> tuple[np.ndarray, tuple[float, ...]]:
    """Labels and shares (see `ProposedPieces`) of tissue, where there is a gap; both (z, y, x) bool.

    What is not part of a piece gets the label of the nearest one. Raises InputError where there is no tissue.
    """
    kept = tissue & ~gap
    cube = np.ones((2 * OPENED + 1,) * 3, bool)
    core = ndimage.binary_erosion(kept, cube, border_value=1)  # the faces of the image are no border of tissue
    parts, _ = ndimage.label(core)
    sizes = np.bincount(parts.ravel())[1:]
    total = int(core.sum())
    if not total:
        raise InputError("no tissue is left beside what has no counterpart; is the start of the run right?")
    chosen = 1 + np.flatnonzero(sizes >= max(LEAST * total, 1))
    if not len(chosen):
        chosen = np.array([1 + int(sizes.argmax())])
    chosen = chosen[np.argsort(-sizes[chosen - 1], kind="stable")]
    number = np.zeros(len(sizes) + 1, np.uint8)
    number[chosen] = np.arange(1, len(chosen) + 1)
    seeds = number[parts]
    nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    labels = np.where(gap, 0, seeds[tuple(nearest)]).astype(np.uint8)
    held = np.bincount(labels[kept], minlength=len(chosen) + 1)[1:]
    return labels, tuple(float(h) / int(kept.sum()) for h in held)


def empty(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(z, y, x) bool: what of an image of intensities about 0..1 is darker than all tissue; nothing where no part is.

    known   bool, what is looked at

    Otsu's threshold (1979) parts bright from dark, then the dark again, until both lie far enough apart.
    """
    smooth = np.log1p(ndimage.gaussian_filter(np.clip(image, 0.0, 1.0), 1.0) / FAINT)
    values = smooth[known]
    for _ in range(TIMES):
        if not values.size or values.min() == values.max():
            break
        counts, edges = np.histogram(values, 256)
        centres = (edges[:-1] + edges[1:]) / 2
        below, mass = np.cumsum(counts), np.cumsum(counts * centres)
        total = below[-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            between = (mass[-1] * below / total - mass) ** 2 / (below * (total - below))
        cut = int(np.nanargmax(between[:-1]))
        dark, bright = mass[cut] / below[cut], (mass[-1] - mass[cut]) / (total - below[cut])
        values = values[values <= centres[cut]]
        if bright - dark >= APART * values.std():
            return known & (smooth <= centres[cut])
    return np.zeros(image.shape, bool)


def proposed(context: Context, shown: Views | None = None) -> ProposedPieces:
    """The pieces of a run's fixed image; `shown`: its `views`, where they are made already.

    Raises InputError where it does not look for what has no counterpart, has not come so far, or no tissue is left.
    """
    noncorrespondence.require_sought(context)
    shown = views(context) if shown is None else shown
    grid, known = shown.grid, shown.inside["after"]
    fixed, moving = stretched(shown.fixed), stretched(shown.moving["after"])
    tissue = find_tissue(fixed) & known  # what moving does not reach tells of no tear, and joins nothing
    mask = context.mask("fixed")
    if mask is not None:
        tissue &= mask.at(Positions.of_grid(grid)).numpy()
    gap = noncorrespondence.on_grid(context, grid) >= GAP
    nothing = empty(fixed, known)
    tissue &= ~nothing
    # Borders that differ by a voxel are no gap.
    gap |= ndimage.binary_opening(nothing ^ empty(moving, known), np.ones((2, 2, 2)))
    labels, shares = parted(tissue, gap)
    return ProposedPieces(labels, grid, shares)


def sections(context: Context, shown: Views) -> list[Section]:
    """Of the report: where tissue may be torn; nothing where it is one piece. shown: its `views`."""
    try:
        found = proposed(context, shown)
    except InputError:
        return []  # the section on what has no counterpart says why
    if len(found.shares) < 2:
        return []
    shares = ", ".join(f"{share:.0%}" for share in found.shares)
    text = (
        f"Beside what has no counterpart, the tissue of fixed falls into {len(found.shares)} parts ({shares} of it). "
        "If it is torn there, one smooth map is wrong beside the tear: register each piece by itself. `bigreg propose` "
        "writes these parts as labels to look at and correct. Nothing was done with them."
    )
    z = int(np.argmax([min(np.bincount(p.ravel(), minlength=3)[1:3]) for p in found.labels]))
    grey = stretched(shown.fixed)
    colours = np.where(found.labels % 2 == 1, grey, 0), np.where((found.labels > 0) & (found.labels % 2 == 0), grey, 0)
    png = overlay_slice(*colours, found.grid.spacing, z)
    caption = "Magenta and green: the parts, in turn, over the fixed image. Black: the gap"
    return [Section("Torn tissue?", text, (Picture("pieces", caption, "The proposed pieces, one plane", png),))]
