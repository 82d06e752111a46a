"""What is concluded from a short look at a pair: a preset, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dask.utils import format_bytes

from ...errors import named
from ...quality.relation import Relation
from ...quality.verdict import roughly
from ..context.starts import StartCandidate
from .motion import UNKNOWN, Motion

SAME, OTHER = 0.9, 0.75
"""Of `Relation.sign`: one contrast from the first on, another below the second. Measured: 0.98 to 1 and -0.3 to 0.6."""
SHARED, PARTLY = 0.2, 0.35
"""Of `Relation.unexplained` once bent: the same structure up to the first; from the second on only in part. Measured:
0.04 to 0.13 of one specimen and of skulls, 0.41 of a brain and a template, 0.8 of another contrast."""
UNLIKE = 0.6
"""The same of images of two contrasts: from here on another individual. Measured: 0.8 to 0.9 of two brains, 0.44 of one
whose contrast was inverted by a curve."""
PARTS, SUPPLE, MOVED = 0.08, 0.33, 0.5
"""Of the same once bent, and of `Measured.strain`: from both on another individual of the same structure, unless the
affine alone leaves the third or more, which is motion. Measured of skulls: 0.09 to 0.14, 0.37 to 0.74, 0.19 to 0.44; of
one specimen a strain up to 0.27, with noise too; of one that moved far 0.35 to 0.48, and 0.5 to 0.9 left."""
STILL = 0.12
"""The same after the affine alone: up to here nothing is left to bend."""
FAR = 5.0
"""Of `Motion.size`: from here on pairs of points are looked for. Measured: 1.8 to 2.4 where images moved by 5 voxels of
96, 7.3 to 9.9 by 18 and more."""
PAIRS = ("landmarks.path=auto", "landmarks.spline=true")
ROUNDS, INDIVIDUALS, ATLAS = "rounds", "individuals", "brain-to-atlas"
ANY_CONTRAST = "mi"


@dataclass(frozen=True, eq=False)
class Channels:
    """What was seen of a pair of channels, numbered from 1; see `Measured`."""

    number: int
    affine: Relation
    bent: Relation
    motion: Motion = UNKNOWN
    strain: float | None = None

    @property
    def line(self) -> str:
        """What is told of it."""
        structure, contrast, left = structure_of(self.bent), contrast_of(self.affine), self.bent.unexplained
        if left is None or "unknown" in (structure, contrast):
            return "too little structure to compare"
        told = {"shared": "the structure agrees", "unsure": "the structure agrees roughly"}
        more = f"; set its similarity to {ANY_CONTRAST}" if contrast == "other" and structure != "partly" else ""
        agrees = told.get(structure, "the structure differs")
        return f"{agrees} (a smooth bend leaves {left:.0%} of it unexplained), contrast: {contrast}{more}"

    def to_json(self) -> dict[str, Any]:
        """As JSON knows it."""
        known = {"number": self.number, "contrast": contrast_of(self.affine), "structure": structure_of(self.bent)}
        return {**known, "affine": dataclasses.asdict(self.affine), "bent": dataclasses.asdict(self.bent)}


def wrong_channels(channels: Sequence[Channels]) -> tuple[str, ...]:
    """A warning for each pair of channels that shows different things where another shows the same."""
    right = [one.number for one in channels if structure_of(one.bent) == "shared"]
    return tuple(
        f"channel pair {one.number} shows other structure in fixed than in moving, unlike pair {right[0]}: is each the "
        "channel that is meant?"
        for one in channels
        if right and structure_of(one.bent) == "partly"
    )


@dataclass(frozen=True, eq=False)
class Measured:
    """What was seen of a pair.

    confidence   of the start; None where none was searched. least_confidence: below, a run asks a person
    overlap      share of the smaller image
    start        as a run tells it; warnings: of the start
    affine, bent how the images are related after the affine, and bent on top of it
    template     whether a file's name speaks of an atlas
    engines      that a run would use
    motion       what pairs of points say of how far the tissue moved
    strain       root mean square of the strain beyond an affine map, within the tissue, of a bending that may follow
                 every part
    free         whether pairs may be looked for: the user has said nothing of them, and something is to be deformed
    padding      by image, the value around the data that is not compared
    channels     of each pair of channels, where there are several; what is above is of the pair that agrees best
    """

    confidence: float | None
    least_confidence: float
    overlap: float | None
    start: StartCandidate | None
    warnings: tuple[str, ...]
    affine: Relation
    bent: Relation
    template: bool
    engines: tuple[str, ...] = ("optimise",)
    motion: Motion = UNKNOWN
    strain: float | None = None
    free: bool = True
    padding: Mapping[str, float] = field(default_factory=dict)
    channels: tuple[Channels, ...] = ()

    @property
    def doubtful(self) -> bool:
        """Whether a run would ask a person."""
        return self.confidence is not None and self.confidence < self.least_confidence


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """How a pair should be registered.

    preset       its name; None where the start is too doubtful to say
    settings     KEY=VALUE to set on top of it
    candidates   presets that fit, the likeliest first; more than one where it is not `sure`
    similarity   of the patches
    contrast     same, other, unsure or unknown; structure: shared, partly, unsure or unknown
    why          one line
    cost         seconds, workers, disk_bytes (compressed), memory_per_worker_bytes of a run; seconds: of this look
    """

    preset: str | None
    settings: tuple[str, ...]
    candidates: tuple[str, ...]
    similarity: str
    contrast: str
    structure: str
    why: str
    measured: Measured
    cost: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def sure(self) -> bool:
        return len(self.candidates) == 1

    def rows(self) -> list[tuple[str, str]]:
        """(what, one line) for people."""
        seen = self.measured
        named = self.preset or "none"
        other = "" if self.sure or not self.candidates else f", or {' or '.join(self.candidates[1:])}: not certain"
        rows = [("preset", f"{named}{other}; {self.why}")]
        if self.preset is not None:
            more = "".join(f" --set {s}" for s in self.settings)
            rows.append(("similarity", f"{self.similarity}; {_contrast(seen, self.contrast)}"))
            rows.append(("command", f"bigreg register FIXED MOVING RUN --preset {self.preset}{more}"))
        if seen.start is not None:
            rows.append(("orientation", f"{', '.join(seen.start.lines[1:-2])}; {_believed(seen)}"))
            rows.append(("overlap", f"{seen.overlap:.0%} of the smaller image"))
        else:
            rows.append(("orientation", "as given; no start was searched"))
        if seen.padding:
            values = ", ".join(f"{which}: {value:g}" for which, value in seen.padding.items())
            rows.append(("padding", f"{values}; a constant around the data, not compared"))
        rows += [(f"channel pair {one.number}", one.line) for one in seen.channels]
        if self.cost:
            many = f"{self.cost['workers']} worker{'s' * (self.cost['workers'] != 1)}"
            sizes = f"{format_bytes(self.cost['disk_bytes'])} of disk"
            each = f"{format_bytes(self.cost['memory_per_worker_bytes'])} of memory per worker"
            rows.append(("cost", f"about {roughly(self.cost['seconds'])} on {many}, {sizes}, {each} (predicted)"))
        if seen.doubtful and self.preset is not None:
            asks = "the start is doubtful although the structure agrees: a run will ask you to confirm it"
            rows.append(("warning", f"{asks} ({_believed(seen)})"))
        rows += [("warning", w) for w in seen.warnings]
        return [*rows, ("time", f"{self.seconds:.0f} s for this inspection")]

    def to_json(self) -> dict[str, Any]:
        """Everything, in what JSON knows. The keys are always the same."""
        seen, start = self.measured, self.measured.start
        return {
            "preset": self.preset,
            "settings": list(self.settings),
            "sure": self.sure,
            "candidates": list(self.candidates),
            "why": self.why,
            "similarity": self.similarity,
            "contrast": self.contrast,
            "structure": self.structure,
            "start": {
                "confidence": seen.confidence,
                "doubtful": seen.doubtful,
                "overlap": seen.overlap,
                "turn_deg": None if start is None else start.turn_deg,
                "shift_um": None if start is None else list(start.shift_um),
                "mirrored": None if start is None else start.mirrored,
                "matrix": None if start is None else start.matrix.tolist(),
            },
            "affine": dataclasses.asdict(seen.affine),
            "bent": dataclasses.asdict(seen.bent),
            "motion": dataclasses.asdict(seen.motion),
            "strain": seen.strain,
            "padding": {which: seen.padding.get(which) for which in ("fixed", "moving")},
            "channels": [one.to_json() for one in seen.channels],
            "cost": self.cost,
            "warnings": list(seen.warnings),
            "seconds": self.seconds,
        }


def diagnose(seen: Measured) -> Diagnosis:
    """The preset that fits what was seen."""
    contrast, structure = contrast_of(seen.affine), structure_of(seen.bent)
    if seen.doubtful and structure != "shared":  # structure that agrees speaks for a start
        asked = named("--fixed-orientation, --moving-orientation", "open_volume's orientation")
        why = (
            f"the start is doubtful (confidence {seen.confidence:.0%}): the images may have nothing in common, or be "
            f"oriented in a way that was not found; state their orientation ({asked})"
        )
        return Diagnosis(None, (), (), "lncc", "unknown", "unknown", why, seen)
    candidates, why = _fitting(seen, contrast, structure)
    any_contrast = contrast == "other" and candidates[0] != ATLAS and "optimise" in seen.engines
    keys = ("affine.similarity", "engine_options.optimise.similarity")
    settings = tuple(f"{key}={ANY_CONTRAST}" for key in keys) if any_contrast else ()
    size = seen.motion.size
    if seen.free and size is not None and size >= FAR:
        settings += PAIRS
        why += (
            f"; beyond the affine the tissue moved by {size:.0f} of about 64 voxels, so pairs of points are looked for"
        )
    similarity = ANY_CONTRAST if any_contrast or candidates[0] == ATLAS else "lncc"
    return Diagnosis(candidates[0], settings, candidates, similarity, contrast, structure, why, seen)


def contrast_of(affine: Relation) -> str:
    """same, other, unsure or unknown."""
    if affine.sign is None:
        return "unknown"
    return "same" if affine.sign >= SAME else "other" if affine.sign < OTHER else "unsure"


def structure_of(bent: Relation) -> str:
    """shared, partly, unsure or unknown."""
    unexplained = bent.unexplained
    if unexplained is None:
        return "unknown"
    return "shared" if unexplained <= SHARED else "partly" if unexplained >= PARTLY else "unsure"


def _fitting(seen: Measured, contrast: str, structure: str) -> tuple[tuple[str, ...], str]:
    """Presets, the likeliest first, and why."""
    if "unknown" in (contrast, structure):
        return (ROUNDS, INDIVIDUALS, ATLAS), "too little structure to decide"
    left, bent = seen.affine.unexplained, seen.bent.unexplained
    assert left is not None and bent is not None, "what is unknown was handled above"
    share = f"a smooth bend leaves {bent:.0%} of the structure unexplained"
    if contrast == "other" and structure == "shared":
        return (ROUNDS,), f"another contrast of one specimen: {share}"
    if contrast == "other":
        if bent >= UNLIKE:
            return (ATLAS,), f"another contrast and another individual: {share}"
        return (ATLAS, ROUNDS), f"another contrast, and perhaps another individual: {share}"
    if contrast == "unsure":
        return (ATLAS, INDIVIDUALS), f"it is not clear whether the contrast is the same; {share}"
    if structure == "partly":
        order = (ATLAS, INDIVIDUALS) if seen.template else (INDIVIDUALS, ATLAS)
        hint = "a file is named like an atlas; " if seen.template else ""
        return order, f"the same contrast, but only part of the structure agrees: {hint}{share}"
    if structure == "unsure":
        return (INDIVIDUALS,), f"the same contrast, another individual: {share}"
    rest = f"{left:.0%} of the structure is left unexplained by the affine, {bent:.0%} by a smooth bend"
    if left <= STILL:
        return (ROUNDS,), f"one specimen, hardly bent: {rest}"
    if bent >= PARTS and left < MOVED and seen.strain is not None and seen.strain >= SUPPLE:
        strained = f"its parts differ in shape (a soft bend is strained by {seen.strain:.0%})"
        return (INDIVIDUALS, ROUNDS), f"the same contrast and structure, but {strained}: {rest}"
    return (ROUNDS, INDIVIDUALS), f"the same contrast, and the structure agrees after a smooth bend: {rest}"


def _contrast(seen: Measured, contrast: str) -> str:
    sign = seen.affine.sign
    if sign is None:
        return "too little structure to tell the contrast"
    what = {
        "same": "bright goes with bright within the tissue",
        "unsure": "bright goes mostly with bright within the tissue",
        "other": "bright goes with dark" if sign <= -OTHER else "bright goes with bright and with dark",
    }[contrast]
    return f"{what} (sign {sign:.2f}; same contrast from {SAME} on, different below {OTHER})"


def _believed(seen: Measured) -> str:
    return f"confidence {seen.confidence:.0%}"
