"""A small brain that is nowhere symmetric, as a formula, seen turned, mirrored, cut and spoilt: the map is known.

An image is seen through a matrix that takes its world (um, z y x) to the brain's frame, whose origin is the middle of
the brain. Two images of matrices A (fixed) and B (moving) are mapped onto each other by B^-1 A. Nothing is resampled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

import bigreg
from bigreg.errors import InputError
from bigreg.pipeline.judging.report import collect
from bigreg.pipeline.stages import Stages
from bigreg.pipeline.store.store import RunStore
from bigreg.quality.verdict import judge
from bigreg.storage import exists, read_attributes
from bigreg.transforms.affine import about, apply_affine

SPACING = 100.0  # um
SHAPE = (56, 56, 56)
RADII = np.array([2400.0, 1500.0, 1900.0])  # um, of the brain
SURE = 0.5  # a start of less confidence is refused


def _splines(grain: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((int(9000 / grain) + 4,) * 3)


_TEXTURES = {grain: _splines(grain, seed) for seed, grain in enumerate((300.0, 700.0, 1500.0))}


def _texture(points: np.ndarray, grain: float) -> np.ndarray:
    lattice = _TEXTURES[grain]
    index = points.T / grain + lattice.shape[0] / 2
    return ndimage.map_coordinates(lattice, index, order=3, prefilter=False, mode="nearest")


def tissue(points: np.ndarray) -> np.ndarray:
    """(N,) 1 within the brain, 0 outside, at points (N, 3) of its frame."""
    radius = np.linalg.norm(points / RADII, axis=1) * (1 + 0.12 * _texture(points, 1500.0))
    return 1 / (1 + np.exp(np.clip((radius - 1) * 25, -50, 50)))


def light(points: np.ndarray) -> np.ndarray:
    """(N,) brightness, about 0..1: a bright shell, two unlike cavities, a folded end, grain of two sizes."""
    depth = 1 - np.linalg.norm(points / RADII, axis=1)
    value = 0.45 + 0.22 * _texture(points, 300.0) + 0.2 * _texture(points, 700.0) + 0.2 * (depth < 0.2)
    folds = points[:, 0] < -1300
    value = np.where(folds, value + 0.25 * np.sin(2 * np.pi * points[:, 1] / 500.0), value)
    for centre, radius in (((300.0, -200.0, 700.0), 350.0), ((-200.0, 100.0, -800.0), 220.0)):
        value = np.where(np.linalg.norm(points - centre, axis=1) < radius, 0.1, value)
    return np.clip(value, 0.05, 1.0) * tissue(points)


def symmetric(points: np.ndarray) -> np.ndarray:
    """The same with the right side as the left."""
    return light(points * (1, 1, 0) + np.abs(points) * (0, 0, 1))


def other_contrast(points: np.ndarray, of=light) -> np.ndarray:
    """What is dim in tissue is bright, as in another modality."""
    inside = tissue(points)
    return inside * (0.15 + 0.8 * (1 - of(points)) ** 1.5)


def symmetric_atlas(points: np.ndarray) -> np.ndarray:
    folded = points * (1, 1, 0) + np.abs(points) * (0, 0, 1)
    return other_contrast(folded)


def rotation(degrees: float, axis=(1.0, 2.0, 0.7)) -> np.ndarray:
    return Rotation.from_rotvec(np.deg2rad(degrees) * np.asarray(axis) / np.linalg.norm(axis)).as_matrix()


def any_rotation(seed: int) -> np.ndarray:
    return Rotation.random(random_state=seed).as_matrix()


def through(linear=None, shift=(0.0, 0.0, 0.0), shape=SHAPE, spacing=(SPACING,) * 3, origin=(0.0, 0.0, 0.0)):
    """The matrix from an image's world to the brain's frame, its middle to `shift` (um) from the brain's."""
    centre = np.asarray(origin) + (np.asarray(shape) - 1) / 2 * spacing
    return about(np.eye(3) if linear is None else np.asarray(linear), centre, np.asarray(shift, float))


@dataclass(frozen=True, eq=False)
class Seen:
    """An image (z, y, x) uint16, and its world to the brain's frame."""

    data: np.ndarray
    matrix: np.ndarray
    spacing: tuple[float, float, float] = (SPACING,) * 3
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def volume(self, name: str) -> bigreg.Volume:
        return bigreg.open_volume(self.data, spacing=self.spacing, origin=self.origin, name=name)

    def places(self) -> np.ndarray:
        return np.indices(self.data.shape).reshape(3, -1).T * self.spacing + self.origin

    def holds(self, points: np.ndarray) -> np.ndarray:
        index = (points - self.origin) / np.asarray(self.spacing)
        return ((index >= 0) & (index <= np.subtract(self.data.shape, 1))).all(1)


def see(
    matrix=None, *, shape=SHAPE, spacing=(SPACING,) * 3, origin=(0.0, 0.0, 0.0), of=light, part=None, seed=0,
    noise=0.01, gamma=1.0, spoil=None,
) -> Seen:  # fmt: skip
    """The brain as a camera records it.

    part   points of the brain's frame (N, 3) to whether they are there: what is cut away is background
    spoil  (image 0..1, generator) to an image: dirt, before it becomes 16 bits
    """
    rng = np.random.default_rng(seed)
    matrix = through(shape=shape, spacing=spacing, origin=origin) if matrix is None else matrix
    points = apply_affine(matrix, np.indices(shape).reshape(3, -1).T * np.asarray(spacing) + origin)
    value = of(points)
    if part is not None:
        value = value * part(points)
    data = np.clip(value, 0, 1).reshape(shape) ** gamma + noise * rng.standard_normal(shape)
    data = 0.02 + 0.3 * data  # far from where the camera saturates
    if spoil is not None:
        data = spoil(data, rng)
    return Seen(np.clip(np.rint(65535 * data), 0, 65535).astype(np.uint16), matrix, tuple(spacing), tuple(origin))


def ball(radius: float, value: float = 1.0, count: int = 1):
    """Bubbles of `radius` voxels at random."""

    def spoil(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for _ in range(count):
            centre = rng.uniform(0.25, 0.75, 3) * image.shape
            grid = np.ogrid[tuple(map(slice, image.shape))]
            image = np.where(sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) < radius**2, value, image)
        return image

    return spoil


def salt_and_pepper(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    draw = rng.random(image.shape)
    return np.where(draw < 0.02, 0.0, np.where(draw > 0.98, 1.0, image))


def zeros(planes: int):
    """Planes that were never imaged at three sides."""

    def spoil(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        image = image.copy()
        image[:planes], image[:, -planes:], image[:, :, :planes] = 0, 0, 0
        return image

    return spoil


def truth(fixed: Seen, moving: Seen) -> np.ndarray:
    """Fixed world to moving world (4 x 4, um)."""
    return np.linalg.inv(moving.matrix) @ fixed.matrix


def common(fixed: Seen, moving: Seen, part=None, margin: float = 0.0) -> np.ndarray:
    """(N, 3) fixed world of tissue that both images hold."""
    points = fixed.places()
    own = apply_affine(fixed.matrix, points)
    keep = (tissue(own) > 0.5) & moving.holds(apply_affine(truth(fixed, moving), points))
    if part is not None:
        keep &= part(own).astype(bool)
    return points[keep][::7]


# --------------------------------------------------------------------------------------------- what a run says


class Reached(Exception):
    """The levels would begin."""


class Beginning(Stages):
    """The stages of a run up to the levels."""

    def _levels(self) -> None:
        raise Reached


@dataclass
class Began:
    """What came of a start: its matrix (fixed world to moving world), what it says, or how it was refused."""

    matrix: np.ndarray | None = None
    confidence: float | None = None
    warnings: list[str] = field(default_factory=list)
    mirrored: Any = None
    error: InputError | None = None

    @property
    def refused(self) -> bool:
        return self.error is not None or (self.confidence is not None and self.confidence < SURE)

    @property
    def names_a_mirror(self) -> bool:
        said = " ".join([*self.warnings, str(self.error or "")]).lower()
        return bool(self.mirrored) or "mirror" in said or "left and right" in said

    def off(self, fixed: Seen, moving: Seen, part=None) -> float:
        """Mean error over the common tissue in voxels of 100 um."""
        points = common(fixed, moving, part)
        error = apply_affine(self.matrix, points) - apply_affine(truth(fixed, moving), points)
        return float(np.linalg.norm(error, axis=1).mean() / SPACING)


def begin(monkeypatch, client, out: str, fixed: Any, moving: Any, config: Any) -> Began:
    """A run of `register` that ends where its levels would begin."""
    monkeypatch.setattr("bigreg.pipeline.run.Stages", Beginning)
    images = [v.volume(n) if isinstance(v, Seen) else v for n, v in (("fixed", fixed), ("moving", moving))]
    error = None
    try:
        bigreg.register(*images, out=out, config=config, client=client)
    except Reached:
        pass
    except InputError as refusal:
        error = refusal
    place = RunStore(out).path("affine") if exists(out) else None
    if place is None or not exists(place):
        return Began(error=error)
    found = read_attributes(place).get("bigreg", {})
    said = found.get("details", {})
    matrix = found.get("matrix")
    return Began(
        None if matrix is None else np.asarray(matrix), said.get("confidence"), list(said.get("warnings", [])),
        said.get("mirrored"), error,
    )  # fmt: skip


def verdict(run: bigreg.Run):
    """The verdict of a finished run."""
    found = getattr(run, "verdict", None)
    if found is None:
        return judge(collect(run._context()).outcome)
    return found() if callable(found) else found
