"""Losses by name. Each gives one number an item of the batch; an item that it says nothing about counts 0.

The mean over the items is what is learned from, so that a batch spread over processes has the same gradient as whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from ..networks import Prediction
from ..networks.maps import warp
from ..similarity import by_name
from ..similarity.loss import loss as dissimilarity
from . import regularity
from .batch import MAPS
from .losses_config import Adversarial, FieldLoss, Loss, SimilarityLoss
from .scene import Scene

LABELS = 16  # the largest labels of a patch that Dice looks at
_TINY = 1e-12


def similarity(scene: Scene, settings: SimilarityLoss) -> torch.Tensor:
    """Mean dissimilarity (N,), in mid-space, or of both ends the mean."""
    measure = by_name(settings.name, radius=settings.radius, noise=settings.noise)
    if settings.where == "mid":
        sides = [scene.middle]
    else:
        sides = [
            (scene.batch.fixed, scene.moving_on_fixed, scene.at_fixed),
            (scene.fixed_on_moving, scene.batch.moving, scene.at_moving),
        ]
    rows = []
    for item in range(len(scene.batch)):
        parts = [dissimilarity(measure, *(t[item, 0].float().contiguous() for t in side)) for side in sides]
        rows.append(torch.stack(parts).mean())
    return torch.stack(rows)


def field(scene: Scene, settings: FieldLoss) -> torch.Tensor:
    """Diffusion, bending or volume of two maps, their mean, (N,)."""
    names = MAPS[:2] if settings.of == "halves" else MAPS[2:]
    measure: Callable = getattr(regularity, settings.name)
    return 0.5 * sum(measure(getattr(scene.maps, name)) for name in names)


def image_cycle(scene: Scene) -> torch.Tensor:
    """L1 between each image and itself after there and back, (N,)."""
    m, b = scene.maps, scene.batch
    rows = []
    for image, once, there, mask in (
        (b.fixed, scene.fixed_on_moving, m.fixed_to_moving, scene.at_fixed),
        (b.moving, scene.moving_on_fixed, m.moving_to_fixed, scene.at_moving),
    ):
        rows.append(_masked_mean((warp(once, there) - image).abs(), mask))
    return 0.5 * (rows[0] + rows[1])


def identity(scene: Scene) -> torch.Tensor:
    """Mean squared length (voxels^2) of the maps between each image and itself, (N,)."""
    assert scene.alone is not None, "whoever asks for the loss makes them"
    squares = sum(getattr(scene.alone, name).square().sum(1).flatten(1).mean(1) for name in MAPS) / len(MAPS)
    return torch.stack(squares.chunk(2)).mean(0)


def inverse(scene: Scene) -> torch.Tensor:
    return regularity.inverse_residual(scene.maps.fixed_to_moving, scene.maps.moving_to_fixed)


def gradicon(scene: Scene) -> torch.Tensor:
    return regularity.gradicon(scene.maps.fixed_to_moving, scene.maps.moving_to_fixed)


def endpoint_errors(prediction: Prediction, truth: Prediction) -> torch.Tensor:
    """Distance (voxels) of the four maps from the true ones at every voxel, (N, 4, z, y, x)."""
    gaps = [getattr(prediction, name) - getattr(truth, name) for name in MAPS]
    return torch.stack([(g.square().sum(1) + 1e-8).sqrt() for g in gaps], dim=1)


def supervised(scene: Scene) -> torch.Tensor:
    """Mean distance (voxels) of the maps from the true ones, (N,); 0 where they are not known."""
    return endpoint_errors(scene.maps, scene.batch.truth).flatten(1).mean(1) * scene.batch.known


def dice(scene: Scene) -> torch.Tensor:
    """1 - Dice of the labels that both images have, in the fixed frame, their mean, (N,)."""
    rows = []
    for item, labels in enumerate(scene.batch.labels):
        zero = scene.maps.fixed_to_moving[item].sum() * 0.0
        rows.append(zero if labels is None else zero + _soft_dice(labels, scene.maps.fixed_to_moving[item : item + 1]))
    return torch.stack(rows)


def _soft_dice(labels: torch.Tensor, fixed_to_moving: torch.Tensor) -> torch.Tensor:
    values, counts = torch.unique(labels[0], return_counts=True)
    keep = torch.isin(values, labels[1]) & (values != 0)
    values, counts = values[keep], counts[keep]
    if not len(values):
        return fixed_to_moving.new_zeros(())
    values = values[counts.argsort(descending=True, stable=True)[:LABELS]]
    ours, theirs = ((labels[side] == values[:, None, None, None]).to(fixed_to_moving.dtype) for side in (0, 1))
    warped = warp(theirs[None], fixed_to_moving)[0]
    both = (ours * warped).flatten(1).sum(1)
    return (1.0 - 2.0 * both / (ours.flatten(1).sum(1) + warped.flatten(1).sum(1) + _TINY)).mean()


def landmark_distances(points: torch.Tensor, fixed_to_moving: torch.Tensor) -> torch.Tensor:
    """Distances (voxels), (P,), of mapped landmarks (2, P, 3) of a patch; those outside of it are left out."""
    shape = torch.tensor(fixed_to_moving.shape[1:], device=points.device)
    inside = ((points >= 0) & (points <= shape - 1)).all(-1).all(0)
    fixed, moving = points[:, inside]
    place = fixed.flip(-1) * (2.0 / (shape.flip(0) - 1)) - 1.0
    moved = F.grid_sample(fixed_to_moving[None], place[None, None, None], align_corners=True)[0, :, 0, 0].T
    return ((fixed + moved - moving).square().sum(1) + 1e-8).sqrt()


def landmarks(scene: Scene) -> torch.Tensor:
    """Mean distance (voxels) between the landmarks of moving and the mapped ones of fixed, (N,)."""
    rows = []
    for item, points in enumerate(scene.batch.points):
        found = landmark_distances(points, scene.maps.fixed_to_moving[item])
        rows.append(found.mean() if len(found) else scene.maps.fixed_to_moving[item].sum() * 0.0)
    return torch.stack(rows)


def regularisation(scene: Scene) -> torch.Tensor:
    """Half the squared strain of the half-way maps, their mean, times each item's weight, (N,)."""
    weight, spacing = scene.batch.regularisation, scene.batch.spacing
    assert weight is not None, "the configuration has a range of it"
    halves = (scene.maps.to_fixed, scene.maps.to_moving)
    return weight * 0.25 * sum(regularity.strain(half, spacing) for half in halves)


def _masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (values * mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1.0)


PLAIN: dict[str, Callable[[Scene], torch.Tensor]] = {
    "image_cycle": image_cycle,
    "identity": identity,
    "inverse": inverse,
    "gradicon": gradicon,
    "supervised": supervised,
    "dice": dice,
    "landmarks": landmarks,
    "regularisation": regularisation,
}


def evaluate(losses: Sequence[Loss], scene: Scene) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Weighted sum over all losses but the adversarial one, and each one's mean over the batch, unweighted."""
    total, figures = scene.maps.fixed_to_moving.new_zeros(()), {}
    for settings in losses:
        if isinstance(settings, Adversarial):
            continue
        if isinstance(settings, SimilarityLoss):
            value = similarity(scene, settings)
        elif isinstance(settings, FieldLoss):
            value = field(scene, settings)
        else:
            value = PLAIN[settings.name](scene)
        value = value.mean()
        total = total + settings.weight * value
        name = f"{settings.name} {settings.of}" if isinstance(settings, FieldLoss) else settings.name
        figures[name] = value.detach()
    return total, figures
