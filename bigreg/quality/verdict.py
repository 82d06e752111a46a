"""Whether a registration worked, from the few numbers that say so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .metrics import RegistrationError

DOUBTFUL, MOSTLY_DOUBTFUL = 0.1, 0.4  # share of the tiles with structure that is expected to be off
LARGEST_INVERSE_ERROR = 0.1  # voxel, at the 99.9th percentile: what the methods promise


@dataclass(frozen=True)
class Outcome:
    """What is known at the end of a run; NaN or None is "not measured".

    `ncc_*` are normalised cross-correlations over the overlap as the images lie, after the affine, and after all;
    `off` is the share of the tiles with structure that is expected to be off, the mean of their risks (see
    confidence.py), and `risk_calibrated` whether that was calibrated for the similarity that the run used;
    `inverse_error` is the 99.9th percentile of the round trip fixed -> moving -> fixed in voxels; `error_*` are target
    registration errors against a known truth, where there is one.
    """

    ncc_before: float
    ncc_affine: float
    ncc_after: float
    folds: int
    samples: int
    inverse_error: float
    blocks: int
    blocks_failed: int
    seconds: float
    off: float = math.nan
    risk_calibrated: bool = True
    error_before: RegistrationError | None = None
    error_affine: RegistrationError | None = None
    error_after: RegistrationError | None = None


@dataclass(frozen=True)
class Verdict:
    """`level` good: nothing speaks against it. look: see `reasons`. bad: do not use it before `reasons` are settled."""

    level: Literal["good", "look", "bad"]
    headline: str
    sentence: str
    reasons: tuple[str, ...]


def judge(outcome: Outcome) -> Verdict:
    """The verdict on an outcome; every rule that spoke against it is a reason, in words, with its number."""
    o = outcome
    bad, look = [], []
    if o.blocks_failed:
        bad.append(f"{o.blocks_failed} of {o.blocks} blocks failed; resume the run to try them again.")
    if o.folds:
        bad.append(f"The map folds at {o.folds:,} of {o.samples:,} samples; it has no inverse there.")
    start = [v for v in (o.ncc_before, o.ncc_affine) if math.isfinite(v)]
    if not math.isfinite(o.ncc_after):
        look.append("The similarity after registration could not be measured: the images may not overlap.")
    elif start and o.ncc_after < o.ncc_before:
        bad.append(f"The images agree less than before (NCC {o.ncc_before:.3f} to {o.ncc_after:.3f}).")
    elif start and o.ncc_after < o.ncc_affine:
        look.append(f"The images agree less than after the affine (NCC {o.ncc_affine:.3f} to {o.ncc_after:.3f}).")
    elif o.ncc_after < 0.5:
        look.append(
            f"NCC after registration is only {o.ncc_after:.2f}: usual between different kinds of image, "
            "a failure between images of one kind. The overlays below tell which."
        )
    if o.inverse_error > LARGEST_INVERSE_ERROR:
        look.append(
            f"The two directions do not undo each other: {o.inverse_error:.2f} voxel at the 99.9th percentile "
            f"(at most {LARGEST_INVERSE_ERROR} is aimed at)."
        )
    if o.off >= DOUBTFUL:
        doubt = (
            f"{o.off:.0%} of the places with structure are likely off by more than 2 voxels; "
            "the section on where not to trust the map shows them"
        )
        if not o.risk_calibrated:
            doubt += " (calibrated for images of one contrast, which these were not taken for)"
        (bad if o.off >= MOSTLY_DOUBTFUL and o.risk_calibrated else look).append(f"{doubt}.")
    if o.error_before and o.error_after and o.error_after.mean > o.error_before.mean:
        bad.append(f"The error grew from {o.error_before.mean:.2f} to {o.error_after.mean:.2f} µm.")
    level: Literal["good", "look", "bad"] = "bad" if bad else "look" if look else "good"
    headline = {"good": "Registered", "look": "Look closer before use", "bad": "Not usable as it is"}[level]
    return Verdict(level, headline, _sentence(o), (*bad, *look))


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 59.95:  # what would be rounded to 60.0 is a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _sentence(o: Outcome) -> str:
    parts = []
    if o.error_after:
        steps = [f"{e.mean:.2f}" for e in (o.error_before, o.error_affine, o.error_after) if e]
        parts.append(f"mean error {' → '.join(steps)} µm")
    steps = [f"{v:.3f}" for v in (o.ncc_before, o.ncc_affine, o.ncc_after) if math.isfinite(v)]
    if steps:
        parts.append(f"NCC {' → '.join(steps)}")
    if o.samples:
        parts.append(f"{o.folds:,} folds in {o.samples:,} samples")
    if math.isfinite(o.inverse_error):
        parts.append(f"inverse error {o.inverse_error:.3g} voxel (99.9 %)")
    parts.append(f"{o.blocks - o.blocks_failed:,} of {o.blocks:,} blocks")
    if math.isfinite(o.seconds):
        parts.append(duration(o.seconds))
    return " · ".join(parts)
