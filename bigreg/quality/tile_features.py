"""What is seen of the tiles of two images that decides their risk, on the device of the images; see `confidence`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F

from ..similarity.lncc import box_sum
from .confidence import TILE
from .confidence_cpu import step_sums

STEP, REACH = 2, 2  # voxels of one step, and steps to either side along each axis
NOISE = 0.02  # intensity SD, of images scaled to about 0 .. 1, that means nothing
MOST_EVIDENCE = 1e4  # 1 / voxel^2: surer is no surer
FEW_SAMPLES = 8.0  # independent ones in a window of tissue without noise
FEWEST_SAMPLES = 4.0  # independent ones in a window, whatever its neighbours are like
MOST_ALIKE = 0.9  # correlation of neighbours
EMPTY, DARK = 0.5, 0.05  # of NOISE, and of the intensities: without structure and dark is no tissue


@dataclass(frozen=True)
class Cells:
    """Two images in voxels of a step, float32 (z, y, x) on one device: means of what is known, 0 where nothing is.

    count   known voxels of each, up to STEP^3
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    count: torch.Tensor


def pooled(fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor) -> Cells:
    """The cells of a box that begins with a whole one; beyond its far sides nothing is known.

    fixed, moving   (z, y, x) about 0 .. 1, moving as the map brings it onto fixed
    mask            bool, where both are known
    """
    beyond = [n for axis in (2, 1, 0) for n in (0, -mask.shape[axis] % STEP)]

    def sums(image: torch.Tensor) -> torch.Tensor:
        return _cells(F.pad(image, beyond) if any(beyond) else image, STEP)

    count = sums(mask.to(fixed.dtype))
    share = 1 / count.clamp(min=1)
    f, m = (sums(torch.where(mask, image, 0)) * share for image in (fixed, moving))
    return Cells(f, m, count)


def features(cells: Cells, *, signed: bool = True) -> dict[str, np.ndarray]:
    """The model's features of the tiles of a box, each (tiles z, y, x); NaN where a tile cannot be judged.

    cells    of a box of whole tiles
    signed   whether bright must go with bright; else moving may be any parabola of fixed within a window
    Right in the inner tiles, HALO from the box's sides; the sides themselves count as the border of the images.
    A tile cannot be judged where under half of it is known, nor where fixed shows structure and moving has no
    tissue.

    shift       log of the expected length of a step to where a tile's window fits best, voxels
    shift_soft  the same as if a window held few independent samples, whatever is left between the images
    fit         root of what fixed explains of moving in a tile's window, by its inverse hyperbolic tangent
    local       correlation within the tile, free of noise, by its inverse hyperbolic tangent
    texture     log of the SD of fixed in a tile's window, free of noise, in units of NOISE
    curvature   log of the RMS change of fixed a voxel along the direction with least of it, in units of NOISE
    evidence    log of what both images say of a displacement along the direction of which they say least: the precision
                (1 / voxel^2) of a match of a window by the gradients that they share and by what they differ in
    detail      as texture, of the tile alone
    alike       correlation of neighbours in what is left of moving after the regression: structure that does not match
    shift, local and curvature also as their mean over the tiles around, evidence as those over 3^3 and 5^3.
    """
    f, m, count = cells.fixed, cells.moving, cells.count
    own, known = _cells(count, TILE // STEP) / TILE**3, count >= STEP**3 / 2
    explained, fit = _match(f, m, known, signed)
    lag = _neighbour_moments(f, m, known, signed)
    window = {name: _window(values) for name, values in lag.items()}
    left, left_beside = _unexplained(fit, window)
    alike = (left_beside / left).clamp(0.0, MOST_ALIKE)
    samples = (fit["n"] * ((1 - alike) / (1 + alike)) ** 3).clamp(min=FEWEST_SAMPLES)
    shift, soft = _expected_shift(explained, samples), _expected_shift(explained, FEW_SAMPLES)
    noises = {name: _noise_error(image, known, lag, name) for name, image in (("f", f), ("m", m))}
    local = _noise_free_correlation(fit, lag, noises, signed)
    smooth = [_smoothed(image, known) for image in (f, m)]
    gradients = [_gradient(image) for image in smooth]
    least = _least(_tensor(gradients[0], gradients[0], known)).sqrt()
    shared = fit["slope"] * _tensor(gradients[0], gradients[1], known)
    if not signed:
        bent = [2.0 * smooth[0] * g for g in gradients[0]]
        shared = shared + fit["bend"] * _tensor(bent, gradients[1], known)
    evidence = (samples * _least(shared) / left).clamp(max=MOST_EVIDENCE)
    texture = _beside(window, "f", "f").clamp(min=0).sqrt()
    detail, detail_moving = ((_beside(lag, k, k) - 2 * noises[k]).clamp(min=0).sqrt() for k in ("f", "m"))
    blank = (detail_moving < EMPTY * NOISE) & (_mean(m, known) < DARK)
    empty = blank & (detail >= NOISE)
    found = {
        "shift": (0.1 + shift).log(),
        "shift_around": (0.1 + _around(shift, own)).log(),
        "shift_soft": (0.1 + soft).log(),
        "fit": explained[len(explained) // 2].sqrt().atanh(),
        "local": local.clamp(0.0, 0.999).atanh(),
        "local_around": _around(local, own).clamp(0.0, 0.999).atanh(),
        "texture": (0.1 + texture / NOISE).log(),
        "curvature": (0.02 + least / NOISE).log(),
        "curvature_around": (0.02 + _around(least, own) / NOISE).log(),
        "evidence": (1e-3 + _around(evidence, own, 1)).log(),
        "evidence_around": (1e-3 + _around(evidence, own)).log(),
        "detail": (0.1 + detail / NOISE).log(),
        "alike": alike,
    }
    judged = (own >= 0.5) & ~empty
    stacked = torch.where(judged, torch.stack(list(found.values())), float("nan")).cpu().numpy()
    return dict(zip(found, stacked, strict=True))


def _cells(image: torch.Tensor, width: int) -> torch.Tensor:
    """Sums over cubes of `width` voxels of an image (..., z, y, x) of whole cubes."""
    for axis in (-3, -2, -1):  # axis by axis: whole rows are added
        image = image.unflatten(axis, (-1, width)).sum(axis)
    return image


def _around(values: torch.Tensor, weight: torch.Tensor, reach: int = 2) -> torch.Tensor:
    """Weighted mean over the tiles up to `reach` away; 0 where there is no weight."""
    total = box_sum(torch.stack([values * weight, weight]), reach)
    return total[0] / total[1].clamp(min=1e-6)


def _window(sums: torch.Tensor) -> torch.Tensor:
    """Sums over a tile and its neighbours, of sums over tiles (..., tiles)."""
    for axis in range(-3, 0):
        n = sums.shape[axis] - 1
        moved = sums.clone()
        moved.narrow(axis, 1, n).add_(sums.narrow(axis, 0, n))
        moved.narrow(axis, 0, n).add_(sums.narrow(axis, 1, n))
        sums = moved
    return sums


def _step_sums(
    f: torch.Tensor, weights: torch.Tensor, m: torch.Tensor, their_weights: torch.Tensor, first: int, out: torch.Tensor
) -> None:
    """See `confidence_cpu.step_sums`."""
    if out.device.type == "cpu":
        step_sums(*(t.contiguous().numpy() for t in (f, weights, m, their_weights)), first, out.numpy())
        return
    span = 2 * REACH + 1
    for place in range(len(out)):
        dz, dy, dx = (first + place) // span**2, (first + place) // span % span, (first + place) % span
        box = tuple(slice(d, d + n) for d, n in zip((dz, dy, dx), f.shape, strict=True))
        w = weights * their_weights[box]
        a, b = f * w, m[box] * w
        kinds = [w, a, b, a * a, b * b, a * b]
        if out.shape[1] > len(kinds):
            kinds += [a * a * a, a * a * a * a, a * a * b]
        out[place] = _cells(torch.stack(kinds), f.shape[0] // out.shape[2])


def _match(
    f: torch.Tensor, m: torch.Tensor, known: torch.Tensor, signed: bool
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """How much of moving, a step away, fixed explains over a tile and its neighbours: (steps, tiles), 0 .. 1.

    f, m, known   fixed, moving and where both are known, in voxels of a step
    By linear regression with a slope of at least 0 (signed) or by a parabola; variances are at least those of NOISE.
    Also the regression where no step is made: n samples, slope, bend, and the variance of moving (each of tiles).
    """
    steps, part = (2 * REACH + 1) ** 3, (2 * REACH + 1) ** 2
    tiles = [n * STEP // TILE for n in f.shape]
    weights = known.to(f.dtype)
    wide, wide_weights = (F.pad(t, (REACH,) * 6) for t in (m, weights))
    out = f.new_empty(steps, *tiles)
    sums = f.new_empty(part, 6 if signed else 9, *tiles)
    for first in range(0, steps, part):
        _step_sums(f, weights, wide, wide_weights, first, sums)
        explained, fit = _regression(_window(sums), signed)
        out[first : first + part] = explained
        if first <= steps // 2 < first + part:
            still = {name: values[steps // 2 - first] for name, values in fit.items()}
    return out, still


def _regression(sums: torch.Tensor, signed: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What fixed explains of moving, and the regression, of sums (steps, kinds, tiles) over windows: (steps, tiles)."""
    n, a, b, aa, bb, ab, *more = sums.unbind(1)
    n = n.clamp(min=1.0)
    a, b = a / n, b / n
    raw = (aa / n - a * a).clamp(min=0)
    spread, whole, common = raw + NOISE**2, (bb / n - b * b).clamp(min=0) + NOISE**2, ab / n - a * b
    if signed:
        common = common.clamp(min=0)
        slope, bend = common / spread, torch.zeros_like(common)
        gained = slope * common
    else:  # what is left of the square of fixed beside fixed itself explains more
        aaa, aaaa, aab = (s / n for s in more)
        skew, twice = aaa - a * aa / n, aab - aa / n * b
        part = skew / spread
        own_spread = (aaaa - (aa / n) ** 2 - part * skew).clamp(min=0) + 4 * spread * NOISE**2
        bend = (twice - part * common) / own_spread
        slope = common / spread - bend * part
        gained = common**2 / spread + bend * (twice - part * common)
    explained = (gained / whole).clamp(0.0, 0.998)
    return explained, {"n": n, "slope": slope, "bend": bend, "whole": whole, "left": whole * (1 - explained)}


def _neighbour_moments(f: torch.Tensor, m: torch.Tensor, known: torch.Tensor, signed: bool) -> dict[str, torch.Tensor]:
    """Sums over tiles of products of one image with another at the six neighbours of a voxel: free of noise.

    What is independent from voxel to voxel, as the noise of a camera, has no share in them. Keys: pairs of f, m, q
    (the square of fixed, where `signed` is False) and 1 (the weight).
    """
    images = {"1": known.to(f.dtype), "f": torch.where(known, f, 0), "m": torch.where(known, m, 0)}
    if not signed:
        images["q"] = images["f"] ** 2
    sums = {}
    for second, image in images.items():
        near = torch.zeros_like(image)
        for axis in range(3):
            n = image.shape[axis] - 1
            near.narrow(axis, 0, n).add_(image.narrow(axis, 1, n))
            near.narrow(axis, 1, n).add_(image.narrow(axis, 0, n))
        for first in images:
            if second == "1" or (first != "1" and first <= second):
                sums[first + second] = _cells(images[first] * near, TILE // STEP)
    return sums


def _beside(sums: dict[str, torch.Tensor], a: str, b: str) -> torch.Tensor:
    """Covariance of one image with the other a voxel of a step beside."""
    n = sums["11"].clamp(min=1.0)
    return sums[min(a, b) + max(a, b)] / n - sums[a + "1"] * sums[b + "1"] / n**2


def _unexplained(fit: dict[str, torch.Tensor], window: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Variance of what is left of moving in a window, and its covariance with what is left beside."""
    slope, bend = fit["slope"], fit["bend"]
    beside = _beside(window, "m", "m") - 2 * slope * _beside(window, "f", "m") + slope**2 * _beside(window, "f", "f")
    if "fq" in window:
        beside += bend * (2 * slope * _beside(window, "f", "q") - 2 * _beside(window, "m", "q"))
        beside += bend**2 * _beside(window, "q", "q")
    return fit["left"], beside


def _noise_free_correlation(
    fit: dict[str, torch.Tensor], sums: dict[str, torch.Tensor], noises: dict[str, torch.Tensor], signed: bool
) -> torch.Tensor:
    """Correlation of moving with what the regression of the window makes of fixed, by neighbours.

    Where the noise that is left in a variance (`noises`) exceeds the structure, it tends to 0.
    """
    ridge = NOISE**2 + noises["f"]
    if signed:
        common, spread = _beside(sums, "f", "m"), _beside(sums, "f", "f")
    else:
        slope, bend = fit["slope"], fit["bend"]
        common = slope * _beside(sums, "f", "m") + bend * _beside(sums, "m", "q")
        spread = slope**2 * _beside(sums, "f", "f") + bend**2 * _beside(sums, "q", "q")
        spread += 2 * slope * bend * _beside(sums, "f", "q")
        ridge = (slope**2 + 1e-6) * ridge
    own = _beside(sums, "m", "m").clamp(min=0) + NOISE**2 + noises["m"]
    return common / ((spread.clamp(min=0) + ridge) * own).sqrt()


def _mean(image: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean over the known part of each tile."""
    count = _cells(known.to(image.dtype), TILE // STEP).clamp(min=1)
    return _cells(torch.where(known, image, 0), TILE // STEP) / count


def _noise_error(image: torch.Tensor, known: torch.Tensor, sums: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Standard error that noise alone gives the covariance of an image with itself a voxel beside, in each tile."""
    whole = (_mean(image**2, known) - _mean(image, known) ** 2).clamp(min=0)
    return (whole - _beside(sums, name, name)).clamp(min=0) / (sums["11"] / 2).clamp(min=1).sqrt()


def _smoothed(image: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Means over 3^3 voxels of a step, of the known ones."""
    total, weight = box_sum(torch.stack([torch.where(known, image, 0), known.to(image.dtype)]), 1)
    return total / weight.clamp(min=1e-6)


def _expected_shift(explained: torch.Tensor, samples: torch.Tensor | float) -> torch.Tensor:
    """Expected length (tiles) of the step to where it fits, voxels."""
    steps = torch.tensor(list(product(range(-REACH, REACH + 1), repeat=3)), dtype=explained.dtype)
    length = (STEP * steps.square().sum(1).sqrt()).to(explained.device)
    likelihood = -0.5 * samples * torch.log1p(-explained)
    weight = (likelihood - likelihood.amax(0)).exp()
    return torch.tensordot(length, weight, 1) / weight.sum(0)


def _gradient(image: torch.Tensor) -> list[torch.Tensor]:
    """Change of intensity a voxel along each axis, of an image in voxels of a step."""
    return [torch.gradient(image, spacing=float(STEP), dim=axis)[0] for axis in range(3)]


def _tensor(a: list[torch.Tensor], b: list[torch.Tensor], known: torch.Tensor) -> torch.Tensor:
    """(3, 3, tiles) mean outer product of two gradients over a tile and its neighbours, its symmetric part."""
    pairs = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
    sums = [_cells((a[i] * b[j] + a[j] * b[i]) * (0.5 * known), TILE // STEP) for i, j in pairs]
    *sums, count = box_sum(torch.stack([*sums, _cells(known.to(a[0].dtype), TILE // STEP)]), 1)
    zz, yy, xx, zy, zx, yx = (s / count.clamp(min=1e-6) for s in sums)
    return torch.stack([zz, zy, zx, zy, yy, yx, zx, yx, xx]).reshape(3, 3, *count.shape)


def _least(tensor: torch.Tensor) -> torch.Tensor:
    """(tiles) smallest eigenvalue, at least 0: what a Gauss-Newton step knows of the direction of which it knows least.

    It is small on an edge or a fibre, along which a match can slide.
    """
    return torch.linalg.eigvalsh(tensor.permute(2, 3, 4, 0, 1))[..., 0].clamp(min=0)
