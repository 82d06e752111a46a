"""Distances: of mapped points from where they belong, of a point from itself after there and back."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from dataclasses import field as dataclass_field

import numpy as np
import torch

from .tensors import Array, as_pair, as_tensor

_BINS_PER_DECADE = 200  # one bin is 1.16 % wide: a percentile is known that well
_DECADES = (-6, 6)
_EDGES = 10.0 ** np.linspace(*_DECADES, (_DECADES[1] - _DECADES[0]) * _BINS_PER_DECADE + 1)


@dataclass(frozen=True, eq=False)
class ErrorHistogram:
    """Distribution of lengths (um, or voxels) whose parts add up: mean and maximum exact, percentiles to 1.2 %.

    Logarithmic bins from 1e-6 to 1e6; `missing` counts what was NaN (a point outside the map, say).
    """

    counts: np.ndarray = dataclass_field(default_factory=lambda: np.zeros(_EDGES.size + 1, dtype=np.int64))
    total: float = 0.0
    maximum: float = 0.0
    missing: int = 0

    @classmethod
    def of(cls, lengths: Array) -> ErrorHistogram:
        """Histogram of an array of lengths >= 0 of any shape."""
        values = as_tensor(lengths).detach().double().ravel()
        known = values[~values.isnan()]
        bins = torch.bucketize(known, torch.as_tensor(_EDGES, device=known.device), right=True)
        counts = torch.bincount(bins, minlength=_EDGES.size + 1).cpu().numpy()
        total, maximum = (float(known.sum()), float(known.max())) if known.numel() else (0.0, 0.0)
        return cls(counts, total, maximum, values.numel() - known.numel())

    def __add__(self, other: ErrorHistogram) -> ErrorHistogram:
        return ErrorHistogram(
            self.counts + other.counts,
            self.total + other.total,
            max(self.maximum, other.maximum),
            self.missing + other.missing,
        )

    @property
    def samples(self) -> int:
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        return self.total / self.samples if self.samples else math.nan

    def percentile(self, q: float) -> float:
        """The length that q percent of the samples do not exceed (upper edge of its bin); NaN without samples."""
        if not self.samples:
            return math.nan
        rank = max(1, math.ceil(q / 100 * self.samples))
        bin_ = int(np.searchsorted(np.cumsum(self.counts), rank))
        return self.maximum if bin_ >= _EDGES.size else min(float(_EDGES[bin_]), self.maximum)


@dataclass(frozen=True)
class RegistrationError:
    """Distances between mapped and true points, um; `missing` points could not be mapped (NaN) and are not in them."""

    points: int
    missing: int
    mean: float
    median: float
    p95: float
    p99_9: float
    maximum: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def target_registration_error(mapped: Array, truth: Array) -> RegistrationError:
    """Target registration error of `mapped` against `truth`, both (N, 3) world points in um.

    Raises ValueError for other shapes, and where `truth` is not finite.
    """
    mapped, truth = as_pair(mapped, truth)
    if mapped.ndim != 2 or mapped.shape[1] != 3:
        raise ValueError(f"points have shape {tuple(mapped.shape)}; need (N, 3), z y x in µm")
    if not bool(torch.isfinite(truth).all()):
        raise ValueError("true points are not finite; leave out the points whose place is not known")
    lengths = (mapped - truth).square().sum(1).sqrt().cpu().numpy()
    known = lengths[~np.isnan(lengths)]
    figures = [math.nan] * 5
    if known.size:
        figures = [float(known.mean()), *map(float, np.percentile(known, [50, 95, 99.9, 100]))]
    return RegistrationError(known.size, lengths.size - known.size, *figures)
