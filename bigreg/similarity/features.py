"""Features that look alike in images of different contrast: images are then compared by their features' MSE.

They are made once for a patch and moved with it; the loss is the mean over channels. The features themselves are of
0 .. 1 in size; a similarity multiplies them by MIND_UNIT or DIRECTIONS_UNIT, with which the loss of unrelated images is
about 1, as that of a correlation is, so that a regularisation means the same.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F

from .lncc import box_sum

_NEIGHBOURS = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
_TINY = 1e-20
MIND_UNIT = 3.5
DIRECTIONS_UNIT = 3.0
PAIRS = tuple((a, b) for a, b in combinations(_NEIGHBOURS, 2) if tuple(-v for v in a) != b)


def mind(
    image: torch.Tensor, mask: torch.Tensor, *, noise: float = 0.01, dilation: int = 2, unit: float = 1.0
) -> torch.Tensor:
    """MIND-SSC (Heinrich 2013): (12, z, y, x) self-similarities of an image (z, y, x), each in 0 .. `unit`.

    exp(-D / V) for the twelve pairs of neighbours at `dilation` voxels that are a diagonal apart; D is their squared
    difference over 3^3 voxels less the least of the twelve, since noise adds the same to all; V is the mean of D over
    the pairs plus 2 `noise`^2.
    """
    filled = torch.where(mask > 0, image, image[mask > 0].mean() if bool((mask > 0).any()) else image.new_zeros(()))
    padded = F.pad(filled[None, None], (dilation,) * 6, mode="replicate")[0, 0]
    floor = 2.0 * noise * noise
    if image.device.type == "cpu" and image.dtype == torch.float32 and not filled.requires_grad:
        from .features_cpu import self_distances

        out = torch.empty(len(PAIRS), *image.shape)
        self_distances(padded.numpy(), dilation, np.array(PAIRS), np.float32(max(floor, _TINY)), out.numpy())
        return out.exp_().mul_(unit)

    def shifted(offset: tuple[int, ...]) -> torch.Tensor:
        box = (slice(dilation * (1 + o), dilation * (1 + o) + n) for o, n in zip(offset, image.shape, strict=True))
        return padded[tuple(box)]

    near = {o: shifted(o) for o in _NEIGHBOURS}
    distance = torch.stack([box_sum((near[a] - near[b]).square(), 1) / 27.0 for a, b in PAIRS])
    distance = distance - distance.amin(0)
    return torch.exp(-distance / (distance.mean(0) + floor).clamp_min(_TINY)) * unit


def gradient_directions(
    image: torch.Tensor, mask: torch.Tensor, *, noise: float = 0.01, unit: float = 1.0
) -> torch.Tensor:
    """(6, z, y, x): the tensor n n^T of the normalised gradient n = g / sqrt(|g|^2 + noise^2), times `unit`.

    Off-diagonals count sqrt 2. Squared normalised gradient fields (Haber and Modersitzki 2006) without their sign:
    |n n^T - m m^T|^2 is |n|^4 + |m|^4 - 2 <n, m>^2, so edges are alike where they run alike,
    whichever side is the brighter one.
    """
    g = torch.stack(
        [torch.gradient(image, dim=a)[0] if image.shape[a] > 1 else torch.zeros_like(image) for a in range(3)]
    )
    n = g / (g.square().sum(0) + noise * noise).sqrt()
    root = 2.0**0.5
    parts = [n[0] * n[0], n[1] * n[1], n[2] * n[2], root * n[0] * n[1], root * n[0] * n[2], root * n[1] * n[2]]
    return torch.stack(parts) * (mask * unit)
