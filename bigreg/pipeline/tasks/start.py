"""Task: the global affine, and the intensities that mean 0 and 1."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from scipy import ndimage

from ... import storage
from ...config import Affine, Config
from ...engines.placed import upright
from ...errors import InputError
from ...geometry import Grid, Shape, triple
from ...intensity import bright_limit, keep_out_bright, usual_top
from ...volumes import Volume
from ..context import looked, masks, starts
from ..context.channels import LABELS, intensity_of, is_labels, mask_of, pairs, preprocess_of
from ..context.context import Context, compressed
from ..context.frames import Frames
from ..context.given import GivenStart
from ..context.images import LevelImage
from ..context.label_images import UNIT, CommonLabels, OneHots
from ..context.lying import provisional
from ..context.seen import SeenImage
from ..labels import label
from ..schedule.flow import ONE, Stage
from ..store.store import FOUND_LABELS, Status

STAGE = "stages/affine"
METRICS = ("overlap", "similarity")
MULTIMODAL = ("mi", "nmi")
THICKER = 4
SAID_DEG = 65.0  # between axes and what a person calls them: at most 62.8, or another axis is nearer


def affine_factors(frames: Frames, which: str, voxels: int, grid: Grid | None = None) -> Shape:
    """Block means that bring an image to at most `voxels` along its longest axis, nearly isotropic.

    grid   of an image that does not lie on the voxels of its side
    """
    spacing = [max(frames.grid(w).spacing[i] * frames.grid(w).shape[i] for i in range(3)) for w in ("fixed", "moving")]
    target = max(spacing) / voxels
    grid = frames.grid(which) if grid is None else grid
    factors = 2 ** np.ceil(np.log2(np.maximum(target / np.asarray(grid.spacing), 1.0)) - 1e-9).astype(int)
    return triple(int(max(1, min(f, n // 4))) for f, n in zip(factors, grid.shape, strict=True))


def factors_of(context: Context, frames: Frames, which: str, voxels: int) -> Shape:
    """The same of any image of a run."""
    return affine_factors(frames, which, voxels, context.volumes[which].grid() if is_labels(which) else None)


def counted(context: Context, which: str, image: LevelImage | SeenImage) -> np.ndarray | None:
    """(z, y, x) bool: the voxels of a small image that its given mask lets be compared; None without one.

    Raises InputError where that is next to nothing.
    """
    if image.weights is None:
        return None
    shares = image.weights.shares((0, 0, 0), image.grid.shape)
    masks.require_some(which, mask_of(context.config, which), float(shares.mean()))
    found = shares > masks.SEEN
    # What is thinner than these voxels fills none of them by half; they hold nothing else.
    return found if found.mean() >= masks.LEAST else shares > 0


def percentiles(
    name: str, data: np.ndarray, low: float, high: float, inside: np.ndarray | None = None
) -> tuple[float, float]:
    """The intensities of an image (z, y, x) that become 0 and 1, of voxels inside a mask.

    They are percentiles, without what is far brighter than tissue. Raises InputError where all are of one value.
    """
    kept = data if inside is None else data[inside]
    first, last = (float(v) for v in np.percentile(kept, [low, high]))
    # What is far brighter than tissue is told by where it is: what a mask leaves out is set to the least there.
    last = usual_top(data if inside is None else np.where(inside, data, first), first, last, high)
    if not last > first:
        first, last = float(kept.min()), float(kept.max())
    if not last > first:
        raise InputError(f"{name} is blank: every voxel is {first:g}; check the file, dataset and channel")
    return first, last


def thickened(scaled: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A small image (z, y, x) and its mask, made THICKER voxels thicker on each side where that is thin.

    Seen from another grid a voxel counts if all around it does: of sheets and threads nothing would be left. Beside
    them the values go on as they are inside, so nothing that the mask leaves out is seen.
    """
    if ndimage.binary_opening(inside, np.ones((THICKER + 1,) * 3)).sum() >= inside.sum() / 2:
        return scaled, inside
    distance, nearest = ndimage.distance_transform_edt(~inside, return_indices=True)
    return scaled[tuple(nearest)], distance <= THICKER


def without_bright(scaled: np.ndarray, mask: np.ndarray | None, limit: float) -> np.ndarray | None:
    """A mask (z, y, x) bool without what is far brighter than tissue; None where everything counts."""
    whole = torch.ones(scaled.shape) if mask is None else torch.as_tensor(mask, dtype=torch.float32)
    kept = keep_out_bright(torch.as_tensor(scaled, dtype=torch.float32), whole, limit)
    return mask if bool((kept == whole).all()) or not bool(kept.any()) else kept.numpy() > 0


def stage() -> Stage:
    return Stage(STAGE, label("affine"), ONE, start, metrics=METRICS)


def start(context: Context, index: Shape) -> tuple[Status, dict[str, float]]:
    """Find the affine and write it, with what was tried, into the group `affine` of the run."""
    fixed, moving = (context.volumes[w] for w in ("fixed", "moving"))
    given = context.given
    frames = provisional(fixed, moving, given)
    settings = context.config.affine
    shown, copies, intensity, stored, bright = {}, {}, {}, {}, {}
    for which in context.images:
        limits = intensity_of(context.config, which).low, intensity_of(context.config, which).high
        factors = affine_factors(frames, which, settings.voxels)
        image = context.seen(which, factors)
        data = image.read((0, 0, 0), image.grid.shape).astype(np.float32)
        found_mask = counted(context, which, image)
        low, high = percentiles(which, data, *limits, found_mask)
        if mask_of(context.config, which) == masks.TISSUE:
            found_mask = masks.find_tissue((data - low) / (high - low))
            masks.keep_tissue(context.store, which, found_mask, image.grid)
            low, high = percentiles(which, data, *limits, found_mask)
        intensity[which] = stored[which] = [low, high]
        if preprocess_of(context.config, which).any:
            uncorrected = context.image(which, factors).read((0, 0, 0), image.grid.shape)
            stored[which] = list(percentiles(which, uncorrected, *limits, found_mask))
        bright[which] = bright_limit(data if found_mask is None else data[found_mask], high, limits[1])
        scaled = np.minimum((data - low) / (high - low), np.float32(bright[which]))
        if image.weights is not None:  # nothing that is left out may reach over the edge when it is resampled
            assert found_mask is not None, "an image with weights has a mask"
            scaled, found_mask = thickened(scaled, found_mask)
            scaled = np.where(found_mask, scaled, scaled[found_mask].mean()).astype(np.float32)
        shown[which] = scaled
        found_mask = without_bright(scaled, found_mask, bright[which])
        copies[which] = Copy(
            compressed(torch.as_tensor(scaled), settings.knee),
            None if found_mask is None else torch.as_tensor(found_mask, dtype=torch.float32),
            image.grid,
        )
    found: dict = {"intensity": intensity, "stored_intensity": stored, "bright": bright}
    labels = None if context.config.labels is None else label_copies(context, frames)
    if labels is not None:
        found[FOUND_LABELS] = labels.common.to_json()
    if given is not None and (given.run is not None or settings.kind == "none"):
        score = {"overlap": float("nan")}  # taken as it is
    elif settings.kind == "none":
        frames = Frames.from_affine(fixed.grid(), moving.grid(), frames.canonical, np.eye(4))
        _require_overlap(frames)
        score = {"overlap": float("nan")}
    else:
        whole = [as_one([(copies[p.images[side]], p.weight) for p in context.pairs]) for side in (0, 1)]
        asked = question(
            [c.image for c in whole], [c.grid for c in whole], [c.mask for c in whole], frames, settings,
            said=said(fixed, moving), start=None if given is None else given.matrix,
            others=compared_pairs(context.config, copies, labels),
        )  # fmt: skip
        result = looked.known(context.store, asked) or asked.answer()
        canonical, before = frames.canonical, frames.before
        frames = Frames.from_affine(fixed.grid(), moving.grid(), canonical, result.matrix)
        frames = dataclasses.replace(frames, before=before)
        tried = [
            starts.told({**vars(c), "matrix": canonical @ c.matrix}, number, frames)
            for number, c in enumerate(result.candidates, 1)
        ]
        found["details"] = {
            "start": result.start,
            "confidence": float(result.confidence),
            "similarity": float(result.similarity),
            "overlap": float(result.overlap),
            "mirrored": frames.mirrors,
            "warnings": [*result.warnings, *of_sides(fixed, moving, settings.similarity, given)],
            "candidates": tried,
        }
        pictures = [c.image.numpy() for c in whole] if len(context.pairs) > 1 else list(shown.values())
        starts.write(context.store, found["details"], pictures, [c.grid for c in whole])
        score = {"overlap": float(result.overlap), "similarity": float(result.similarity)}
    found |= {"frames": frames.to_json(), "matrix": frames.affine.tolist()}
    storage.create_group(context.store.path("affine"), {"bigreg": found}, exist_ok=True)
    return Status.DONE, {k: v for k, v in score.items() if np.isfinite(v)}


def said(fixed: Volume, moving: Volume) -> bool:
    """Whether a person says how both images lie. That is true to the nearest axis; what files say is a hint."""
    return all(v.orientation_from == "given" for v in (fixed, moving))


def question(
    images: Sequence[torch.Tensor],
    grids: Sequence[Grid],
    masks: Sequence[torch.Tensor | None],
    frames: Frames,
    settings: Affine,
    *,
    said: bool,
    start: np.ndarray | None = None,
    others: Sequence[looked.Other] = (),
) -> looked.Question:
    """What is asked of `register_affine` for small copies (z, y, x) of fixed and moving, in the canonical frame.

    start    fixed world to moving world, in place of the search
    others   what is compared, where that is not these images
    """
    back = np.linalg.inv(frames.canonical)
    return looked.Question(
        *_upright(back, images, grids, masks),
        {
            "kind": settings.kind,
            "similarity": settings.similarity,
            "rotations_deg": settings.rotations_deg,
            "min_overlap": settings.min_overlap,
            "within_deg": SAID_DEG if said else 180.0,
            "allow_mirror": settings.allow_mirror,
        },
        None if start is None else back @ start,
        tuple(
            looked.Other(*_upright(back, one.images, one.grids, one.masks), one.similarity, one.weight)
            for one in others
        ),
    )


def _upright(
    back: np.ndarray, images: Sequence[torch.Tensor], grids: Sequence[Grid], masks: Sequence[torch.Tensor | None]
) -> tuple[tuple[torch.Tensor, ...], tuple[Grid, ...], tuple[torch.Tensor | None, ...]]:
    """Images, grids and masks of fixed and moving in the canonical frame, their axes along the world's."""
    placed = grids[0], grids[1].transformed(back)
    turned = [upright(image, grid) for image, grid in zip(images, placed, strict=True)]
    return (
        tuple(image for image, _ in turned),
        tuple(grid for _, grid in turned),
        tuple(
            None if mask is None else (upright(mask, grid)[0] > 0.5).float()
            for mask, grid in zip(masks, placed, strict=True)
        ),
    )


@dataclass(frozen=True, eq=False)
class Copy:
    """A small copy (z, y, x) of one image as the affine sees it: about 0 .. 1, where it counts (None: all), grid."""

    image: torch.Tensor
    mask: torch.Tensor | None
    grid: Grid


def as_one(channels: Sequence[tuple[Copy, float]]) -> Copy:
    """The channels of one image, each with its weight, as one image: their weighted mean, with what counts of any."""
    if len(channels) == 1:
        return channels[0][0]
    total = sum(weight for _, weight in channels)
    image = torch.stack([
        weight / total * (copy.image if copy.mask is None else copy.image * copy.mask) for copy, weight in channels
    ]).sum(0)  # fmt: skip
    masks = [copy.mask for copy, _ in channels]
    mask = None if any(m is None for m in masks) else torch.stack([m for m in masks if m is not None]).amax(0)
    return Copy(image, mask, channels[0][0].grid)


@dataclass(frozen=True, eq=False)
class LabelCopies:
    """Small copies (labels, z, y, x) of both label images as one-hots, their grids, and which labels these are."""

    common: CommonLabels
    images: tuple[torch.Tensor, ...]
    grids: tuple[Grid, ...]


def label_copies(context: Context, frames: Frames) -> LabelCopies:
    """Raises InputError where the label images have no label in common."""
    voxels = context.config.affine.voxels
    small = [context.image(w, factors_of(context, frames, w, voxels)) for w in LABELS]
    common = CommonLabels.of(*(image.read((0, 0, 0), image.grid.shape) for image in small))
    voxel = np.full(3, max(max(image.grid.spacing) for image in small))
    seen = [torch.as_tensor(OneHots(image, common, voxel).read((0, 0, 0), image.grid.shape)) for image in small]
    return LabelCopies(common, tuple(seen), tuple(image.grid for image in small))


def compared_pairs(config: Config, copies: Mapping[str, Copy], labels: LabelCopies | None) -> list[looked.Other]:
    """What the affine is refined on: every pair of channels, every label; none where the images are all there is."""
    channels = pairs(config)
    if len(channels) == 1 and labels is None and channels[0].similarity is None:
        return []
    usual = config.affine.similarity
    others = []
    for pair in channels:
        both = [copies[which] for which in pair.images]
        similarity = usual if pair.similarity is None else pair.similarity
        others.append(
            looked.Other(
                tuple(c.image for c in both), tuple(c.grid for c in both), tuple(c.mask for c in both),
                similarity if similarity in get_args(Affine.model_fields["similarity"].annotation) else MULTIMODAL[0],
                pair.weight,
            )
        )  # fmt: skip
    if labels is not None:
        weight = UNIT * config.labels.weight if config.labels is not None else 0.0
        others += [
            looked.Other((f.contiguous(), m.contiguous()), labels.grids, (None, None), "mse", weight)
            for f, m in zip(*labels.images, strict=True)
        ]
    return others


def of_sides(fixed: Volume, moving: Volume, similarity: str, given: GivenStart | None) -> list[str]:
    """A warning where nothing tells left from right: another contrast, and neither image says how it lies."""
    known = fixed.orientation is not None or moving.orientation is not None or given is not None
    if known or similarity not in MULTIMODAL:
        return []
    return [
        "neither image states an orientation, so left and right cannot be determined: a brain is nearly its own mirror "
        "image; state the orientation of fixed and of moving, such as asr"
    ]


def _require_overlap(frames: Frames) -> None:
    low, high = frames.fixed.bounds(faces=True)
    other = frames.moving.bounds(np.linalg.inv(frames.canonical), faces=True)
    if (np.minimum(high, other[1]) <= np.maximum(low, other[0])).any():
        raise InputError(
            f"fixed spans {low} to {high} µm and moving {other[0]} to {other[1]}: they do not overlap before "
            "registration; check spacing and origin, or let affine.kind find the shift"
        )
