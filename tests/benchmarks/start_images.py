"""Real images as pairs whose map is known: turned, bent, cut, recorded anew, spoilt. Lengths um, axes z, y, x."""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bigreg.transforms.affine import about, apply_affine
from bigreg.volumes import Volume, open_volume

DATA = Path(os.environ.get("BIGREG_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
AFFINE_VOXELS = 128  # the longest axis of the images that the affine sees
LOST = 5.0  # of those voxels: a start that is farther off is not found
POINTS = 2000

Map = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image in memory (z, y, x), its spacing (um), and its first voxel's place in the world (um)."""

    data: np.ndarray
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def extent(self) -> np.ndarray:
        return np.multiply(self.data.shape, self.spacing)

    @property
    def centre(self) -> np.ndarray:
        return self.origin + np.multiply(np.subtract(self.data.shape, 1) / 2, self.spacing)

    def places(self, index: np.ndarray | None = None) -> np.ndarray:
        """(N, 3) world of voxels (N, 3), of all by default."""
        if index is None:
            index = np.indices(self.data.shape).reshape(3, -1).T
        return index * np.asarray(self.spacing) + self.origin

    def at(self, points: np.ndarray, order: int = 1) -> np.ndarray:
        """(N,) values at world points, 0 outside."""
        index = (points - self.origin) / np.asarray(self.spacing)
        return ndimage.map_coordinates(self.data, index.T, order=order, mode="constant", cval=0.0, output=np.float32)

    def holds(self, points: np.ndarray) -> np.ndarray:
        index = (points - self.origin) / np.asarray(self.spacing)
        return ((index >= 0) & (index <= np.subtract(self.data.shape, 1))).all(1)


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images and where points of one lie in the other.

    fixed, moving   a file, or an image in memory
    points, targets (N, 3) world um of fixed and of moving; None where nothing in the images corresponds
    unit            um: errors are told in it
    lost            um: a start whose mean error is larger is not found
    accurate        um: the same of a whole run
    options         of `bigreg register`
    kind            mirrored: no rotation leads from one to the other; nothing: nothing does
    note            what is done to the images
    start           fixed world to moving world (4 x 4, um) that the run is given
    as_good         (N, 3) other targets, where what is symmetric lies as well on its other side
    """

    fixed: str | Picture
    moving: str | Picture
    points: np.ndarray | None
    targets: np.ndarray | None
    unit: float
    lost: float
    accurate: float
    options: tuple[str, ...] = ()
    kind: Literal["turned", "mirrored", "nothing"] = "turned"
    note: str = ""
    start: np.ndarray | None = None
    as_good: np.ndarray | None = None


def known(fixed: Picture, moving: Picture, truth: Map, points: np.ndarray | None = None, **more: object) -> Pair:
    """The pair of two pictures and a map that takes fixed world to moving world; judged at places with tissue."""
    unit = float(max(fixed.extent.max(), moving.extent.max())) / AFFINE_VOXELS
    if points is None:
        points = tissue_places(fixed)
    targets = truth(points)
    inside = moving.holds(targets)
    return Pair(fixed, moving, points[inside], targets[inside], unit, LOST * unit, LOST * unit, **more)


def unlike(fixed: str | Picture, moving: str | Picture, options: tuple[str, ...] = ()) -> Pair:
    """A pair that shows nothing in common."""
    return Pair(fixed, moving, None, None, 1.0, 0.0, 0.0, options, "nothing")


def seeded(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


# ------------------------------------------------------------------------------------------------------- images


def _read(volume: Volume, level: int = 0) -> Picture:
    grid = volume.levels[level].grid
    return Picture(volume.read((0, 0, 0), grid.shape, level).astype(np.float32), tuple(grid.spacing))


@lru_cache(maxsize=4)
def brain(name: str = "brain") -> Picture:
    """The light-sheet brain (mirror-symmetric) or, on its grid, the CCF's template: 132 x 80 x 114 voxels of 100 um."""
    file = {"brain": "brain_25um.ome.zarr", "template": "ccf_template_25um.ome.zarr"}[name]
    return _read(open_volume(DATA / "lsfm_mouse" / file), 2)


@lru_cache(maxsize=1)
def mouse() -> Picture:
    """The brain of mouse_tiff (psl): 135 x 96 x 135 voxels of 100 x 80 x 80 um, background taken off."""
    image = _read(open_volume(DATA / "mouse_tiff", spacing=(50, 40, 40)))
    data = image.data[:, :192, :270].reshape(135, 2, 96, 2, 135, 2).mean((1, 3, 5))
    return Picture(np.maximum(data - np.percentile(data, 20), 0), (100.0, 80.0, 80.0))


@lru_cache(maxsize=2)
def tissue(which: str = "fix") -> Picture:
    """A round of easifish: (z, y, x) voxels of 1.68 x 1.84 x 1.84 um, cell bodies."""
    return _read(open_volume(DATA / "easifish" / f"{which}.n5", dataset="lowres", spacing=(1.68, 1.84, 1.84)))


def noise(seed: int, smooth: float = 0.0, voxels: int = 64, spacing: float = 2.0) -> Picture:
    """Noise of a camera; of `smooth` voxels, like the grain of a tissue."""
    data = np.random.default_rng(seed).standard_normal((voxels,) * 3).astype(np.float32)
    data = ndimage.gaussian_filter(data, smooth) if smooth else data
    return Picture(np.rint(1000 + (100 if not smooth else 200) * data / data.std()).astype(np.uint16), (spacing,) * 3)


def cut(image: Picture, *ranges: slice) -> Picture:
    """A box of voxels, as an image of its own whose world begins at its first voxel."""
    return Picture(np.ascontiguousarray(image.data[ranges]), image.spacing)


def tissue_mask(image: Picture) -> np.ndarray:
    data = ndimage.gaussian_filter(image.data.astype(np.float32), 1.0)
    low, high = np.percentile(data, [1, 99])
    return data > low + 0.12 * (high - low)


def tissue_places(image: Picture, where: np.ndarray | None = None) -> np.ndarray:
    """(N, 3) world of at most POINTS voxels that show tissue."""
    index = np.argwhere(tissue_mask(image) if where is None else where)
    order = np.random.default_rng(0).permutation(len(index))[:POINTS]
    return image.places(index[order])


def recorded(
    image: Picture, rng: np.random.Generator, gamma: float = 1.0, noise: float = 0.01, gain: float = 20000.0
) -> Picture:
    """As a camera records it: a contrast curve on 0..1 (99.9 % is 1), noise as a share of that range, 16 bits."""
    top = np.percentile(image.data, 99.9)
    data = np.clip(image.data / top, 0, 1.5) ** gamma
    data = gain * (data + noise * rng.standard_normal(data.shape)) + 200.0
    return replace(image, data=np.clip(np.rint(data), 0, 65535).astype(np.uint16))


def any_turn(rng: np.random.Generator) -> np.ndarray:
    """A rotation, uniform over SO(3)."""
    return Rotation.random(random_state=rng.integers(2**31)).as_matrix()


def turned(image: Picture, turn: np.ndarray, spacing: float, margin: float = 0.05) -> tuple[Picture, Map]:
    """The image's tissue turned about its middle on a grid that holds all of it; and the map from there to `image`."""
    index = np.argwhere(tissue_mask(image))
    corners = np.array(list(itertools.product(*zip(index.min(0), index.max(0), strict=True))))
    box = image.places(corners)
    middle = (box[0] + box[-1]) / 2
    half = np.abs((box - middle) @ turn).max(0)  # turn takes the new world's directions to the image's
    half = half + margin * half.max()
    shape = np.ceil(2 * half / spacing).astype(int)
    new = Picture(np.zeros(shape, np.float32), (spacing,) * 3)
    matrix = about(turn, new.centre, middle)
    data = image.at(apply_affine(matrix, new.places())).reshape(new.data.shape)
    return replace(new, data=data), partial(apply_affine, matrix)


def bent(extent: np.ndarray, rng: np.random.Generator, degrees: float, amplitude: float, shift: float) -> Map:
    """A small rotation and shift, and a smooth part whose longest vector is `amplitude` um, as a cubic B-spline."""
    knot = extent.max() / 5
    spline = rng.standard_normal((3, *(np.ceil(extent / knot).astype(int) + 5)))
    turn = Rotation.from_rotvec(np.deg2rad(degrees) * _direction(rng)).as_matrix()
    matrix = about(turn, extent / 2, extent / 2 + shift * _direction(rng))

    def smooth(points: np.ndarray) -> np.ndarray:
        index = (points / knot + 2).T
        return np.stack([ndimage.map_coordinates(c, index, order=3, prefilter=False, mode="nearest") for c in spline]).T

    sample = np.stack(np.meshgrid(*[np.linspace(0, e, 15) for e in extent], indexing="ij"), -1).reshape(-1, 3)
    scale = amplitude / np.linalg.norm(smooth(sample), axis=1).max()
    return lambda points: apply_affine(matrix, points) + scale * smooth(points)


def _direction(rng: np.random.Generator) -> np.ndarray:
    v = rng.standard_normal(3)
    return v / np.linalg.norm(v)


def seen_through(image: Picture, truth: Map, shape: tuple[int, ...] | None = None) -> Picture:
    """The image as it shows on a grid of its own spacing through a map from there."""
    new = Picture(np.zeros(shape or image.data.shape, np.float32), image.spacing)
    return replace(new, data=image.at(truth(new.places())).reshape(new.data.shape))


# ------------------------------------------------------------------------------------------------ what spoils them


def with_ball(image: Picture, rng: np.random.Generator, radius: float, value: float, middle: float = 0.25) -> Picture:
    """A ball of `radius` voxels of one value, its centre anywhere at least `middle` of each edge from the border."""
    centre = rng.uniform(middle, 1 - middle, 3) * image.data.shape
    distance = sum((g - c) ** 2 for g, c in zip(np.ogrid[tuple(map(slice, image.data.shape))], centre, strict=True))
    return replace(image, data=np.where(distance < radius**2, np.asarray(value, image.data.dtype), image.data))


def with_salt(image: Picture, rng: np.random.Generator, share: float = 0.02) -> Picture:
    """Voxels of 0 and of 65535, `share` of each."""
    draw = rng.random(image.data.shape)
    data = np.where(draw < share, 0, np.where(draw > 1 - share, 65535, image.data))
    return replace(image, data=data.astype(np.uint16))


def with_glow(image: Picture, rng: np.random.Generator, height: float = 40000.0) -> Picture:
    """Out-of-focus light in one corner, brighter than the tissue."""
    centre = rng.choice([0.2, 0.8], 3) * image.data.shape
    distance = sum(
        ((g - c) / (0.4 * n)) ** 2
        for g, c, n in zip(np.ogrid[tuple(map(slice, image.data.shape))], centre, image.data.shape, strict=True)
    )
    return replace(image, data=np.clip(image.data + height * np.exp(-distance), 0, 65535).astype(np.uint16))


def with_rim(image: Picture, value: float = 65535.0, voxels: int = 2) -> Picture:
    """Two bright planes at two sides, as the edge of a tile or of a chamber is."""
    data = image.data.copy()
    data[:voxels], data[:, :, -voxels:] = value, value
    return replace(image, data=data)


def with_zeros(image: Picture, planes: int) -> Picture:
    """Never imaged: planes of zeros at three sides."""
    data = image.data.copy()
    data[:planes], data[:, -planes:], data[:, :, :planes] = 0, 0, 0
    return replace(image, data=data)


def only(image: Picture, box: tuple[slice, ...], value: float = 0.0) -> Picture:
    """What lies outside of a box of voxels is empty."""
    data = np.full_like(image.data, value)
    data[box] = image.data[box]
    return replace(image, data=data)
