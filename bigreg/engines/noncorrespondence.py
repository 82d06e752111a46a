"""Where two images of a patch have no counterpart in each other: holes, bubbles, tissue that one of them lacks.

A velocity that is found with such places in view draws the tissue around them into them. So where the images under the
velocity correlate less than `UNLIKE` locally, smoothed, and one of them has texture, both are left out, and the engine
estimates anew without, a few times or until what is left out hardly changes; on coarse levels a first look leaves out
too little, as tissue was drawn in, hence it is grown once. Every level looks for itself: what a coarser one
took for a hole, because the motion there was still too large for it, is compared again.

The border is looked at twice: the core of what was found is kept out of the windows of the second look, since a window
that holds the bright rim of a bubble, say, tells nothing of the tissue beside it.

A wrong start is no hole: nothing is left out where what remains does not agree either (LEAST_FIT), or where it would be
more than MOST of what both images show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..similarity import by_name
from ..similarity.lncc import box_sum, local_moments
from ..transforms.bspline import adjoint, evaluate
from ..transforms.field import identity, sample
from .base import ChannelPair, Engine, PatchPair, VelocityPatch
from .gauss_newton import MidSpacePair
from .parts import estimate_fitting

SIMILARITIES = {"lncc": True, "ncc": True, "mse": True, "lncc_squared": False}
"""Similarities that a local correlation speaks for, and whether its sign counts. Under others (mi, nmi, mind, ngf) low
correlation may be right, and nothing is looked for."""
RADIUS = 2  # voxels: of the window of the correlation
NOISE = 0.02  # SD (images about 0 .. 1) that counts as no texture in it
TEXTURE = 0.03  # SD in the window from which an image has texture
UNSHARED = 3.0  # times the variance that the images do not share where they share most is noise, and no texture
SHARE_MOST = 0.2  # of the windows, by that variance
UNLIKE = 0.5  # correlation under which images do not fit
SMOOTH = 2  # voxels: half the width of the box over which that is averaged
VOTES = 2  # rounds in which a voxel joins the majority of its box
CORE = 2  # voxels from the border on which what was found is left out of the second look
SOLID, SOLID_FINEST = 2, 3  # voxels: a hole holds a cube of 2 SOLID + 1 of them; what is thinner is noise or a spot
GROWN = 2  # voxels by which a coarse level leaves out more at first
AGAIN, AGAIN_FINEST = 4, 2  # estimates at most without what was found
SETTLED = 0.1  # of what was found: less of a change ends that
LEAST_FIT = 0.5  # mean correlation of the textured rest
MOST = 0.25  # of what both images show


Channel = tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]
"""Both images (C, z, y, x) in mid-space, the mask of both (z, y, x), and whether the sign of a correlation counts."""


@dataclass(frozen=True)
class Unmatched:
    """What of a patch has no counterpart, at the voxels of mid-space after the velocity.

    where   (z, y, x), 1 there, else 0; nothing where it would explain too much (see LEAST_FIT, MOST)
    share   of the voxels that both images show
    fit     (z, y, x) on the control points, 0 .. 1: mean correlation of what has texture, 0 for what has no
            counterpart; 1 where nothing has texture
    """

    where: torch.Tensor
    share: float
    fit: torch.Tensor

    @property
    def any(self) -> bool:
        return self.share > 0


def estimate_matching(engine: Engine, pair: PatchPair, similarity: str) -> tuple[VelocityPatch, Unmatched]:
    """The engine's velocity of what has a counterpart, with a confidence that knows how well the images fit.

    similarity   by which the engine compares where a pair of channels names none, one of SIMILARITIES
    """
    patch = estimate_fitting(engine, pair)
    found = unmatched(pair, patch.coefficients, similarity)
    for again in range(AGAIN if pair.level else AGAIN_FINEST):
        if not found.any:
            break
        out = grown(found.where, GROWN) if pair.level and again == 0 else found.where
        patch = estimate_fitting(engine, left_out(pair, patch.coefficients, out))
        before, found = found.where, unmatched(pair, patch.coefficients, similarity)
        either = torch.maximum(found.where, before).sum(dtype=torch.float64)
        if float((found.where - before).abs().sum(dtype=torch.float64)) < SETTLED * float(either):
            break
    return replace(patch, confidence=patch.confidence * found.fit), found


def unmatched(pair: PatchPair, velocity: torch.Tensor, similarity: str) -> Unmatched:
    """What has no counterpart under a velocity (3, control points), um. Swapped images and -velocity give the same.

    Several channels are looked at together, where each has texture; those of other similarities and labels are not.
    """
    samples, step, lncc = pair.lattice.samples, _in_voxels(pair, velocity), by_name("lncc")
    channels: list[Channel] = []
    for one in pair.channels:
        known = SIMILARITIES.get(one.similarity or similarity)
        if known is not None and not one.labels:
            images = MidSpacePair(one.fixed, one.moving, one.fixed_mask, one.moving_mask, lncc, samples)
            channels.append((*images.warped(step), known))
    mask = torch.stack([own for _, _, own, _ in channels]).amax(0)
    like, textured = _likeness(channels)
    where = _settled(like, textured, mask)
    if bool(where.any()):
        core = mask * (box_sum(mask * (1 - where), CORE) < 0.5)
        rest = mask * (1 - core)
        border = _settled(*_likeness([(f, m, own * rest, known) for f, m, own, known in channels]), rest)
        where = _solid(core + (1 - core) * border * grown(where, 1), mask, SOLID if pair.level else SOLID_FINEST)
    seen = float(mask.sum(dtype=torch.float64))
    left = textured * (1 - where)
    fits = float((like * left).sum(dtype=torch.float64)) >= LEAST_FIT * float(left.sum(dtype=torch.float64))
    if not fits or float(where.sum(dtype=torch.float64)) > MOST * seen:
        where = torch.zeros_like(where)
    share = float(where.sum(dtype=torch.float64)) / max(seen, 1.0)
    agreeing, all_ = adjoint(torch.stack([like.clamp(min=0.0) * textured * (1 - where), textured]), samples)
    fit = torch.where(all_ > 1e-3, agreeing / all_.clamp_min(1e-3), 1.0).clamp(0.0, 1.0)
    return Unmatched(where, share, fit)


def grown(where: torch.Tensor, radius: int) -> torch.Tensor:
    """(z, y, x) 1 within a box of so many voxels around what is 1."""
    return (box_sum(where, radius) > 0.5).to(where.dtype)


def _solid(where: torch.Tensor, mask: torch.Tensor, half: int) -> torch.Tensor:
    """What is 1 around cubes of 2 half + 1 voxels of it; beyond the mask nothing is said against one."""
    cubes = where * (box_sum(mask - where, half) < 0.5)
    return where * grown(cubes, half + 2)


def left_out(pair: PatchPair, velocity: torch.Tensor, where: torch.Tensor) -> PatchPair:
    """The pair without what under a velocity (um) lies at `where`: of each image what the velocity takes there. Labels
    stay whole: they were drawn."""
    step = evaluate(_in_voxels(pair, velocity), pair.lattice.samples)
    index = identity(where.shape, dtype=where.dtype, device=where.device)
    fixed, moving = ((sample(where[None], index + sign * step)[0] <= 0.5).to(where.dtype) for sign in (-1, 1))

    def without(one: ChannelPair) -> ChannelPair:
        return replace(one, fixed_mask=one.fixed_mask * fixed, moving_mask=one.moving_mask * moving)

    first, *others = (one if one.labels else without(one) for one in pair.channels)
    return replace(pair, fixed_mask=first.fixed_mask, moving_mask=first.moving_mask, others=tuple(others))


def _in_voxels(pair: PatchPair, velocity: torch.Tensor) -> torch.Tensor:
    lattice = pair.lattice
    return torch.stack([v * (n / s) for v, s, n in zip(velocity, lattice.spacing, lattice.samples, strict=True)])


def _likeness(channels: Sequence[Channel]) -> tuple[torch.Tensor, torch.Tensor]:
    """(z, y, x) local correlation, mean over the channels, and 1 where one of the images has texture."""
    like, textured = torch.zeros_like(channels[0][2]), torch.zeros_like(channels[0][2])
    for fixed, moving, mask, signed in channels:
        for f, m in zip(fixed, moving, strict=True):
            _, _, _, var_f, var_m, cov = local_moments(f, m, mask, RADIUS, NOISE)
            correlation = cov * torch.rsqrt(var_f * var_m)
            unlike = 1 - correlation.square()
            above = [var - NOISE**2 - UNSHARED * _noise(var * unlike, mask) for var in (var_f, var_m)]
            weight = mask * (torch.maximum(*above) > TEXTURE**2)
            like += (correlation if signed else correlation.abs()) * weight
            textured += weight
    return like / textured.clamp_min(1.0), (textured > 0).to(like.dtype)


def _noise(unshared: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The noise's variance (no dimensions) beyond NOISE: what is not shared where most is, by every other voxel."""
    inside = torch.where(mask[::2, ::2, ::2] > 0, unshared[::2, ::2, ::2], torch.nan)
    return (inside.flatten().nanquantile(SHARE_MOST).nan_to_num() - NOISE**2).clamp_min(0.0)


def _settled(like: torch.Tensor, textured: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(z, y, x) 1 where the box around a voxel is unlike on average, its border made smooth by votes."""
    where = mask * (box_sum((UNLIKE - like) * textured, SMOOTH) > 0)
    for _ in range(VOTES):
        where = mask * (box_sum(where, SMOOTH) > 0.5 * box_sum(mask, SMOOTH))
    return where
