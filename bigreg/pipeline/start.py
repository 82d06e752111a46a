"""Task: the global affine, and the intensities that mean 0 and 1."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from .. import storage
from ..engines.affine import register_affine
from ..errors import InputError
from ..geometry import Grid, Shape
from ..intensity import bright_limit, usual_top
from ..similarity import by_name
from ..transforms.affine import about, apply_affine, signed_permutation
from ..volumes import Volume
from . import masks
from .context import Context, compressed
from .frames import Frames
from .given import GivenStart
from .store import Status


def canonical_frame(fixed: Volume, moving: Volume) -> np.ndarray:
    """Canonical moving coordinates (axes along the fixed image's) to the moving world, from orientation codes."""
    if (fixed.orientation is None) != (moving.orientation is None):
        known, missing = ("fixed", "moving") if moving.orientation is None else ("moving", "fixed")
        code = (fixed if known == "fixed" else moving).orientation
        raise InputError(
            f"{known} has orientation '{code}' and {missing} has none; pass --{missing}-orientation, for instance 'asr'"
        )
    if fixed.orientation == moving.orientation:
        return np.eye(4)
    centre = apply_affine(moving.grid().affine, (np.asarray(moving.shape) - 1) / 2)
    return signed_permutation(moving.orientation, fixed.orientation, centre)


def provisional(fixed: Volume, moving: Volume, given: GivenStart | None = None) -> Frames:
    """Frames before any affine is known: as a given start says, else the images centre on centre."""
    if given is not None:
        return given.frames(fixed.grid(), moving.grid())
    canonical = canonical_frame(fixed, moving)
    middle = [np.mean(v.grid().bounds(), axis=0) for v in (fixed, moving)]
    target = apply_affine(np.linalg.inv(canonical), middle[1])
    return Frames.from_affine(fixed.grid(), moving.grid(), canonical, about(np.eye(3), middle[0], target))


def affine_factors(frames: Frames, which: str, voxels: int) -> Shape:
    """Block means that bring an image to at most `voxels` along its longest axis, nearly isotropic."""
    spacing = [max(frames.grid(w).spacing[i] * frames.grid(w).shape[i] for i in range(3)) for w in ("fixed", "moving")]
    target = max(spacing) / voxels
    grid = frames.grid(which)
    factors = 2 ** np.ceil(np.log2(np.maximum(target / np.asarray(grid.spacing), 1.0)) - 1e-9).astype(int)
    return tuple(int(max(1, min(f, n // 4))) for f, n in zip(factors, grid.shape, strict=True))


def percentiles(name: str, data: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The intensities of an image (z, y, x) that become 0 and 1: percentiles, without what is far brighter than tissue.

    Raises InputError for an image of one value.
    """
    first, last = (float(v) for v in np.percentile(data, [low, high]))
    last = usual_top(data, first, last, high)
    if not last > first:
        first, last = float(data.min()), float(data.max())
    if not last > first:
        raise InputError(f"{name} is blank: every voxel is {first:g}; check the file, dataset and channel")
    return first, last


def start(context: Context, index: Shape) -> tuple[Status, dict[str, float]]:
    """Find the affine and write it, with what was tried, into the group `affine` of the run."""
    fixed, moving = (context.volumes[w] for w in ("fixed", "moving"))
    given = context.given
    frames = provisional(fixed, moving, given)
    settings = context.config.affine
    images, seen, grids, intensity, stored, bright = [], [], [], {}, {}, {}
    limits = context.config.intensity.low, context.config.intensity.high
    for which in ("fixed", "moving"):
        factors = affine_factors(frames, which, settings.voxels)
        image = context.seen(which, factors)
        data = image.read((0, 0, 0), image.grid.shape).astype(np.float32)
        low, high = percentiles(which, data, *limits)
        intensity[which] = stored[which] = [low, high]
        if getattr(context.config.preprocess, which).any:
            uncorrected = context.image(which, factors).read((0, 0, 0), image.grid.shape)
            stored[which] = list(percentiles(which, uncorrected, *limits))
        bright[which] = bright_limit(data, high, limits[1])
        scaled = np.minimum((data - low) / (high - low), bright[which])
        found_mask = masks.make(
            context.store, getattr(context.config.masks, which), which, scaled, image.grid, context.volumes[which]
        )
        images.append(compressed(torch.as_tensor(scaled), settings.knee))
        seen.append(None if found_mask is None else torch.as_tensor(found_mask, dtype=torch.float32))
        grids.append(image.grid)
    found: dict = {"intensity": intensity, "stored_intensity": stored, "bright": bright}
    if given is not None and (given.run is not None or settings.kind == "none"):
        score = {"overlap": float("nan")}  # taken as it is
    elif settings.kind == "none":
        frames = Frames.from_affine(fixed.grid(), moving.grid(), frames.canonical, np.eye(4))
        _require_overlap(frames)
        score = {"overlap": float("nan")}
    else:
        canonical_grid = grids[1].transformed(np.linalg.inv(frames.canonical))
        fixed_image, fixed_grid = upright(images[0], grids[0])
        moving_image, moving_grid = upright(images[1], canonical_grid)
        upright_masks = [
            None if mask is None else (upright(mask, grid)[0] > 0.5).float()
            for mask, grid in zip(seen, (grids[0], canonical_grid), strict=True)
        ]
        result = register_affine(
            fixed_image,
            moving_image,
            fixed_grid,
            moving_grid,
            fixed_mask=upright_masks[0],
            moving_mask=upright_masks[1],
            kind=settings.kind,
            similarity=by_name(settings.similarity),
            rotations_deg=settings.rotations_deg,
            min_overlap=settings.min_overlap,
            start=None if given is None else np.linalg.inv(frames.canonical) @ given.matrix,
        )
        frames = Frames.from_affine(fixed.grid(), moving.grid(), frames.canonical, result.matrix)
        details = {k: v for k, v in dataclasses.asdict(result).items() if k != "matrix"}
        found["details"] = details
        score = {"overlap": float(result.overlap), "similarity": float(result.similarity)}
    found |= {"frames": frames.to_json(), "matrix": frames.affine.tolist()}
    storage.create_group(context.store.path("affine"), {"bigreg": found}, exist_ok=True)
    return Status.DONE, {k: v for k, v in score.items() if np.isfinite(v)}


def _require_overlap(frames: Frames) -> None:
    low, high = frames.fixed.bounds(faces=True)
    other = frames.moving.bounds(np.linalg.inv(frames.canonical), faces=True)
    if (np.minimum(high, other[1]) <= np.maximum(low, other[0])).any():
        raise InputError(
            f"fixed spans {low} to {high} um and moving {other[0]} to {other[1]}: they do not overlap as they lie; "
            "check spacing and origin, or let affine.kind find the shift"
        )


def upright(image: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, Grid]:
    """An image on a grid whose axes run along the world's: permuted and flipped exactly, resampled where oblique."""
    from ..transforms.positions import Positions

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
