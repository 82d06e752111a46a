"""A similarity as a differentiable loss, with its analytic gradient instead of a graph through its many steps."""

from __future__ import annotations

from typing import Any

import torch

from . import Similarity


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, similarity: Similarity
    ) -> torch.Tensor:
        forces = similarity(fixed.detach(), moving.detach(), mask)
        scale = 1.0 / max(forces.weight, 1.0)
        ctx.save_for_backward(forces.fixed * scale, forces.moving * scale)
        return fixed.new_tensor(forces.loss * scale)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        by_fixed, by_moving = ctx.saved_tensors
        return grad * by_fixed, grad * by_moving, None, None


def loss(similarity: Similarity, fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean dissimilarity of two images (z, y, x) over a mask, a 0-d tensor; 0 where they match.

    Differentiable once by both images, on any device. The mask (z, y, x) of 0 and 1 is a constant.
    """
    pair = [similarity.features(image, mask) for image in (fixed, moving)]
    return torch.stack([_Mean.apply(f, m, mask, similarity) for f, m in zip(*pair, strict=True)]).mean()
