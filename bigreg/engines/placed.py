"""An image that lies somewhere: seen from other grids, coarser, or turned onto other axes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from ..errors import InputError
from ..geometry import Grid
from ..transforms.affine import about
from ..transforms.positions import Positions
from .affine_cpu import view


@dataclass(frozen=True)
class Placed:
    """An image (z, y, x) of about 0..1 on an axis-aligned grid, and where it has data (1 or 0; None = everywhere)."""

    image: torch.Tensor
    grid: Grid
    mask: torch.Tensor | None = None

    @property
    def weights(self) -> torch.Tensor:
        return torch.ones_like(self.image) if self.mask is None else self.mask

    @property
    def volume(self) -> float:
        """um^3 that have data."""
        return float(self.weights.sum(dtype=torch.float64)) * float(np.prod(self.grid.spacing))

    def on(self, grid: Grid, matrix: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The image seen from another grid through `matrix` (that grid's world to this one's); where it has data."""
        values, mask = sampled(self.image[None], self.mask, self.grid, grid, matrix)
        return values[0], mask

    def turned(self, turn: np.ndarray) -> Placed:
        """The same in a world whose points are taken to this one's by `turn` (3 x 3, a signed permutation)."""
        grid = self.grid.transformed(about(turn.T, np.zeros(3)))
        image, upright_grid = upright(self.image, grid)
        return Placed(image, upright_grid, None if self.mask is None else upright(self.mask, grid)[0])

    def at(self, spacing: np.ndarray) -> Placed:
        """A copy with voxels of `spacing` um, smoothed against aliasing; itself where its voxels are about as large."""
        ratio = np.asarray(spacing) / self.grid.spacing
        if (ratio < 1.5).all():
            return self
        sigma = 0.5 * np.sqrt(np.maximum(ratio**2 - 1.0, 0.0))
        smooth = torch.as_tensor(ndimage.gaussian_filter(self.image.numpy(), sigma))
        step = np.where(ratio < 1.0, self.grid.spacing, spacing)
        shape = np.maximum(np.round(np.multiply(self.grid.shape, self.grid.spacing) / step), 1).astype(int)
        grid = Grid.from_spacing(shape, step, np.mean(self.grid.bounds(), 0) - step * (shape - 1) / 2)
        return _resampled(smooth, self.mask, self.grid, grid)

    def isotropic(self, spacing: float) -> Placed:
        """A copy with cubic voxels of `spacing` um, whatever its own."""
        coarse = self.at(np.full(3, spacing))
        low, high = self.grid.bounds(faces=True)
        shape = np.maximum(np.round((high - low) / spacing), 1).astype(int)
        grid = Grid.from_spacing(shape, (spacing,) * 3, (low + high) / 2 - spacing * (shape - 1) / 2)
        return _resampled(coarse.image, coarse.mask, coarse.grid, grid)


def shared_box(fixed: Grid, moving: Grid, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) (3,) um: half way, the box of what both grids cover; low above high where that is nothing.

    half: fixed world to half way, and on to moving world (4 x 4, um).
    """
    boxes = [fixed.bounds(half, faces=True), moving.bounds(np.linalg.inv(half), faces=True)]
    return np.maximum(boxes[0][0], boxes[1][0]), np.minimum(boxes[0][1], boxes[1][1])


def lattice_within(low: np.ndarray, high: np.ndarray, spacing: np.ndarray) -> Grid | None:
    """The samples of one endless lattice within a box (3,) um; None where there are none.

    So what is measured of a map does not depend on where the overlap begins.
    """
    first, last = np.ceil(low / spacing), np.floor(high / spacing)
    shape = (last - first + 1).astype(int)
    return None if (shape < 1).any() else Grid.from_spacing(tuple(shape), spacing, first * spacing)


def _resampled(image: torch.Tensor, mask: torch.Tensor | None, grid: Grid, target: Grid) -> Placed:
    values, seen = sampled(image[None], mask, grid, target, np.eye(4))
    return Placed(values[0], target, None if mask is None else seen)


def sampled(
    images: torch.Tensor, mask: torch.Tensor | None, own: Grid, grid: Grid, matrix: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (C, ...) that lie on the grid `own`, seen from `grid` through `matrix`: the same and a mask (z, y, x)."""
    index = own.inverse @ matrix @ grid.affine
    out, seen = torch.empty(len(images), *grid.shape), torch.empty(grid.shape)
    nothing = np.zeros((0, 1, 1, 1), np.float32)
    view(
        images.contiguous().numpy(), nothing if mask is None else mask[None].contiguous().numpy(),
        index[:3, 3], np.ascontiguousarray(index[:3, :3]), out.numpy(), seen.numpy(),
    )  # fmt: skip
    return out, seen


def upright(image: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, Grid]:
    """An image on a grid whose axes run along the world's: permuted and flipped exactly, resampled where oblique."""
    linear = grid.affine[:3, :3] / np.asarray(grid.spacing)
    along = np.abs(linear).argmax(1)
    if sorted(along) == [0, 1, 2] and np.allclose(np.abs(linear)[range(3), along], 1.0, atol=1e-6):
        flips = [int(a) for a in range(3) if linear[a, along[a]] < 0]
        turned = image.permute(*(int(a) for a in along))
        turned = torch.flip(turned, flips).contiguous() if flips else turned.contiguous()
        spacing = np.asarray(grid.spacing)[along]
        return turned, Grid.from_spacing(tuple(turned.shape), spacing, grid.bounds()[0])
    low, high = grid.bounds(faces=True)
    spacing = np.full(3, min(grid.spacing))
    shape = np.maximum(np.ceil((high - low) / spacing), 1).astype(int)
    target = Grid.from_spacing(tuple(shape), spacing, low + spacing / 2)
    box = image.numpy()
    there = Positions.of_grid(target)
    values = there.sample(lambda a, b: box[tuple(slice(x, y) for x, y in zip(a, b, strict=True))], grid)[0]
    return values * there.inside(grid), target


def placed(name: str, image: torch.Tensor, grid: Grid, mask: torch.Tensor | None) -> Placed:
    """An image (z, y, x) of a caller, and its mask or None, as they are compared: float32 on the CPU.

    Raises ValueError where shapes or the grid do not fit, InputError where there is nothing to compare.
    """
    image = image.detach().to("cpu", torch.float32)
    for what, values in (("image", image), ("mask", mask)):
        if values is not None and tuple(values.shape) != grid.shape:
            raise ValueError(f"{name} {what} has shape {tuple(values.shape)}, its grid {grid.shape}")
    if not grid.is_axis_aligned:
        raise ValueError(f"{name} grid is turned ({grid.matrix}); resample the image to an axis-aligned grid first")
    if mask is not None:
        mask = (mask.detach().to("cpu") > 0).float()
        if bool((mask > 0).all()):
            mask = None
    seen = image if mask is None else image[mask > 0]
    if not seen.numel():
        raise InputError(f"{name} has no data: its mask is empty; check the mask")
    if not bool(torch.isfinite(seen).all()):
        raise InputError(f"{name} has voxels that are NaN or infinite; replace them, or leave them out with a mask")
    if not float(seen.max()) > float(seen.min()):
        raise InputError(f"{name} is blank: every voxel is {float(seen.min()):g}; check the file, dataset and channel")
    if mask is not None:
        # Outside the mask stands the mean, so that smoothing makes no edges there.
        image = torch.where(mask > 0, image, seen.mean())
    return Placed(image.contiguous(), grid, mask)


def digest(placed: Placed) -> bytes:
    """Of its voxels, its grid and its mask."""
    data = hashlib.sha256(placed.image.numpy().tobytes() + repr(placed.grid).encode())
    if placed.mask is not None:
        data.update(placed.mask.numpy().tobytes())
    return data.digest()
