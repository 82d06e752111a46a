"""How well a network does on what it never saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..geometry import triple
from ..networks.maps import compose
from ..quality.metrics import seam_ratio
from ..similarity import by_name
from ..similarity.loss import loss as dissimilarity
from ..transforms.field import min_determinant
from .batch import Batch, make_batch
from .config import Training
from .losses import endpoint_errors, landmark_distances
from .patches import Purpose, Sampler, stream
from .scene import Scene


class Validation:
    """Held-out patches, read once, and the figures of a network on them."""

    def __init__(self, sampler: Sampler, whole: Sampler, config: Training, device: torch.device) -> None:
        """`sampler` draws what is held out, `whole` patches anywhere, twice as long along one axis, for seams."""
        self.config, self.device = config, device
        self.batches: list[Batch] = []
        for source in range(len(sampler.sources)):
            for number in range(config.validation.patches):
                rng = stream(config.seed, Purpose.HELD_OUT, source, number)
                self.batches.append(self._batch(sampler, rng, source))
        self.pair = self._batch(whole, stream(config.seed, Purpose.SEAM), 0)

    def _batch(self, sampler: Sampler, rng: np.random.Generator, source: int) -> Batch:
        augment = self.config.augment.model_copy(update={"flips": False, "permutations": False, "both_orders": False})
        patch = sampler.draw(rng, source)
        return make_batch([patch], [rng], deformation=self.config.deformation, augment=augment, device=self.device)

    @torch.no_grad()
    def figures(self, network: nn.Module) -> dict[str, float]:
        """Means over the held-out patches, without their borders.

        error_um, error_voxels, start_voxels     of fixed_to_moving where the answer is known; without registration
        folds, least_determinant    share of cells that fold in any of the maps; smallest determinant
        inverse_voxels              root mean square of what there and back leave
        similarity, start_similarity    1 - local correlation of both images of real pairs, after and before
        landmarks_voxels            mean distance of landmarks of real pairs
        seam                        jump of curvature where two patches abut, unstitched, over that elsewhere
        """
        was, _ = network.training, network.eval()
        rows = [self._item(network, batch) for batch in self.batches]
        seam = self._seam(network)
        network.train(was)
        names = list(dict.fromkeys(k for row in rows for k in row))
        out = {}
        for name in names:
            values = [row[name] for row in rows if name in row]
            out[name] = float(np.min(values) if name == "least_determinant" else np.mean(values))
        return out | {"seam": seam}

    def _item(self, network: nn.Module, batch: Batch) -> dict[str, float]:
        maps = network(batch.fixed, batch.moving)
        edge = self.config.validation.border
        inner: tuple[Any, ...] = (..., *[slice(edge, n - edge) for n in batch.fixed.shape[2:]])
        out: dict[str, float] = {}
        if bool(batch.known[0]):
            step = batch.spacing[0].reshape(3, 1, 1, 1)
            gap = (maps.fixed_to_moving - batch.truth.fixed_to_moving)[0]
            out["error_um"] = float((gap * step).square().sum(0).sqrt()[inner].mean())
            out["error_voxels"] = float(endpoint_errors(maps, batch.truth)[0, 2][inner].mean())
            out["start_voxels"] = float(batch.truth.fixed_to_moving[0].square().sum(0).sqrt()[inner].mean())
        else:
            out |= self._real(batch, Scene(batch, maps), inner)
        fields = [maps.to_fixed, maps.to_moving, maps.fixed_to_moving, maps.moving_to_fixed]
        dets = torch.stack([min_determinant(f[0].contiguous(), (1.0, 1.0, 1.0)) for f in fields])
        left = compose(maps.moving_to_fixed, maps.fixed_to_moving)
        out["folds"] = float((dets <= 0).float().mean())
        out["least_determinant"] = float(dets.min())
        out["inverse_voxels"] = float(left[0].square().sum(0)[inner].mean()) ** 0.5
        return out

    def _real(self, batch: Batch, scene: Scene, inner: tuple) -> dict[str, float]:
        measure = by_name("lncc", radius=4)
        both = batch.fixed_mask * batch.moving_mask
        cut = [t[0, 0][inner].contiguous() for t in (batch.fixed, batch.moving, both)]
        after = [t[0, 0][inner].contiguous() for t in (batch.fixed, scene.moving_on_fixed, scene.at_fixed)]
        out = {
            "similarity": float(dissimilarity(measure, *after)),
            "start_similarity": float(dissimilarity(measure, *cut)),
        }
        distances = landmark_distances(batch.points[0], scene.maps.fixed_to_moving[0])
        return out | ({"landmarks_voxels": float(distances.mean())} if len(distances) else {})

    def _seam(self, network: nn.Module) -> float:
        """Of the map of two abutting patches, each predicted by itself."""
        images = self.pair.fixed, self.pair.moving
        axis = int(np.argmax(images[0].shape[2:])) + 2
        middle = images[0].shape[axis] // 2
        halves = [
            network(*(t.narrow(axis, start, middle).contiguous() for t in images)).fixed_to_moving[0].cpu()
            for start in (0, middle)
        ]
        faces: list[Sequence[int]] = [[], [], []]
        faces[axis - 2] = [middle]
        ratio = seam_ratio(torch.cat(halves, axis - 1), (1.0, 1.0, 1.0), faces)
        return ratio if math.isfinite(ratio) else math.nan


def doubled(shape: tuple[int, int, int], extent: np.ndarray) -> tuple[int, int, int]:
    """The shape twice as long along the axis along which the volume has most room."""
    axis = int(np.argmax(extent))
    return triple(n * (2 if a == axis else 1) for a, n in enumerate(shape))
