"""Which of some scattered displacements are to be believed: those that a smooth deformation could have made.

Displacements are taken for samples of a Gaussian process (squared exponential, as long as neighbours are apart, and as
strong as tissue is stretched). Each is predicted from all others, which has a closed form (leave-one-out: Rasmussen and
Williams 2006, 5.4.2), and loses weight by how far it is from that, in standard deviations (Tukey's biweight). What
has lost weight counts less in the predictions of the others; that is repeated.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

STRAIN = 0.3
"""How much a displacement changes, um a um."""
NEIGHBOURS = 4
CUT = 5.0
"""Standard deviations (of a vector) from which on a displacement counts for nothing."""
ROUNDS = 10
LEAST = 1e-3
WIDE = 100.0
"""Variance of the coefficients of a trend, over that of the process."""


def agreement(
    points: np.ndarray,
    vectors: np.ndarray,
    noise: float,
    weights: np.ndarray | None = None,
    *,
    strain: float = STRAIN,
    reach: float = 1.0,
    cut: float = CUT,
    trend: bool = False,
) -> np.ndarray:
    """(N,) weights 0 .. 1 of vectors (N, 3) um at points (N, 3) um; `noise`: their accuracy, um.

    weights   what is known of them before, 0 .. 1. One that has no neighbours keeps that.
    strain    how much a displacement changes, um a um
    reach     the length of the process, in distances between neighbours
    cut       standard deviations from which on a displacement counts for nothing
    trend     whether any affine displacement is as likely as none (universal kriging, by a prior that is very wide)
    Time grows with N^3: some thousands at most.
    """
    count = len(points)
    prior = np.ones(count) if weights is None else np.asarray(weights, dtype=float)
    places = np.unique(points, axis=0)
    if len(places) < 3:
        return prior
    apart = cKDTree(places).query(places, k=min(NEIGHBOURS, len(places) - 1) + 1)[0][:, -1]
    length = reach * float(np.median(apart))
    signal = (strain * length) ** 2 + noise**2
    squares = ((points[:, None] - points[None]) ** 2).sum(2)
    kernel = signal * np.exp(-0.5 * squares / length**2)
    if trend:
        centred = (points - points.mean(0)) / max(float(points.std()), 1e-12)
        kernel = kernel + WIDE * signal * (1 + centred @ centred.T)
    weights = prior
    for _ in range(ROUNDS):
        own = noise**2 / np.maximum(weights, LEAST)
        inverse = np.linalg.inv(kernel + np.diag(own))
        diagonal = np.diag(inverse)
        missed = (inverse @ vectors) / diagonal[:, None]
        # What a new measurement there would scatter by: its own weight is no excuse.
        variance = np.maximum(1 / diagonal - own, 0) + noise**2
        far = (missed**2).sum(1) / variance
        weights = prior * np.clip(1 - far / cut**2, 0, None) ** 2
    return weights
