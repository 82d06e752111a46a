"""The figures of the InvGAN paper (arXiv 2501.18815), by its author's definitions, beside the ordinary ones.

All take images (z, y, x) of one shape, numpy arrays or tensors; sums are float64.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ..similarity.information import mutual_information
from .metrics import Array, ncc, target_registration_error

BINS = 30


def _double(image: Array) -> np.ndarray:
    return np.asarray(image.detach().cpu() if isinstance(image, torch.Tensor) else image, dtype=np.float64)


def _two(a: Array, b: Array) -> tuple[np.ndarray, np.ndarray]:
    a, b = _double(a), _double(b)
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"images have shapes {a.shape} and {b.shape}; need two of one shape (z, y, x)")
    return a, b


def author_correlation(a: Array, b: Array) -> float:
    """CC of the author: each image less its mean along z at each (y, x), not its own mean. NaN for a constant one."""
    a, b = _two(a, b)
    a, b = a - a.mean(0), b - b.mean(0)
    scale = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else math.nan


def author_information(a: Array, b: Array, bins: int = BINS) -> float:
    """MI of the author in bits: a joint histogram of `bins` equal bins over the range of each image."""
    a, b = _two(a, b)
    joint = np.histogram2d(a.ravel(), b.ravel(), bins=bins)[0]
    joint /= joint.sum()
    both = joint.sum(1)[:, None] * joint.sum(0)[None, :]
    some = joint > 0
    return float((joint[some] * np.log2(joint[some] / both[some])).sum())


def information_bits(a: Array, b: Array, mask: Array | None = None) -> float:
    """Mutual information in bits by B-spline Parzen windows, over the voxels where `mask` is true (default all)."""
    a, b = _two(a, b)
    keep = np.ones(a.shape, np.float32) if mask is None else _double(mask)
    tensors = (torch.from_numpy(np.ascontiguousarray(t, dtype=np.float32)) for t in (a, b, keep))
    return mutual_information(*tensors) / math.log(2.0)


def landmark_distance_mm(mapped: Array, truth: Array) -> float:
    """Mean distance of landmarks (N, 3), um, in mm. Raises ValueError where one could not be mapped (NaN)."""
    error = target_registration_error(mapped, truth)
    if error.missing:
        raise ValueError(f"{error.missing} of {error.missing + error.points} landmarks were not mapped")
    return error.mean / 1000.0


def paper_figures(fixed: Array, warped: Array) -> dict[str, float]:
    """The paper's two figures of a registered pair, by the author's definitions and by the ordinary ones."""
    return {
        "author_cc": author_correlation(fixed, warped),
        "author_mi_bits": author_information(fixed, warped),
        "pearson": ncc(fixed, warped),
        "mi_bits": information_bits(fixed, warped),
    }
