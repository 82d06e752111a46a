"""What is far brighter than the tissue (bubbles, dust, saturation): it sets no range and pulls nothing.

It is told by where it is, not by how much of an image it fills: bright structure is met in many places with structure,
a bubble of any size in few.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

TILE = 6  # voxels along an axis of a place
STRUCTURE = 0.45  # of a place's SD is left in its means of 2^3 voxels; of noise .35 would be, of thin fibres .48
FAINT = 1 / 500  # of the range: a place of a smaller SD has no structure
FEW = 0.2  # of the places with any structure: where fewer are above FAINT, the range itself says nothing
FEWEST = 30  # places that can tell what is usual
TOP = 98  # percentile of a place that it is said to reach: a fibre of one voxel through it counts
USUAL = 80  # percentile of the places, by what they reach
FAR = 4.0  # times what is usual, 1.2 to 2.7 on tissue, brains and heads
LIMIT = 5.0
"""An intensity, in units of the range, from which on a voxel is no tissue: 1 in 10^7 voxels of tissue reaches it. Half
of it in an image whose range had to be freed of such voxels."""
HALO, MARGIN = 3, 2  # voxels around: at most, of what is brighter than the range; and of all else


def usual_top(values: np.ndarray, low: float, high: float, percent: float) -> float:
    """`high`, the value of that percentile of values (z, y, x), unless what is far brighter than usual has set it.

    Then the same percentile of what is left without that. `low` is the value that becomes 0.
    """
    while high > low:
        usual = _usual(values, low, high)
        if usual is None or high - low <= FAR * usual:
            break
        rest = values[values <= low + FAR * usual]
        high = float(np.percentile(rest, percent))
    return high


def bright_limit(values: np.ndarray, high: float, percent: float) -> float:
    """From where on, in units of the range, voxels of an image are no tissue; `high` is its `usual_top`."""
    freed = np.count_nonzero(values > high) > values.size * (1 - percent / 100) + 1
    return LIMIT / 2 if freed else LIMIT


def _usual(values: np.ndarray, low: float, high: float) -> float | None:
    """What structure usually reaches above `low`; None where too few places tell."""
    shape = [n // TILE for n in values.shape]
    if np.prod(shape) < FEWEST:
        return None
    cut = values[tuple(slice(0, n * TILE) for n in shape)].astype(np.float32)
    half = TILE // 2
    cells = cut.reshape(shape[0], half, 2, shape[1], half, 2, shape[2], half, 2).transpose(0, 3, 6, 1, 4, 7, 2, 5, 8)
    cells = cells.reshape(int(np.prod(shape)), half**3, 8)
    sd = cells.std((1, 2), dtype=np.float64)
    structured = (sd > 0) & (cells.mean(2).std(1, dtype=np.float64) > STRUCTURE * sd)
    bright = structured & (sd > FAINT * (high - low))
    if bright.sum() >= FEW * structured.sum():
        structured = bright
    if structured.sum() < FEWEST:
        return None
    reached = np.percentile(cells[structured].reshape(-1, TILE**3), TOP, axis=1) - low
    usual = float(np.percentile(reached, USUAL))
    return usual if usual > 0 else None


def keep_out_bright(image: torch.Tensor, mask: torch.Tensor, limit: float = LIMIT) -> torch.Tensor:
    """A mask (z, y, x) without what reaches `limit` in an image (z, y, x) of about 0 .. 1, and its edge.

    That is what is connected with it and above 1, up to HALO voxels, and MARGIN voxels more: interpolation and block
    means reach over its edge.
    """
    bright = (image >= limit) & (mask > 0)
    if not bool(bright.any()):
        return mask
    bright, halo = bright.to(mask.dtype), (image > 1).to(mask.dtype)
    for _ in range(HALO):
        bright = torch.maximum(bright, _grown(bright, 1) * halo)
    return mask * (1 - _grown(bright, MARGIN))


def _grown(values: torch.Tensor, by: int) -> torch.Tensor:
    return F.max_pool3d(values[None, None], 2 * by + 1, stride=1, padding=by)[0, 0]
