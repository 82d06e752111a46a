"""Where a registration may be wrong, without knowing the truth: the probability that a tile is off by over two voxels.

After registration, each tile of the fixed image is compared with the warped image around the same place and as it would
be moved by every step of a small window. Under independent noise the profile likelihood of a step with correlation r
over n samples is (1 - r^2)^(-n/2); the mean length of the steps, weighted so, is the error to be expected there. It is
large where another place fits better (a wrong match), where all places fit alike (no texture, or noise that hides it),
and where nothing fits (too large a motion). n is measured: what is left of moving after the regression is alike from
voxel to voxel where the structures differ, and is not where it is the noise of a camera, of which each voxel counts.
For the same reason all that is said of structure is taken from products of neighbouring voxels, in which independent
noise has no share. Where bright need not go with bright, moving is compared with a parabola of fixed in each window,
and r is the multiple correlation; the features then mean the same, and one model serves every similarity.

A logistic model weighs the expected error together with the local correlation, with the structure that there is and how
much of it lies along the direction that has least, here and around, with how sensitive a match is to what the images
differ in, and with how much of that is structure. How the map bends is left out, though it would tell more of these
pairs: a map that does not move where it should is not right. Its weights come from pairs with a known answer
(tests/benchmarks/RESULTS.md).
Where overlapping patches disagreed, the risk is at least that of a normal error of that size.

The features are taken by `tile_features`. Arrays are (z, y, x); a voxel is one of the finest level of the ladder.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special

from .confidence_model import BIAS, FAR, MODEL, Model

TILE = 8
"""Voxels along an axis of a tile."""
HALO = 4
"""Tiles around a box of tiles that their features depend on."""
LARGE = 2.0
"""Voxels of the finest level; an error above this is what is looked for. Runs with another ladder.finest look for
another length: it is said in um beside each share."""
RISKY = 0.1
"""A tile of at least this risk is flagged; chosen so that few large errors are missed."""
STRUCTURED = 1.0
"""Of `detail`: a tile with less has nothing to be compared, whatever there is around it."""


def said(large_um: Sequence[float]) -> str:
    """How a large error is named: in voxels of the finest level, and in um along z, y and x where they differ."""
    lengths = [f"{v:.3g}" for v in large_um]
    return f"{LARGE:g} voxels ({lengths[0] if len(set(lengths)) == 1 else ' × '.join(lengths)} µm)"


def terms(found: dict[str, np.ndarray], model: Model = MODEL) -> np.ndarray:
    """(terms, ...) what a model weighs: the standard scores of the features, and all products of two of them."""
    scores = np.stack([np.clip((found[name] - row[0]) / row[1], -FAR, FAR) for name, row in model.items()])
    return np.concatenate([scores, *(scores[k] * scores[k:] for k in range(len(scores)))])


def risk(
    found: dict[str, np.ndarray], disagreement: np.ndarray | None = None, *, model: Model = MODEL, bias: float = BIAS
) -> np.ndarray:
    """The probability that a tile is off by more than LARGE voxels, 0 .. 1, of its features; NaN stays.

    disagreement   SD (tiles) of overlapping patches before blending, voxels
    """
    weights = [row[2] for row in model.values()] + [w for row in model.values() for w in row[3]]
    out = special.expit(bias + np.tensordot(np.array(weights), terms(found, model), 1))
    if disagreement is not None:
        least = special.erfc(LARGE / np.maximum(disagreement, 1e-6) / np.sqrt(2))
        out = np.where(np.isnan(out), out, np.maximum(out, least))
    return out.astype(np.float32)
