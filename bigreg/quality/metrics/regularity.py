"""How regular a map is: folds, volume change, seams.

Fields are displacements in micrometres, (3, z, y, x), sampled on an axis-aligned grid of `spacing` (um, z y x); the map
is x -> x + d(x).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product

import torch

from ...geometry import Numbers
from .tensors import Array, as_tensor, like

LOG_JACOBIAN_FLOOR = 1e-3  # a logarithm needs a positive determinant; what is clipped to this is counted
_SLAB_SAMPLES = 1 << 17  # determinants are made in slabs of z this large, so that the temporaries stay small


def min_jacobian(field: Array, spacing: Numbers) -> Array:
    """Smallest signed determinant of I + grad d over all eight one-sided difference stencils, (z, y, x).

    A stencil takes the forward or the backward difference along each axis; together the eight see every corner of
    every cell around a sample, so a fold that hides between two samples of a central difference does not pass. At the
    border only the stencils that exist count. Raises ValueError for a field that is not (3, z, y, x) with at least two
    samples along each axis.
    """
    return _determinants(field, spacing, _smallest_of_eight)


def central_jacobian(field: Array, spacing: Numbers) -> Array:
    """Signed determinant of I + grad d by central differences (one-sided at the border), (z, y, x).

    Raises ValueError as `min_jacobian` does.
    """
    return _determinants(field, spacing, _central)


def _determinants(field: Array, spacing: Numbers, determinant) -> Array:
    d = as_tensor(field)
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
    return like(out, field)


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
        smallest, central = (
            as_tensor(min_jacobian(field, spacing))[core],
            as_tensor(central_jacobian(field, spacing))[core],
        )
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


@dataclass(frozen=True)
class SeamSummary:
    """Jumps of the second difference at block faces and elsewhere. `a + b` is the summary of both sets of samples.

    For each axis (z, y, x): sum of the jumps at samples beside a face and their number, and the same of all others.
    """

    at_faces: tuple[float, ...] = (0.0, 0.0, 0.0)
    face_samples: tuple[int, ...] = (0, 0, 0)
    elsewhere: tuple[float, ...] = (0.0, 0.0, 0.0)
    other_samples: tuple[int, ...] = (0, 0, 0)

    @classmethod
    def of(
        cls,
        field: Array,
        spacing: Sequence[float],
        faces: Sequence[Sequence[int]],
        *,
        start: Sequence[int] = (0, 0, 0),
        core: Sequence[tuple[int, int]] | None = None,
    ) -> SeamSummary:
        """Summary of a field (3, z, y, x) whose first sample is sample `start` of the whole.

        faces   along z, y and x the indices, in the whole, of the first sample behind each face
        core    along z, y and x the samples (first, last + 1), in the whole, that count; default all. For blocks to add
                up to the whole the field must reach two samples before and one beyond it wherever the volume does.
        The jump at sample i is the length of the third difference between samples i - 2 and i + 1.
        """
        d = as_tensor(field).double()
        core = core or [(a, a + n) for a, n in zip(start, d.shape[1:], strict=True)]
        rows = []
        for axis, (h, where) in enumerate(zip(spacing, faces, strict=True)):
            own = [slice(None), *(slice(low - o, high - o) for (low, high), o in zip(core, start, strict=True))]
            # Entry k of the third difference belongs to sample k + 2.
            low, high = (v - start[axis] - 2 for v in core[axis])
            own[axis + 1] = slice(max(low, 0), max(min(high, d.shape[axis + 1] - 3), 0))
            if d.shape[axis + 1] < 4 or own[axis + 1].start >= own[axis + 1].stop:
                rows.append((0.0, 0, 0.0, 0))
                continue
            jump = (d.diff(n=3, dim=axis + 1) / float(h) ** 2)[tuple(own)].square().sum(0).sqrt()
            sums = jump.movedim(axis, 0).flatten(1).sum(1)
            each = jump[..., 0].numel() if axis == 2 else jump.numel() // jump.shape[axis]
            near = {int(i) + k for i in where for k in (-1, 0, 1)}
            samples = range(own[axis + 1].start + start[axis] + 2, own[axis + 1].stop + start[axis] + 2)
            face = torch.tensor([i in near for i in samples], device=d.device)
            rows.append(
                (float(sums[face].sum()), int(face.sum()) * each, float(sums[~face].sum()), int((~face).sum()) * each)
            )
        return cls(*zip(*rows, strict=True))

    def __add__(self, other: SeamSummary) -> SeamSummary:
        parts = (
            tuple(a + b for a, b in zip(getattr(self, name), getattr(other, name), strict=True))
            for name in ("at_faces", "face_samples", "elsewhere", "other_samples")
        )
        return SeamSummary(*parts)

    @property
    def ratio(self) -> float:
        """Mean jump at faces over its mean elsewhere, axes weighted by their face samples; see `seam_ratio`."""
        at_faces = expected = 0.0
        for jump, n, rest, m in zip(self.at_faces, self.face_samples, self.elsewhere, self.other_samples, strict=True):
            if n and m:
                at_faces += jump
                expected += rest / m * n
        if expected:
            return at_faces / expected
        return math.inf if at_faces else math.nan


def seam_ratio(field: Array, spacing: Sequence[float], faces: Sequence[Sequence[int]]) -> float:
    """Mean jump of the second difference across block faces over its mean elsewhere: 1 = no seam can be seen.

    `faces` names, along z, y and x, the index of the first sample behind each face. The jump is the length of the third
    difference, averaged over the three that meet the pair of samples at a face (a kink half-way between two samples
    has none at its centre), so a step, a kink and a change of curvature all count. Several axes are weighted by their
    face samples. NaN where there is no face; inf for a seam in a field that is elsewhere without curvature.
    """
    inner = [[i for i in where if 0 < i < n] for where, n in zip(faces, field.shape[1:], strict=True)]
    return SeamSummary.of(field, spacing, inner).ratio
