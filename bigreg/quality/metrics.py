"""Figures of merit of a map and of the images it brings together.

Fields are displacements in micrometres, (3, z, y, x), sampled on an axis-aligned grid of `spacing` (um, z y x); the map
is x -> x + d(x). Every function takes numpy arrays or torch tensors (on any device) and answers in kind. What is summed
over a volume is a small frozen summary with `+`: the summaries of blocks add up to the summary of the whole, so that no
figure ever needs the volume in memory. Moments are added with the parallel update of Chan, Golub and LeVeque (1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from dataclasses import field as dataclass_field
from functools import reduce
from itertools import product

import numpy as np
import torch

Array = np.ndarray | torch.Tensor

LOG_JACOBIAN_FLOOR = 1e-3  # a logarithm needs a positive determinant; what is clipped to this is counted
_SLAB_SAMPLES = 1 << 17  # determinants are made in slabs of z this large, so that the temporaries stay small


# ------------------------------------------------------------------------------------------------------ Jacobians


def min_jacobian(field: Array, spacing: Sequence[float]) -> Array:
    """Smallest signed determinant of I + grad d over all eight one-sided difference stencils, (z, y, x).

    A stencil takes the forward or the backward difference along each axis; together the eight see every corner of
    every cell around a sample, so a fold that hides between two samples of a central difference does not pass. At the
    border only the stencils that exist count. Raises ValueError for a field that is not (3, z, y, x) with at least two
    samples along each axis.
    """
    return _determinants(field, spacing, _smallest_of_eight)


def central_jacobian(field: Array, spacing: Sequence[float]) -> Array:
    """Signed determinant of I + grad d by central differences (one-sided at the border), (z, y, x).

    Raises ValueError as `min_jacobian` does.
    """
    return _determinants(field, spacing, _central)


def _determinants(field: Array, spacing: Sequence[float], determinant) -> Array:
    d = _tensor(field)
    if d.ndim != 4 or d.shape[0] != 3 or min(d.shape[1:]) < 2:
        raise ValueError(f"field has shape {tuple(d.shape)}; need (3, z, y, x) with at least 2 samples along each axis")
    depth = d.shape[1]
    out = torch.empty(d.shape[1:], dtype=d.dtype, device=d.device)
    step = max(1, _SLAB_SAMPLES // (d.shape[2] * d.shape[3]))
    for start in range(0, depth, step):
        stop = min(start + step, depth)
        low, high = max(start - 1, 0), min(stop + 1, depth)
        columns = [_one_sided(d[:, low:high], axis, float(h)) for axis, h in enumerate(spacing)]
        out[start:stop] = determinant(columns)[start - low : stop - low]
    return _like(out, field)


def _one_sided(d: torch.Tensor, axis: int, spacing: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Backward and forward difference of x + d(x) along one axis; at the border the one that exists stands for both."""
    difference = d.diff(dim=axis + 1) / spacing
    difference[axis] += 1
    ends = difference.narrow(axis + 1, 0, 1), difference.narrow(axis + 1, difference.shape[axis + 1] - 1, 1)
    n = d.shape[axis + 1]
    padded = torch.cat([ends[0], difference, ends[1]], dim=axis + 1)
    return padded.narrow(axis + 1, 0, n), padded.narrow(axis + 1, 1, n)


def _smallest_of_eight(columns: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    values = (
        (z * cross).sum(0)
        for y, x in product(columns[1], columns[2])
        for cross in (torch.linalg.cross(y, x, dim=0),)
        for z in columns[0]
    )
    return reduce(torch.minimum, values)


def _central(columns: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    z, y, x = ((backward + forward) / 2 for backward, forward in columns)
    return (z * torch.linalg.cross(y, x, dim=0)).sum(0)


@dataclass(frozen=True)
class JacobianSummary:
    """Folds and volume change of a map. `a + b` is the summary of both sets of samples.

    `folds` samples have a determinant <= 0 by at least one of the eight stencils, `minimum` is the smallest of those;
    the logarithm is of the central determinant, clipped from below at 0.001 for `clipped` samples.
    """

    samples: int = 0
    folds: int = 0
    minimum: float = math.inf
    clipped: int = 0
    mean_log: float = 0.0
    squares_log: float = 0.0  # sum of squared deviations from mean_log

    @classmethod
    def of(
        cls,
        field: Array,
        spacing: Sequence[float],
        *,
        core: tuple[slice, ...] | None = None,
        inside: Array | None = None,
    ) -> JacobianSummary:
        """Summary of the samples in `core` (slices z, y, x; default all) where the mask `inside` (z, y, x) is true.

        For blocks to add up to the whole, `field` must reach one sample beyond `core` wherever the volume does.
        Raises ValueError where a determinant is not finite.
        """
        core = core or (slice(None),) * 3
        smallest, central = _tensor(min_jacobian(field, spacing))[core], _tensor(central_jacobian(field, spacing))[core]
        if inside is not None:
            keep = torch.as_tensor(inside, device=smallest.device).bool()[core]
            smallest, central = smallest[keep], central[keep]
        if smallest.numel() == 0:
            return cls()
        if not bool(torch.isfinite(smallest).all()):
            count = int((~torch.isfinite(smallest)).sum())
            raise ValueError(
                f"{count} of {smallest.numel()} determinants are not finite; mask such samples with `inside`"
            )
        return cls.of_determinants(smallest, central)

    @classmethod
    def of_determinants(cls, smallest: torch.Tensor, central: torch.Tensor) -> JacobianSummary:
        """Summary of samples of which both determinants are known."""
        logs = central.double().clamp(min=LOG_JACOBIAN_FLOOR).log()
        mean = float(logs.mean())
        return cls(
            samples=smallest.numel(),
            folds=int((smallest <= 0).sum()),
            minimum=float(smallest.min()),
            clipped=int((central < LOG_JACOBIAN_FLOOR).sum()),
            mean_log=mean,
            squares_log=float(((logs - mean) ** 2).sum()),
        )

    def __add__(self, other: JacobianSummary) -> JacobianSummary:
        n = self.samples + other.samples
        if n == 0:
            return self
        step = other.mean_log - self.mean_log
        return JacobianSummary(
            samples=n,
            folds=self.folds + other.folds,
            minimum=min(self.minimum, other.minimum),
            clipped=self.clipped + other.clipped,
            mean_log=self.mean_log + step * other.samples / n,
            squares_log=self.squares_log + other.squares_log + step**2 * self.samples * other.samples / n,
        )

    @property
    def sd_log(self) -> float:
        """Standard deviation of the logarithm of the central determinant."""
        return math.sqrt(self.squares_log / self.samples) if self.samples else math.nan


def seam_ratio(field: Array, spacing: Sequence[float], faces: Sequence[Sequence[int]]) -> float:
    """Mean jump of the second difference across block faces over its mean elsewhere: 1 = no seam can be seen.

    `faces` names, along z, y and x, the index of the first sample behind each face. The jump is the length of the third
    difference, averaged over the three that meet the pair of samples at a face (a kink half-way between two samples
    has none at its centre), so a step, a kink and a change of curvature all count. Several axes are weighted by their
    face samples. NaN where there is no face; inf for a seam in a field that is elsewhere without curvature.
    """
    d = _tensor(field).double()
    at_faces = expected = 0.0
    for axis, (h, where) in enumerate(zip(spacing, faces, strict=True)):
        n = d.shape[axis + 1]
        if n < 4:
            continue
        # Entry i - 2 is the third difference between samples i - 1 and i; those at the border do not exist.
        entries = sorted({int(i) - 2 + k for i in where if 0 < i < n for k in (-1, 0, 1)} & set(range(n - 3)))
        jump = (d.diff(n=3, dim=axis + 1) / float(h) ** 2).square().sum(0).sqrt()
        jump = jump.movedim(axis, 0).flatten(1).mean(1)
        face = torch.zeros(n - 3, dtype=torch.bool, device=d.device)
        face[entries] = True
        if not entries or bool(face.all()):
            continue
        samples = len(entries) * (d[0].numel() // n)
        at_faces += float(jump[face].mean()) * samples
        expected += float(jump[~face].mean()) * samples
    if expected:
        return at_faces / expected
    return math.inf if at_faces else math.nan


# ----------------------------------------------------------------------------------------------------- similarity


@dataclass(frozen=True)
class CorrelationSummary:
    """Moments of pairs of intensities. `a + b` is the summary of both sets of voxels; `ncc` is their correlation."""

    voxels: int = 0
    mean_a: float = 0.0
    mean_b: float = 0.0
    squares_a: float = 0.0
    squares_b: float = 0.0
    products: float = 0.0

    @classmethod
    def of(cls, a: Array, b: Array, mask: Array | None = None) -> CorrelationSummary:
        """Summary of two images of one shape, of the voxels where `mask` is true (default all)."""
        a, b = _pair(a, b)
        if mask is not None:
            keep = torch.as_tensor(mask, device=a.device).bool()
            a, b = a[keep], b[keep]
        if a.numel() == 0:
            return cls()
        mean_a, mean_b = a.mean(), b.mean()
        a, b = a - mean_a, b - mean_b
        sums = (float(v) for v in (mean_a, mean_b, a.square().sum(), b.square().sum(), (a * b).sum()))
        return cls(a.numel(), *sums)

    def __add__(self, other: CorrelationSummary) -> CorrelationSummary:
        n = self.voxels + other.voxels
        if n == 0:
            return self
        weight = self.voxels * other.voxels / n
        step_a, step_b = other.mean_a - self.mean_a, other.mean_b - self.mean_b
        return CorrelationSummary(
            voxels=n,
            mean_a=self.mean_a + step_a * other.voxels / n,
            mean_b=self.mean_b + step_b * other.voxels / n,
            squares_a=self.squares_a + other.squares_a + step_a**2 * weight,
            squares_b=self.squares_b + other.squares_b + step_b**2 * weight,
            products=self.products + other.products + step_a * step_b * weight,
        )

    @property
    def ncc(self) -> float:
        """Normalised cross-correlation; NaN where an image is constant or there is no voxel."""
        scale = math.sqrt(self.squares_a) * math.sqrt(self.squares_b)
        return self.products / scale if scale > 0 else math.nan


def ncc(a: Array, b: Array, mask: Array | None = None) -> float:
    """Normalised cross-correlation of two images over the voxels where `mask` is true (default all)."""
    return CorrelationSummary.of(a, b, mask).ncc


def local_correlation(
    a: Array, b: Array, mask: Array | None = None, radius: int = 4, texture_sd: float | None = None
) -> Array:
    """Correlation in a window of (2 radius + 1)^3 voxels around each textured voxel, (z, y, x); NaN elsewhere.

    Textured is a voxel in `mask` with at least half of its window's voxels in the mask and the volume, whose window
    has a standard deviation of at least `texture_sd` in `a`, the *fixed* image (default: a quarter of the standard
    deviation of `a` in the mask). Only the fixed image decides: where a bad map puts blank background on textured
    tissue, the correlation is 0 and not left out. In blocks, give one `texture_sd` for all and `radius` voxels of halo.
    """
    first = a
    a, b = _pair(a, b)
    inside = torch.ones_like(a) if mask is None else torch.as_tensor(mask, device=a.device).bool().to(a.dtype)
    keep = inside > 0
    if texture_sd is None:
        texture_sd = 0.25 * float(a[keep].std(correction=0)) if bool(keep.any()) else 0.0
    if bool(keep.any()):  # sums of squares lose fewest digits around the mean
        a, b = a - a[keep].mean(), b - b[keep].mean()
    a, b = torch.where(keep, a, 0), torch.where(keep, b, 0)
    count = _box_sum(inside, radius).clamp(min=1)
    mean_a, mean_b = _box_sum(a, radius) / count, _box_sum(b, radius) / count
    variance_a = (_box_sum(a * a, radius) / count - mean_a**2).clamp(min=0)
    variance_b = (_box_sum(b * b, radius) / count - mean_b**2).clamp(min=0)
    covariance = _box_sum(a * b, radius) / count - mean_a * mean_b
    # Below this share of the image's own variance, a window's variance is rounding: such a window is flat.
    flat_b = variance_b <= 1e-12 * (b * b).sum() / inside.sum().clamp(min=1)
    value = torch.where(flat_b, 0, covariance / (variance_a * variance_b).sqrt().clamp(min=1e-300)).clamp(-1, 1)
    textured = keep & (count >= (2 * radius + 1) ** 3 / 2) & (variance_a >= texture_sd**2) & (variance_a > 0)
    return _like(torch.where(textured, value, math.nan), first)


def local_ncc(a: Array, b: Array, mask: Array | None = None, radius: int = 4, texture_sd: float | None = None) -> float:
    """Mean of `local_correlation` over the textured voxels; NaN where there are none."""
    return float(_tensor(local_correlation(a, b, mask, radius, texture_sd)).nanmean())


def _box_sum(image: torch.Tensor, radius: int) -> torch.Tensor:
    """Sum over (2 radius + 1)^3 voxels, zeros outside the image."""
    for axis in range(3):
        n = image.shape[axis]
        pad = [0, 0, 0, 0, 0, 0]
        pad[4 - 2 * axis : 6 - 2 * axis] = radius + 1, radius
        total = torch.nn.functional.pad(image, pad).cumsum(axis)
        image = total.narrow(axis, 2 * radius + 1, n) - total.narrow(axis, 0, n)
    return image


# --------------------------------------------------------------------------------------------------------- errors


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
        values = _tensor(lengths).detach().cpu().double().numpy().ravel()
        known = values[~np.isnan(values)]
        counts = np.bincount(np.searchsorted(_EDGES, known, side="right"), minlength=_EDGES.size + 1)
        maximum = float(known.max()) if known.size else 0.0
        return cls(counts.astype(np.int64), float(known.sum()), maximum, int(values.size - known.size))

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
    mapped, truth = _pair(mapped, truth)
    if mapped.ndim != 2 or mapped.shape[1] != 3:
        raise ValueError(f"points have shape {tuple(mapped.shape)}; need (N, 3), z y x in um")
    if not bool(torch.isfinite(truth).all()):
        raise ValueError("true points are not finite; leave out the points whose place is not known")
    lengths = (mapped - truth).square().sum(1).sqrt().cpu().numpy()
    known = lengths[~np.isnan(lengths)]
    figures = [math.nan] * 5
    if known.size:
        figures = [float(known.mean()), *map(float, np.percentile(known, [50, 95, 99.9, 100]))]
    return RegistrationError(known.size, lengths.size - known.size, *figures)


# ------------------------------------------------------------------------------------------------- numpy and torch


def _tensor(array: Array) -> torch.Tensor:
    """A floating-point tensor that shares memory where it can."""
    if isinstance(array, torch.Tensor):
        return array if array.dtype in (torch.float32, torch.float64) else array.float()
    array = np.asarray(array)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32)
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _like(result: torch.Tensor, given: Array) -> Array:
    return result if isinstance(given, torch.Tensor) else result.numpy()


def _pair(a: Array, b: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as float64 on the device of the first; sums over a volume need the digits."""
    a = _tensor(a).double()
    b = _tensor(b).double().to(a.device)
    if a.shape != b.shape:
        raise ValueError(f"shapes {tuple(a.shape)} and {tuple(b.shape)} differ")
    return a, b
