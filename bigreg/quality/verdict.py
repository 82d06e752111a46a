"""Whether a registration worked, from the few numbers that say so. Knows no torch, so that asking is quick."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import VerdictError, named

if TYPE_CHECKING:
    from .metrics import RegistrationError

Level = Literal["good", "look", "bad"]
HEADLINES: dict[str, str] = {"good": "No problem found", "look": "Check before use", "bad": "Not usable"}

DOUBTFUL, MOSTLY_DOUBTFUL = 0.1, 0.3
"""Expected share of the textured tiles that are off."""
LARGEST_INVERSE_ERROR = 0.1
"""Voxel, at the 99.9th percentile: what the methods promise."""
LOW_CONFIDENCE = 0.5
"""Of the start: one below it cannot be called good."""
LOW_NCC, LOW_LOCAL, LOW_SIZE = 0.5, 0.6, 0.7
"""Agreement after registration that is usual only where the images do not match, or where noise hides whether they do:
of the whole, in windows, and in windows where only its size counts, which a map that bends to noise raises too."""
FITTING_LOCAL = LOW_LOCAL
"""Local correlation of images that match; the risk alone does not overrule it."""
NOTICEABLE = 0.02
"""A fall of a correlation by less is not looked at, however sure it is."""
NOISES = 3.0
"""Standard errors by which the local correlation has to fall."""
UNKNOWN_NOISE = 0.1
"""Fall of a local correlation that counts where there are too few tiles to know its noise."""
LARGE_TRE = 5.0
"""Voxels of the finest level: landmarks further from the map than that contradict it."""
MUCH_UNMATCHED = 0.05
"""Share of what both images show that has no counterpart: from here on a person should see where."""
FEW_PAIRS = 0.1
"""Share of the pairs that steer a run that may contradict the images: single pairs are clicked wrongly."""


@dataclass(frozen=True)
class Agreement:
    """How alike both images are before registration, after the affine, and after all, on the same voxels.

    ncc      normalised cross-correlation
    local    mean correlation in windows of 9^3 voxels with texture; of its size alone where `signed` is false
    mi       mutual information, nat
    noise    standard errors of the change of `local`: from before to after, from the affine to after
    signed   whether bright goes with bright; where it need not, `ncc` says nothing and `mi` takes its place
    NaN where it is not measured (before registration the images may not overlap).
    """

    ncc: tuple[float, float, float] = (math.nan,) * 3
    local: tuple[float, float, float] = (math.nan,) * 3
    mi: tuple[float, float, float] = (math.nan,) * 3
    noise: tuple[float, float] = (math.nan,) * 2
    signed: bool = True

    def to_json(self) -> dict[str, Any]:
        """As JSON knows it: null for what is not measured."""

        def number(v: Any) -> Any:
            return v if isinstance(v, bool) else [float(x) if math.isfinite(x) else None for x in v]

        return {k: number(v) for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Agreement:
        def number(v: Any) -> Any:
            return v if isinstance(v, bool) else tuple(math.nan if x is None else float(x) for x in v)

        return cls(**{k: number(v) for k, v in data.items()})

    @property
    def overall(self) -> tuple[str, tuple[float, float, float]]:
        """The measure of the whole overlap that suits the contrast, and its name."""
        return ("NCC", self.ncc) if self.signed else ("mutual information", self.mi)

    @property
    def text(self) -> str:
        """One line: before -> after the affine -> after all."""
        rows = (self.overall, ("local correlation", self.local))
        return "; ".join(f"{name} " + " -> ".join(_value(v) for v in values) for name, values in rows)

    def fell(self, since: Literal["before", "affine"]) -> tuple[bool, bool]:
        """Whether the local correlation and the overall measure fell by more than their noise."""
        k = 0 if since == "before" else 1
        noise = self.noise[k]
        limit = max(NOISES * noise, NOTICEABLE) if math.isfinite(noise) else UNKNOWN_NOISE
        name, overall = self.overall
        # Mutual information has no scale of its own: a share of what there was.
        least = NOTICEABLE if name == "NCC" else max(NOTICEABLE, 0.05 * overall[k])
        return self.local[2] < self.local[k] - limit, overall[2] < overall[k] - least


@dataclass(frozen=True)
class PairsOutcome:
    """How far pairs of landmarks are from the map; lengths in um, medians unless said.

    own           the pairs steered the run, so they are no independent measure of it
    voxel         of the finest level
    grew, sure    mean growth of the distance since before registration, and its standard error
    reading       how the pairs would fit much better ("with fixed and moving exchanged"), None where they would not
    reading_um    their distance then
    doubted       numbers (from 1) of own pairs that lost their weight, as images and neighbours contradict them
    doubted_um    their distance
    """

    pairs: int
    own: bool
    voxel: float
    before: float
    affine: float
    after: float
    grew: float = math.nan
    sure: float = math.nan
    reading: str | None = None
    reading_um: float = math.nan
    doubted: tuple[int, ...] = ()
    doubted_um: float = math.nan


@dataclass(frozen=True)
class Outcome:
    """What is known at the end of a run; NaN or None is "not measured".

    `off` is the expected share of the textured tiles with an error above `large`, as people read it, the mean of their
    risks (see confidence.py), and `risk_calibrated` whether that was calibrated for the similarity that the run used;
    `inverse_error` is the 99.9th percentile of the round trip fixed -> moving -> fixed in voxels; `confidence` of the
    start, 0 .. 1; `warnings` are those of the start; `error_*` are target registration errors against a known truth,
    where there is one; `landmarks` what was measured of pairs; `unmatched` the share of what lies in both images that
    has no counterpart in the other; `channels_off` is `off` of each pair of channels, where there are several.
    """

    agreement: Agreement
    folds: int
    samples: int
    inverse_error: float
    blocks: int
    blocks_failed: int
    seconds: float
    off: float = math.nan
    large: str = "2 voxels"
    risk_calibrated: bool = True
    confidence: float = math.nan
    warnings: Sequence[str] = ()
    landmarks: Sequence[PairsOutcome] = ()
    unmatched: float = math.nan
    channels_off: Sequence[float] = ()
    error_before: RegistrationError | None = None
    error_affine: RegistrationError | None = None
    error_after: RegistrationError | None = None


@dataclass(frozen=True)
class Verdict:
    """`level` good: nothing speaks against it. look: see `reasons`. bad: do not use it before `reasons` are settled.

    headline     the level in words
    similarity   one line: how alike the images are before, after the affine, and after all
    sentence     the main figures
    reasons      what speaks against it, warnings of the start included; the gravest first
    """

    level: Level
    headline: str
    sentence: str
    reasons: tuple[str, ...]
    similarity: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """As plain text for a terminal or a log: similarity, headline, reasons."""
        first = (f"similarity before -> after the affine -> after all: {self.similarity}",) if self.similarity else ()
        return (*first, f"verdict: {self.headline}", *(f"  - {reason}" for reason in self.reasons))

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        return cls(**{**data, "reasons": tuple(data["reasons"])})

    def require(self, fail_on: str) -> None:
        """Raise VerdictError where the level is `fail_on` ("look" or "bad") or worse."""
        levels = get_args(Level)
        if levels.index(self.level) >= levels.index(fail_on):
            raise VerdictError(
                f"the verdict is '{self.headline}' ({self.level}) and {named('--fail-on', 'require')} {fail_on} was "
                "given; the result is kept, its report says more"
            )


def judge(outcome: Outcome) -> Verdict:
    """The verdict on an outcome; every rule that spoke against it is a reason, in words, with its number."""
    o = outcome
    bad: list[str] = []
    look: list[str] = []
    if o.blocks_failed:
        bad.append(f"{o.blocks_failed} of {o.blocks} blocks failed; resume the run to try them again.")
    if o.folds:
        bad.append(f"The map folds at {o.folds:,} of {o.samples:,} samples; it has no inverse there.")
    _agreement(o.agreement, bad, look)
    if o.error_before and o.error_after and o.error_after.mean > o.error_before.mean:
        bad.append(f"The error grew from {o.error_before.mean:.2f} to {o.error_after.mean:.2f} µm.")
    for pairs in o.landmarks:
        _landmarks(pairs, bad, look)
    _risk(o, bad, look)
    _channels(o, look)
    if o.unmatched >= MUCH_UNMATCHED:
        look.append(
            f"{o.unmatched:.1%} of what lies in both images has no counterpart in the other and was left out: holes, "
            "missing tissue, or a map that is wrong there. The section on it shows where."
        )
    if o.confidence < LOW_CONFIDENCE:
        look.append(
            f"The start (affine) is uncertain: confidence {o.confidence:.2f} of 1, below {LOW_CONFIDENCE}; check the "
            "overlay after the affine."
        )
    if o.inverse_error > LARGEST_INVERSE_ERROR:
        look.append(
            f"The two directions do not undo each other: {o.inverse_error:.2f} voxel at the 99.9th percentile "
            f"(at most {LARGEST_INVERSE_ERROR} is aimed at)."
        )
    look += [f"Warning of the start: {warning}" for warning in o.warnings]
    level: Level = "bad" if bad else "look" if look else "good"
    return Verdict(level, HEADLINES[level], _sentence(o), (*bad, *look), o.agreement.text)


def _agreement(a: Agreement, bad: list[str], look: list[str]) -> None:
    name, overall = a.overall
    after = a.local[2], overall[2]
    if not all(map(math.isfinite, after)):
        look.append(
            "The similarity after registration could not be measured: the images overlap too little, or show too "
            "little structure there."
        )
    sinces: tuple[tuple[Literal["before", "affine"], str, int, list[str]], ...] = (
        ("before", "before registration", 0, bad),
        ("affine", "after the affine", 1, look),
    )
    for since, words, where, grave in sinces:
        fell = a.fell(since)
        if any(fell):
            steps = [
                f"{what} {_value(values[where])} to {_value(values[2])}"
                for what, values in (("local correlation", a.local), (name, overall))
            ]
            (grave if all(fell) else look).append(f"The images agree less than {words} ({', '.join(steps)}).")
            break
    if a.local[2] < (LOW_LOCAL if a.signed else LOW_SIZE) or (a.signed and overall[2] < LOW_NCC):
        figures = f"local correlation {_value(a.local[2])}" + (f", NCC {_value(overall[2])}" if a.signed else "")
        look.append(
            f"The images agree little after registration ({figures}): they do not match, or differ in kind or are "
            "noisy. The overlays show which."
        )


def _risk(o: Outcome, bad: list[str], look: list[str]) -> None:
    if not o.risk_calibrated or not o.off >= DOUBTFUL:
        return
    # What fits everywhere is not unusable because the risk says so: it cries wolf on images unlike those it knows.
    grave = o.off >= MOSTLY_DOUBTFUL and not o.agreement.local[2] >= FITTING_LOCAL
    (bad if grave else look).append(
        f"An estimated {o.off:.0%} of the textured tiles are off by more than {o.large}; the section on where not to "
        "trust the map shows them."
    )


def _channels(o: Outcome, look: list[str]) -> None:
    known = {number: off for number, off in enumerate(o.channels_off, 1) if math.isfinite(off)}
    if not o.risk_calibrated or len(known) < 2:
        return
    best = min(known.values())
    for number, off in known.items():
        if off >= MOSTLY_DOUBTFUL and best < MOSTLY_DOUBTFUL:
            look.append(
                f"Channel pair {number} does not fit where another does: an estimated {off:.0%} of its textured tiles "
                f"are off by more than 2 voxels, {best:.0%} of the best pair's. Do both channels show the same?"
            )


def _landmarks(p: PairsOutcome, bad: list[str], look: list[str]) -> None:
    whose = f"{p.pairs} landmark pairs" + (" that steer the run" if p.own else "")
    if p.reading is not None:
        look.append(
            f"The {whose} contradict the images: as given they are {p.after:.3g} µm from the map (median), "
            f"{p.reading} {p.reading_um:.3g} µm. Check their columns and units."
        )
        return
    if len(p.doubted) > FEW_PAIRS * p.pairs:
        names = ", ".join(map(str, p.doubted[:5])) + (" ..." if len(p.doubted) > 5 else "")
        look.append(
            f"{len(p.doubted)} of the {whose} contradict the images or one another and were given little weight "
            f"(number {names}): they are {p.doubted_um:.3g} µm from the map (median)."
        )
    if p.own:
        return
    if p.grew > max(2 * p.sure, p.voxel):
        bad.append(f"The error at {whose} grew from {p.before:.3g} to {p.after:.3g} µm (median).")
    elif p.after > LARGE_TRE * p.voxel:
        look.append(
            f"The {whose} are {p.after:.3g} µm from the map (median): {p.after / p.voxel:.1f} voxels of the finest "
            "level."
        )


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 59.95:  # what would be rounded to 60.0 is a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def roughly(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            value = seconds / length
            return f"{value:.0f} {unit}" if value >= 20 else f"{value:.1f} {unit}"
    return f"{seconds:.0f} s"


def _value(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "not measured"


def _sentence(o: Outcome) -> str:
    parts = []
    if o.error_after:
        steps = [f"{e.mean:.2f}" for e in (o.error_before, o.error_affine, o.error_after) if e]
        parts.append(f"mean error {' → '.join(steps)} µm")
    for p in o.landmarks:
        shares = " → ".join(f"{v:.3g}" for v in (p.before, p.affine, p.after))
        parts.append(f"TRE of {p.pairs} {'steering ' if p.own else ''}pairs {shares} µm (median)")
    if o.samples:
        parts.append(f"{o.folds:,} folds in {o.samples:,} samples")
    if math.isfinite(o.inverse_error):
        parts.append(f"inverse error {o.inverse_error:.3g} voxel (99.9 %)")
    if o.unmatched > 0:
        parts.append(f"{o.unmatched:.1%} without counterpart")
    parts.append(f"{o.blocks - o.blocks_failed:,} of {o.blocks:,} blocks")
    if math.isfinite(o.seconds):
        parts.append(duration(o.seconds))
    return " · ".join(parts)
