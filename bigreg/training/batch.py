"""What a network and its losses get in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..networks import Prediction
from .augment import contrast, turned
from .config import Augment, Deformation
from .sources import Patch, as_tensor
from .synthetic import deformed

MAPS = ("to_fixed", "to_moving", "fixed_to_moving", "moving_to_fixed")


@dataclass(frozen=True)
class Batch:
    """Patch pairs, one an item.

    fixed, moving, fixed_mask, moving_mask   (N, 1, z, y, x)
    spacing        (N, 3) um
    truth, known   the true maps, zero where they are not known; (N,) 1 where they are
    labels         per item (2, z, y, x) int64 of both images, or None
    points         per item (2, P, 3) index positions of landmarks of both images
    regularisation (N,) weight of it that the network takes; None: it takes none
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    fixed_mask: torch.Tensor
    moving_mask: torch.Tensor
    spacing: torch.Tensor
    truth: Prediction
    known: torch.Tensor
    labels: list[torch.Tensor | None]
    points: list[torch.Tensor]
    regularisation: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.fixed)

    def in_both_orders(self) -> Batch:
        """All pairs, and then all with their images exchanged."""
        t = self.truth
        turned = Prediction(t.to_moving, t.to_fixed, t.moving_to_fixed, t.fixed_to_moving)
        return Batch(
            torch.cat([self.fixed, self.moving]),
            torch.cat([self.moving, self.fixed]),
            torch.cat([self.fixed_mask, self.moving_mask]),
            torch.cat([self.moving_mask, self.fixed_mask]),
            self.spacing.repeat(2, 1),
            Prediction(**{name: torch.cat([getattr(t, name), getattr(turned, name)]) for name in MAPS}),
            self.known.repeat(2),
            self.labels + [None if one is None else one.flip(0) for one in self.labels],
            self.points + [one.flip(0) for one in self.points],
            None if self.regularisation is None else self.regularisation.repeat(2),
        )


def make_batch(
    patches: Sequence[Patch],
    streams: Sequence[np.random.Generator],
    *,
    deformation: Deformation,
    augment: Augment | None,
    device: torch.device,
    regularisation: tuple[float, float] | None = None,
) -> Batch:
    """Turn patches as they were read into pairs: mirrored, deformed where there is one image, their contrast changed.

    `streams` are the random numbers of each item. Of a range `regularisation` a weight is drawn last, log-uniform.
    """
    images, masks, spacing, truths, known, labels, points = [], [], [], [], [], [], []
    for patch, rng in zip(patches, streams, strict=True):
        if augment is not None:
            patch = turned(patch, augment, rng)
        if patch.synthetic:
            pair, seen, classes, truth = deformed(patch, deformation, rng, device)
            truths.append(torch.stack([getattr(truth, name) for name in MAPS]))
        else:
            pair, seen = list(as_tensor(patch.images, device)), list(as_tensor(patch.masks, device))
            classes = None if patch.labels is None else list(torch.as_tensor(patch.labels, device=device))
            truths.append(torch.zeros(4, 3, *pair[0].shape, device=device))
        if augment is not None and augment.contrast is not None:
            sides = classes if classes is not None else [None, None]
            pair = [contrast(image, augment.contrast, rng, of) for image, of in zip(pair, sides, strict=True)]
        images.append(torch.stack([i * m for i, m in zip(pair, seen, strict=True)]))
        masks.append(torch.stack(seen))
        spacing.append(as_tensor(patch.spacing, device))
        known.append(float(patch.synthetic))
        labels.append(None if classes is None else torch.stack(classes))
        points.append(as_tensor(patch.points, device))
    both, inside, maps = torch.stack(images), torch.stack(masks), torch.stack(truths)
    batch = Batch(
        both[:, :1], both[:, 1:], inside[:, :1], inside[:, 1:], torch.stack(spacing),
        Prediction(**{name: maps[:, i] for i, name in enumerate(MAPS)}),
        torch.tensor(known, device=device), labels, points, _weights(regularisation, streams, device),
    )  # fmt: skip
    return batch.in_both_orders() if augment is not None and augment.both_orders else batch


def _weights(
    bounds: tuple[float, float] | None, streams: Sequence[np.random.Generator], device: torch.device
) -> torch.Tensor | None:
    if bounds is None:
        return None
    low, high = np.log(bounds)
    return as_tensor(np.exp([rng.uniform(low, high) for rng in streams]), device)
