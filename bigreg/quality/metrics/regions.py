"""Sums over the regions of an annotation, from which the figures of each region come. Blocks add up to the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field

import numpy as np

BINS = 64


@dataclass(frozen=True, eq=False)
class RegionSums:
    """Sums, and greatest values, of named quantities over each region. `a + b` is that of both sets of voxels.

    ids     (R,) the regions, ascending
    sums    name -> (R,) float64; largest: name -> (R,), -inf where there is none
    """

    ids: np.ndarray = dataclass_field(default_factory=lambda: np.zeros(0, np.int64))
    sums: Mapping[str, np.ndarray] = dataclass_field(default_factory=dict)
    largest: Mapping[str, np.ndarray] = dataclass_field(default_factory=dict)

    @classmethod
    def of(
        cls,
        regions: np.ndarray,
        sums: Mapping[str, np.ndarray] | None = None,
        largest: Mapping[str, np.ndarray] | None = None,
    ) -> RegionSums:
        """Of arrays of one shape; what is NaN does not count. `regions` holds the region of each voxel."""
        ids, place = np.unique(np.asarray(regions).astype(np.int64), return_inverse=True)
        place = place.ravel()
        total, most = {}, {}
        for name, values in (sums or {}).items():
            values = np.asarray(values, dtype=np.float64).ravel()
            known = np.isfinite(values)
            total[name] = np.bincount(place[known], weights=values[known], minlength=len(ids))
        for name, values in (largest or {}).items():
            values = np.asarray(values, dtype=np.float64).ravel()
            known = np.isfinite(values)
            most[name] = np.full(len(ids), -np.inf)
            np.maximum.at(most[name], place[known], values[known])
        return cls(ids, total, most)

    def __add__(self, other: RegionSums) -> RegionSums:
        ids = np.union1d(self.ids, other.ids)
        at, to = (np.searchsorted(ids, part.ids) for part in (self, other))

        def joined(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], nothing: float, add) -> dict:
            out = {}
            for name in (*a, *(n for n in b if n not in a)):
                out[name] = np.full(len(ids), nothing)
                if name in a:
                    out[name][at] = a[name]
                if name in b:
                    out[name][to] = add(out[name][to], b[name])
            return out

        sums = joined(self.sums, other.sums, 0.0, np.add)
        return RegionSums(ids, sums, joined(self.largest, other.largest, -np.inf, np.maximum))

    def mean(self, name: str, count: str) -> np.ndarray:
        """(R,) one sum over another, NaN where there is nothing."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.sums[name] / self.sums[count]

    def correlation(self) -> np.ndarray:
        """(R,) Pearson correlation from the sums n, a, b, aa, bb, ab; NaN where an image is constant."""
        n, a, b, aa, bb, ab = (self.sums[k] for k in ("n", "a", "b", "aa", "bb", "ab"))
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.sqrt(np.maximum(aa - a * a / n, 0) * np.maximum(bb - b * b / n, 0))
            return np.where(scale > 1e-9 * np.sqrt(aa * bb), (ab - a * b / n) / scale, np.nan)


def moments(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """What `RegionSums.correlation` needs of intensities of about 0 .. 1 (far larger ones would cost digits)."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return {"n": np.ones_like(a), "a": a, "b": b, "aa": a * a, "bb": b * b, "ab": a * b}


@dataclass(frozen=True, eq=False)
class JointHistogram:
    """Joint histograms of intensities 0 .. 1 (what lies beyond counts as 0 or 1) in BINS equal bins, one a region.

    ids (R,), counts (R, BINS, BINS). `a + b` is that of both sets of voxels.
    """

    ids: np.ndarray = dataclass_field(default_factory=lambda: np.zeros(0, np.int64))
    counts: np.ndarray = dataclass_field(default_factory=lambda: np.zeros((0, BINS, BINS)))

    @classmethod
    def of(cls, regions: np.ndarray, a: np.ndarray, b: np.ndarray) -> JointHistogram:
        ids, place = np.unique(np.asarray(regions).astype(np.int64), return_inverse=True)
        first, second = (np.clip(np.asarray(v).ravel() * BINS, 0, BINS - 1).astype(np.int64) for v in (a, b))
        index = (place.ravel() * BINS + first) * BINS + second
        counts = np.bincount(index, minlength=len(ids) * BINS * BINS)
        return cls(ids, counts.reshape(len(ids), BINS, BINS).astype(float))

    def __add__(self, other: JointHistogram) -> JointHistogram:
        ids = np.union1d(self.ids, other.ids)
        counts = np.zeros((len(ids), BINS, BINS))
        counts[np.searchsorted(ids, self.ids)] = self.counts
        counts[np.searchsorted(ids, other.ids)] += other.counts
        return JointHistogram(ids, counts)

    def entropies(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(R,) of a, of b, of both; nats."""
        joint = self.counts / np.maximum(self.counts.sum((1, 2), keepdims=True), 1)
        a, b, both = (_entropy(p.reshape(len(p), -1)) for p in (joint.sum(2), joint.sum(1), joint))
        return a, b, both

    @property
    def information(self) -> np.ndarray:
        """(R,) mutual information H(a) + H(b) - H(a, b) in nats."""
        a, b, both = self.entropies()
        return a + b - both

    @property
    def normalised(self) -> np.ndarray:
        """(R,) (H(a) + H(b)) / H(a, b), 1 .. 2 (Studholme 1999); NaN where all is one bin."""
        a, b, both = self.entropies()
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(both > 0, (a + b) / both, np.nan)


def _entropy(p: np.ndarray) -> np.ndarray:
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(1)
