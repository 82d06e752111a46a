"""A procedural cleared-brain-like pair of images whose registration is known exactly.

The anatomy is a function of continuous position: formulas, cubic B-splines with random coefficients, and Gaussians at
the places of cells and along vessels. Moving evaluates it on a grid; fixed evaluates the *same function* at the place
that each fixed voxel has in moving. Nothing is ever resampled, so the truth is as exact as its float32 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .geometry import Numbers, Shape, Vector, triple
from .quality.metrics import min_jacobian

LEAST_JACOBIAN = 0.3  # the truth must be a map that a registration is asked to find: far from folding
_REACH = 3.5  # a Gaussian is drawn out to this many sigma, where it is 0.2 % of its height


@dataclass(frozen=True)
class DemoPair:
    """Two images of one anatomy, and the map between them.

    `truth` (3, z, y, x) float32 is the world position (um) in moving of each fixed voxel; `mask` (z, y, x) is the
    tissue of fixed that moving shows too. `cells_fixed` and `cells_moving`, (N, 3) um, are where the same cell bodies
    lie in both. Both images lie on a grid of `spacing` um with its first voxel centre at the world's origin.
    """

    fixed: np.ndarray
    moving: np.ndarray
    spacing: Vector
    truth: np.ndarray
    mask: np.ndarray
    cells_fixed: np.ndarray
    cells_moving: np.ndarray


def make_pair(
    shape: Shape = (96, 160, 192),
    spacing_um: Vector = (4.0, 2.6, 2.6),
    seed: int = 0,
    max_displacement_um: float | None = None,
) -> DemoPair:
    """Make a pair of uint16 volumes of `shape` voxels (z, y, x); the same seed gives the same bits.

    The map is a rotation of a few degrees, a shift, and a smooth part that no affine explains, whose longest vector is
    `max_displacement_um` (default: 5 % of the shortest edge). The two images differ in contrast curve, attenuation,
    light-sheet stripes and noise. Raises ValueError for a volume that is too small to show cells (any edge under 16
    voxels) and for a displacement that would take the map's Jacobian determinant under 0.3.
    """
    shape = triple(int(n) for n in shape)
    spacing = tuple(float(s) for s in spacing_um)
    if len(shape) != 3 or min(shape) < 16 or len(spacing) != 3 or min(spacing) <= 0:
        raise ValueError(
            f"demo shape {shape}, spacing {spacing} µm: need three edges of at least 16 voxels and a positive spacing"
        )
    extent = np.array(shape) * spacing
    # One stream a purpose: the anatomy of a seed does not change when the noise does.
    streams = np.random.default_rng(seed).spawn(4)
    amplitude = 0.05 * extent.min() if max_displacement_um is None else float(max_displacement_um)
    warp = _Warp.random(extent, amplitude, streams[0])
    anatomy = _Anatomy.random(extent, streams[1])

    # The map is smooth on a scale of a quarter of the volume, so 49 samples an axis show its determinant.
    coarse = (49, 49, 49)
    step = (extent - spacing) / 48
    smallest = float(min_jacobian(warp.on_grid(coarse, step) - _positions(coarse, step), step).min())
    if smallest < LEAST_JACOBIAN:
        raise ValueError(
            f"max_displacement_um {amplitude:g} takes the Jacobian determinant down to {smallest:.2f} "
            f"(at least {LEAST_JACOBIAN} is needed); make it smaller, or the volume ({tuple(extent)} µm) larger"
        )

    truth, positions = (p.astype(np.float32) for p in (warp.on_grid(shape, spacing), _positions(shape, spacing)))
    fixed, tissue = anatomy.image(truth, spacing, warp.inverse)
    moving, _ = anatomy.image(positions, spacing, lambda points: points)
    top = (np.array(shape) - 1).reshape(3, 1, 1, 1) * np.reshape(spacing, (3, 1, 1, 1))
    seen = ((truth >= 0) & (truth <= top)).all(0)
    cells_fixed = warp.inverse(anatomy.cells)
    both = np.logical_and(*((c >= 0).all(1) & (c <= top.ravel()).all(1) for c in (cells_fixed, anatomy.cells)))
    return DemoPair(
        fixed=_record(fixed, gamma=1.0, gain=9000, attenuation=(0.30, 0.10), rng=streams[2]),
        moving=_record(moving, gamma=0.75, gain=5500, attenuation=(-0.20, -0.15), rng=streams[3]),
        spacing=spacing,
        truth=truth,
        mask=(tissue > 0.5) & seen,
        cells_fixed=cells_fixed[both],
        cells_moving=anatomy.cells[both],
    )


# ------------------------------------------------------------------------------------------------------------ map


@dataclass(frozen=True)
class _Warp:
    """x -> R (x - c) + c + shift + u(x), world um; u is a cubic B-spline on a lattice of `knots` um from -1 knot."""

    rotation: np.ndarray
    centre: np.ndarray
    shift: np.ndarray
    knots: np.ndarray
    coefficients: np.ndarray  # (3, z, y, x) um

    @classmethod
    def random(cls, extent: np.ndarray, amplitude: float, rng: np.random.Generator) -> _Warp:
        angles = rng.uniform(2.5, 5.0, 3) * rng.choice([-1, 1], 3)
        shift = rng.uniform(0.02, 0.04, 3) * extent * rng.choice([-1, 1], 3)
        knots = extent / 4
        lattice = np.stack(np.meshgrid(*[np.arange(-1, 6) * k for k in knots], indexing="ij"))
        u = rng.standard_normal((3, 7, 7, 7))
        # What an affine would explain is taken out of u where the volume is. A cubic B-spline with the values of a
        # linear function as coefficients *is* that function, so the fit can be taken off the coefficients.
        samples = [np.linspace(0, e, 9) for e in extent]
        values = _spline(u, samples, knots).reshape(3, -1)
        design = np.vstack([np.ones(values.shape[1]), *(m.ravel() for m in np.meshgrid(*samples, indexing="ij"))])
        fit = np.linalg.lstsq(design.T, values.T, rcond=None)[0].T
        u -= np.tensordot(fit, np.concatenate([np.ones((1, 7, 7, 7)), lattice]), 1)
        longest = np.sqrt((_spline(u, [np.linspace(0, e, 33) for e in extent], knots) ** 2).sum(0)).max()
        rotation = Rotation.from_euler("zyx", angles, degrees=True).as_matrix()
        return cls(rotation, extent / 2, shift, knots, u * (amplitude / longest))

    def on_grid(self, shape: Sequence[int], spacing: Numbers) -> np.ndarray:
        """The places of the voxels of an axis-aligned grid, (3, z, y, x)."""
        axes = [np.arange(n) * s for n, s in zip(shape, spacing, strict=True)]
        out = _spline(self.coefficients, axes, self.knots)
        out += (self.centre + self.shift - self.rotation @ self.centre).reshape(3, 1, 1, 1)
        for i, j in product(range(3), range(3)):
            out[i] += self.rotation[i, j] * axes[j].reshape([-1 if k == j else 1 for k in range(3)])
        return out

    def __call__(self, points: np.ndarray) -> np.ndarray:
        index = (points / self.knots + 1).T
        u = np.stack(
            [ndimage.map_coordinates(c, index, order=3, prefilter=False, mode="nearest") for c in self.coefficients]
        )
        return (points - self.centre) @ self.rotation.T + self.centre + self.shift + u.T

    def inverse(self, points: np.ndarray) -> np.ndarray:
        """Where in fixed the moving points (N, 3) come from, by fixed-point steps to 1e-6 um."""
        x = points - self.shift
        for _ in range(200):
            step = (points - self(x)) @ self.rotation
            x = x + step
            if np.abs(step).max(initial=0.0) < 1e-6:
                return x
        raise RuntimeError(f"the demo's map was not inverted: a step of {np.abs(step).max():.2g} µm was left")


def _spline(coefficients: np.ndarray, axes: Sequence[np.ndarray], knots: np.ndarray) -> np.ndarray:
    """Cubic B-spline (3, a, b, c), whose first coefficient lies at -1 knot, on a product of axes (um)."""
    out = coefficients
    for axis, (x, knot) in enumerate(zip(axes, knots, strict=True)):
        t = np.abs(x[:, None] / knot - (np.arange(coefficients.shape[axis + 1]) - 1))
        basis = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6)
        out = np.moveaxis(np.tensordot(basis, out, (1, axis + 1)), 0, axis + 1)
    return out


# -------------------------------------------------------------------------------------------------------- anatomy


@dataclass(frozen=True)
class _Anatomy:
    """What is where in the moving frame (um): two hemispheres, a layered cortex, white matter, ventricles, vessels."""

    extent: np.ndarray
    texture: np.ndarray  # cubic B-spline coefficients, `grain` um apart
    grain: float
    waves: np.ndarray  # (K, 4): wave vector (1/um) and phase of the slow relief of surface, layers and brightness
    cells: np.ndarray  # (N, 3)
    cell_sigma: np.ndarray
    cell_height: np.ndarray
    vessels: np.ndarray  # (M, 3) points along all vessels
    vessel_sigma: np.ndarray
    vessel_height: np.ndarray

    @classmethod
    def random(cls, extent: np.ndarray, rng: np.random.Generator) -> _Anatomy:
        grain = 11.0
        size = np.ceil(1.5 * extent / grain).astype(int)  # the map reaches outside the moving volume
        texture = rng.standard_normal(size).astype(np.float32)
        waves = np.column_stack([rng.standard_normal((12, 3)) * 12 / extent.mean(), rng.uniform(0, 2 * np.pi, 12)])
        empty = np.zeros((0, 3)), np.zeros(0), np.zeros(0)
        bare = cls(extent, texture, grain, waves.astype(np.float32), *empty, *empty)
        grown: dict[str, Any] = {**bare._place_cells(rng), **bare._grow_vessels(rng)}
        return replace(bare, **grown)

    def _texture(self, points: np.ndarray) -> np.ndarray:
        """Fine-grained texture at points (3, N), about -1 to 1."""
        index = (points + np.float32(0.25) * self.extent[:, None].astype(np.float32)) / np.float32(self.grain)
        return ndimage.map_coordinates(self.texture, index, order=3, prefilter=False, mode="mirror", output=np.float32)

    def _relief(self, points: np.ndarray) -> np.ndarray:
        """Slow variation at points (3, ...), about -1 to 1."""
        total = np.zeros(points.shape[1:], np.float32)
        for z, y, x, phase in self.waves:
            total += np.cos(z * points[0] + y * points[1] + x * points[2] + phase)
        return total * np.float32((2 * len(self.waves)) ** -0.5)

    def regions(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """Smooth membership functions at points (3, ...) um."""
        relief = self._relief(points)
        z, y, x = ((p - np.float32(e / 2)) / np.float32(e / 2) for p, e in zip(points, self.extent, strict=True))
        size = np.float32(self.extent[1:].mean() / 2)  # um in one unit of the formulas below
        side = np.sqrt(x**2 + np.float32(0.003))  # distance from the midline, smooth across it
        # Depth under the surface: an ellipsoid, flat below, with a bump of relief, that the fissure cuts from above.
        radius = np.sqrt((z / 1.25) ** 2 + (y / np.where(y > 0, 0.74, 0.82)) ** 2 + (x / 0.88) ** 2)
        depth = np.float32(0.82) * (1 - radius) + np.float32(0.02) * relief
        fissure = _step(-(side - 0.075) * size, 4.0) * _step((-0.30 - y) * size, 14.0)
        tissue = _step(depth * size, 3.5) * (1 - fissure)
        to_midline = np.where(y < -0.2, side - np.float32(0.07), 9.0)
        depth = np.minimum(depth, np.maximum(to_midline, 0) + np.float32(0.6) * np.maximum(y + 0.45, 0))
        layer = depth / np.float32(0.27)  # 0 at the surface, 1 where white matter begins
        cortex = 1 - _step((layer - 1) * size * 0.27, 4.0)
        white = _step((layer - 1) * size * 0.27, 4.0) * (1 - _step((layer - 1.22) * size * 0.27, 4.0))
        # Ventricles: two crescents under the white matter; hippocampus: a thin sheet of packed cells around each.
        u, v = (side - 0.26) / 0.20, (y + 0.12 + 0.35 * (side - 0.26)) / 0.055
        ventricle = _step((1 - np.sqrt(u**2 + v**2 + (z / 0.8) ** 2)) * size * 0.055, 3.0) * (1 - cortex)
        ring = np.sqrt(((side - 0.30) / 1.3) ** 2 + (y - 0.13) ** 2)
        sheet = np.exp(-(((ring - 0.17) * size / 7.0) ** 2)) * (y < 0.16) * (1 - cortex)
        return {
            "tissue": tissue, "layer": layer, "cortex": cortex, "white": white, "ventricle": ventricle, "sheet": sheet,
            "relief": relief,
        }  # fmt: skip

    def _background(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Autofluorescence and tissue membership at points (3, z, y, x)."""
        r = self.regions(points)
        inside = r["tissue"] > 1e-5
        texture = np.zeros_like(r["tissue"])
        texture[inside] = self._texture(points[:, inside])
        banding = 0.06 * np.cos(2 * np.pi * np.clip(r["layer"], 0, 1) * 2.5) * r["cortex"]
        light = 0.26 + banding + 0.02 * r["relief"] + 0.035 * texture - 0.10 * r["white"] + 0.08 * r["sheet"]
        light *= 1 - 0.85 * r["ventricle"]
        return np.maximum(light, 0.02) * r["tissue"], r["tissue"]

    def _place_cells(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Cells on a jittered lattice (they do not overlap), thinned to the density of the place, and their looks."""
        pitch = 13.0
        margin = 0.1 * self.extent.max()
        axes = [np.arange(-margin, e + margin, pitch) for e in self.extent]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        points = points + rng.uniform(-0.45, 0.45, points.shape) * pitch
        r = self.regions(points.T.astype(np.float32))
        profile = np.interp(
            r["layer"],
            [0, 0.10, 0.16, 0.38, 0.42, 0.52, 0.56, 0.74, 0.78, 0.98],
            [0.02, 0.02, 0.5, 0.4, 0.85, 0.85, 0.18, 0.22, 0.5, 0.4],
        )
        density = r["cortex"] * profile + (1 - r["cortex"]) * 0.24 * (1 - 0.9 * r["white"])
        density = np.maximum(density * (1 - r["ventricle"]), 0.95 * r["sheet"]) * (r["tissue"] > 0.8)
        keep = rng.uniform(size=len(points)) < density
        points, layer = points[keep], r["layer"][keep]
        pyramidal = (layer > 0.55) & (layer < 0.78)  # layer 5: few, large, bright
        sigma = rng.uniform(2.9, 4.2, len(points)) * np.where(pyramidal, 1.4, 1.0)
        height = rng.lognormal(-1.0, 0.5, len(points)) * np.where(pyramidal, 1.5, 1.0)
        return {"cells": points, "cell_sigma": sigma, "cell_height": np.minimum(height, 2.0)}

    def _grow_vessels(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Random walks that keep their direction and thin out; two of three are dark (a lumen), one is labelled."""
        points, sigmas, heights = [], [], []
        for number in range(22):
            place = (0.5 + rng.uniform(-0.3, 0.3, 3)) * self.extent
            direction = rng.standard_normal(3)
            sigma, length = rng.uniform(3.5, 7.0), rng.uniform(0.5, 1.0) * self.extent.mean()
            step = 0.7 * sigma  # a row of Gaussians this close is a smooth tube
            for _ in range(int(length / step)):
                direction += 0.22 * rng.standard_normal(3)
                direction /= np.linalg.norm(direction)
                place = place + step * direction
                sigma *= 0.6 ** (step / length)
                points.append(place)
                sigmas.append(sigma)
                heights.append(0.28 if number % 3 else -0.28)
        return {"vessels": np.array(points), "vessel_sigma": np.array(sigmas), "vessel_height": np.array(heights)}

    def image(self, positions: np.ndarray, spacing: Vector, to_index_frame) -> tuple[np.ndarray, np.ndarray]:
        """Light (about 0 to 2) and tissue membership on a grid whose voxels lie at `positions` (3, z, y, x) um.

        `to_index_frame` takes points (N, 3) of the anatomy to the frame of the grid, to find the voxels around them.
        """
        parts = [self._background(positions[:, z : z + 16]) for z in range(0, positions.shape[1], 16)]
        light, tissue = (np.concatenate(part) for part in zip(*parts, strict=True))
        tubes = np.zeros_like(light)
        _draw(tubes, positions, spacing, to_index_frame, self.vessels, self.vessel_sigma, self.vessel_height)
        dark = np.clip(tubes, 0, None)
        light = light * (1 - 0.85 * np.tanh(2 * dark)) + 0.45 * np.tanh(np.clip(-tubes, 0, None)) * tissue
        _draw(light, positions, spacing, to_index_frame, self.cells, self.cell_sigma, self.cell_height)
        return light, tissue


def _step(distance: np.ndarray, width: float) -> np.ndarray:
    """Smooth step from 0 to 1 around distance 0 (um)."""
    return 0.5 + 0.5 * np.tanh(distance / np.float32(2 * width))


def _draw(image, positions, spacing, to_index_frame, centres, sigmas, heights) -> None:
    """Add a Gaussian of the anatomy at each centre, evaluated at the exact place of each voxel."""
    middle = np.rint(to_index_frame(centres) / spacing).astype(int)
    # 1.3: the map may shrink lengths from fixed to moving by about a quarter.
    half = np.ceil(_REACH * 1.3 * sigmas[:, None] / np.array(spacing)).astype(int)
    low, high = np.maximum(middle - half, 0), np.minimum(middle + half + 1, image.shape)
    for k in np.flatnonzero((low < high).all(1)):
        box = tuple(slice(a, b) for a, b in zip(low[k], high[k], strict=True))
        z, y, x = (positions[(axis, *box)] - np.float32(centres[k, axis]) for axis in range(3))
        square = (z * z + y * y + x * x) * np.float32(-0.5 / sigmas[k] ** 2)
        image[box] += np.float32(heights[k]) * np.exp(square) * (square > -0.5 * _REACH**2)


# ----------------------------------------------------------------------------------------------------- microscope


def _positions(shape: Sequence[int], spacing: Numbers) -> np.ndarray:
    """World places of the voxels of a grid from the origin, (3, z, y, x)."""
    return np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij"))


def _record(
    light: np.ndarray, *, gamma: float, gain: float, attenuation: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """What the camera counts: contrast curve, light lost along z and x, shadow stripes along x, shot noise; uint16.

    `attenuation` is the share lost over the whole depth (z) and width (x); negative: lost from the other end.
    """
    signal = light**gamma
    for axis, loss in zip((0, 2), attenuation, strict=True):
        n = light.shape[axis]
        depth = np.linspace(0, 1, n) if loss > 0 else np.linspace(1, 0, n)
        signal *= ((1 - abs(loss)) ** depth).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
    # Stripes: the sheet comes in along x, so a shadow is a line of constant z and y that spreads in neither.
    shadow = ndimage.gaussian_filter(rng.standard_normal(light.shape[:2]), (0.7, 1.1))
    shadow = np.clip(1 + 0.06 * shadow / shadow.std(), 0.6, 1.4).astype(np.float32)
    counts = gain * signal * shadow[:, :, None]
    counts += np.sqrt(12 * np.maximum(counts, 0) + 35**2) * rng.standard_normal(light.shape, dtype=np.float32)
    return np.clip(np.rint(counts + 180), 0, 65535).astype(np.uint16)
