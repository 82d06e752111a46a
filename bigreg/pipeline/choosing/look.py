"""A short look at two images before they are registered: what kind of pair they are, and so which preset fits.

Both are seen as small copies, as the affine of a run sees them. The start is searched, the same that a run would; what
the affine leaves is bent in one small patch; and how alike both are then, in contrast and in structure, names the
preset (see `diagnosis`). Of several channels the start is that of all, and the pair whose structure agrees best
decides. Of masks only `finite` is heeded, and no correction: what a run leaves out is looked at too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from ...config import Affine, Config, load_config
from ...engines.affine import DOUBTFUL, SIGNLESS, AffineResult
from ...engines.placed import Placed
from ...engines.small import bend, seen_through, strain
from ...engines.structure import tissue_level
from ...errors import InputError
from ...geometry import Grid
from ...intensity import bright_limit
from ...quality.relation import Relation, relation, tissue
from ...volumes import Volume
from ..context import masks, starts
from ..context.beginning import beginning
from ..context.channels import Pair, intensity_of, pairs
from ..context.context import IMAGES, compressed
from ..context.frames import Frames
from ..context.given import GivenStart
from ..context.inputs import chosen_channels
from ..context.looked import Other, Question
from ..context.lying import provisional
from ..context.padding import padding_of
from ..tasks.start import (
    Copy,
    affine_factors,
    as_one,
    compared_pairs,
    of_sides,
    percentiles,
    question,
    said,
    without_bright,
)
from .copies import small_copy
from .diagnosis import (
    ATLAS,
    ROUNDS,
    Channels,
    Diagnosis,
    Measured,
    contrast_of,
    diagnose,
    structure_of,
    wrong_channels,
)
from .motion import UNKNOWN, Motion, motion

SEEN = 64  # voxels along the longest axis of what is bent
STIFF = 1.6  # regularisation of the bending: it may follow shapes and not invent likeness
SOFT = 0.1  # of one that may follow every part
ANY_CONTRAST = "lncc_squared"  # of the start where bright may go with dark: quicker than mutual information
NAMED = ("template", "atlas", "average", "ccf", "annotation", "reference")


@dataclass(frozen=True, eq=False)
class Look:
    """What was seen of a pair: what is concluded, its frames, and the starts that were searched.

    answers   digests of questions and their answers, for a run that asks the same (see `context.looked`)
    """

    diagnosis: Diagnosis
    frames: Frames
    answers: tuple[tuple[str, AffineResult], ...] = ()


def look(volumes: dict[str, Volume], overrides: Sequence[str] = (), cluster: Any = None) -> Look:
    """Look at two volumes. `overrides` and `cluster` as of `load_config`. Raises InputError, ConfigError."""
    base = load_config(ROUNDS, cluster=cluster, overrides=list(overrides))
    base, volumes = chosen_channels(base, volumes)
    base, given = beginning(base, volumes)
    copies = [
        Copies({side: volumes[name] for side, name in zip(IMAGES, pair.images, strict=True)}, base, given, pair)
        for pair in pairs(base)
    ]
    found = _found(copies)
    result, seen_of = found.result, found.main
    seen = Measured(
        confidence=None if result is None else float(result.confidence),
        least_confidence=0.0 if given is not None else base.affine.least_confidence,
        overlap=None if result is None else float(result.overlap),
        start=None if result is None else _told(result, copies[0].frames, found.frames),
        warnings=(*(() if result is None else result.warnings), *wrong_channels(found.channels)),
        affine=seen_of.affine,
        bent=seen_of.bent,
        motion=seen_of.motion,
        strain=seen_of.strain,
        channels=found.channels if len(found.channels) > 1 else (),
        free=base.deformation
        and (given is None or given.run is None)
        and not any(item.startswith("landmarks.") for item in overrides),
        template=any(_named(v) for v in volumes.values()),
        engines=tuple(base.engine),
        padding=copies[0].padding,
    )
    judged = diagnose(seen)
    config = load_config(judged.preset or ROUNDS, cluster=cluster, overrides=[*judged.settings, *overrides])
    config, given = beginning(config, volumes)
    sides = of_sides(volumes["fixed"], volumes["moving"], config.affine.similarity, given)
    judged = replace(judged, measured=replace(seen, warnings=(*seen.warnings, *sides)))
    return Look(judged, found.frames, found.answers)


@dataclass(frozen=True, eq=False)
class _Found:
    """A start, and how the images are related after it and bent. `result`: None where none was searched."""

    frames: Frames
    channels: tuple[Channels, ...]
    result: AffineResult | None = None
    answers: tuple[tuple[str, AffineResult], ...] = ()

    @property
    def main(self) -> Channels:
        """The channels whose structure agrees best."""
        return min(self.channels, key=lambda c: np.inf if c.bent.unexplained is None else c.bent.unexplained)

    @property
    def convinces(self) -> bool:
        """Whether no other contrast has to be tried."""
        sure, seen = self.result is None or self.result.confidence >= DOUBTFUL, self.main
        return structure_of(seen.bent) == "shared" or (sure and contrast_of(seen.affine) in ("same", "unknown"))


@dataclass(eq=False)
class Copies:
    """Small copies of a pair of channels: intensities of about 0..1, where they are known, grids."""

    volumes: dict[str, Volume]
    config: Config
    given: GivenStart | None
    pair: Pair
    images: list[np.ndarray] = field(default_factory=list)
    masks: list[np.ndarray | None] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    padding: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.frames = provisional(self.volumes["fixed"], self.volumes["moving"], self.given)
        for which, name in zip(IMAGES, self.pair.images, strict=True):
            limits = intensity_of(self.config, name).low, intensity_of(self.config, name).high
            choice = getattr(self.config.masks, which)
            padding = None
            if choice in (masks.AUTO, masks.PADDING):
                padding = padding_of(self.volumes[which], always=choice == masks.PADDING)
            if padding is not None:
                self.padding[which] = padding
            finite = choice not in (masks.AUTO, masks.PADDING, masks.NONE)
            factors = affine_factors(self.frames, which, self.config.affine.voxels)
            data, known, grid = small_copy(self.volumes[which], factors, finite=finite, padding=padding)
            low, high = percentiles(name, data, *limits, known)
            bright = bright_limit(data if known is None else data[known], high, limits[1])
            scaled = np.minimum((data - low) / (high - low), np.float32(bright))
            if known is not None:  # as in a run, see `start`
                scaled = np.where(known, scaled, scaled[known].mean()).astype(np.float32)
            self.images.append(scaled)
            self.masks.append(without_bright(scaled, known, bright))
            self.grids.append(grid)

    def seen(self, knee: float | None) -> list[Copy]:
        """Both as the affine sees them."""
        known = [None if m is None else torch.as_tensor(m, dtype=torch.float32) for m in self.masks]
        images = [compressed(torch.as_tensor(image), knee) for image in self.images]
        return [Copy(*each) for each in zip(images, known, self.grids, strict=True)]

    def question(self, settings: Affine, both: Sequence[Copy] = (), others: Sequence[Other] = ()) -> Question:
        """What a run with these settings of the affine would ask: of these channels, or of others in their place."""
        both = both or self.seen(settings.knee)
        return question(
            [c.image for c in both], [c.grid for c in both], [c.mask for c in both], self.frames, settings,
            said=said(*self.volumes.values()), start=None if self.given is None else self.given.matrix, others=others,
        )  # fmt: skip

    def frames_of(self, matrix: np.ndarray) -> Frames:
        """The frames of a run with this affine, fixed world to moving world."""
        fixed, moving = (self.volumes[w].grid() for w in IMAGES)
        canonical = self.frames.canonical
        return Frames.from_affine(fixed, moving, canonical, np.linalg.solve(canonical, matrix))


def asked_of(channels: Sequence[Copies], settings: Affine) -> Question:
    """What a run of these channels with these settings of the affine would ask, where it has no labels."""
    first = channels[0]
    seen = [one.seen(settings.knee) for one in channels]
    whole = [as_one([(both[k], one.pair.weight) for both, one in zip(seen, channels, strict=True)]) for k in (0, 1)]
    named = {
        name: copy
        for one, both in zip(channels, seen, strict=True)
        for name, copy in zip(one.pair.images, both, strict=True)
    }
    config = first.config.model_copy(update={"affine": settings})
    return first.question(settings, whole, compared_pairs(config, named, None))


def _found(channels: Sequence[Copies]) -> _Found:
    """The start as `rounds` would search it, or where that does not convince, for any contrast."""
    first = channels[0]
    given, settings = first.given, first.config.affine
    if settings.kind == "none" or (given is not None and given.run is not None):
        matrix = first.frames.canonical if given is None else given.matrix
        return _Found(first.frames_of(matrix), _related(channels, matrix))
    tried = [settings]
    if settings.similarity not in SIGNLESS:
        other = load_config(ATLAS).affine
        tried.append(settings.model_copy(update={"similarity": ANY_CONTRAST, "knee": other.knee}))
    best: _Found | None = None
    refusal: InputError | None = None
    answers: list[tuple[str, AffineResult]] = []
    for each in tried:
        asked = asked_of(channels, each)
        try:
            result = asked.answer()
        except InputError as error:  # by this similarity there is nothing in common
            refusal = refusal or error
            continue
        answers.append((asked.digest, result))
        matrix = first.frames.canonical @ result.matrix
        found = _Found(first.frames_of(matrix), _related(channels, matrix), result)
        if best is None or best.result is None or result.confidence > best.result.confidence:
            best = found
        if best.convinces:
            break
    if best is None:
        assert refusal is not None, "each similarity was refused"
        raise refusal
    return replace(best, answers=tuple(answers))


def _related(channels: Sequence[Copies], matrix: np.ndarray) -> tuple[Channels, ...]:
    """How each pair of channels is related after the affine, fixed world to moving world, and bent."""
    return tuple(Channels(one.pair.number, *_relations(one, matrix)) for one in channels)


def _relations(copies: Copies, matrix: np.ndarray) -> tuple[Relation, Relation, Motion, float | None]:
    """How the images are related after the affine, fixed world to moving world, and bent; what the bending missed; and
    the strain of a softer bending.
    """
    asked = copies.question(Affine())
    placed = [Placed(*each) for each in zip(asked.images, asked.grids, asked.masks, strict=True)]
    spacing = max(max(np.multiply(p.grid.shape, p.grid.spacing)) for p in placed) / SEEN
    fixed, moving = (p.isotropic(spacing) for p in placed)
    f, m = (tissue_level(p.image.numpy(), p.weights.numpy()) for p in (fixed, moving))
    there, seen = moving.on(fixed.grid, np.linalg.solve(copies.frames.canonical, matrix))
    a, b = fixed.image.numpy(), there.numpy()
    inside = ((seen * fixed.weights) > 0).numpy()
    if not inside.any():
        return Relation(None, None, None, 0.0), Relation(None, None, None, 0.0), UNKNOWN, None
    move = bend(a, b, inside, similarity="lncc_squared", regularisation=STIFF)
    bent, known = seen_through(b, inside, move)
    known_in = (fixed.weights > 0).numpy(), (seen > 0).numpy()
    far = motion(a, b, known_in, move)
    where = inside & tissue(a, f)
    soft = strain(bend(a, b, inside, similarity="lncc_squared", regularisation=SOFT), where) if where.any() else None
    return relation(a, b, inside, (f, m)), relation(a, bent, inside & known, (f, m)), far, soft


def _told(result: AffineResult, frames: Frames, found: Frames) -> starts.StartCandidate:
    """The best start, as a run tells it."""
    best = {**vars(result.candidates[0]), "matrix": found.affine}
    return starts.candidates_of({"candidates": [starts.told(best, 1, replace(found, before=frames.before))]})[0]


def _named(volume: Volume) -> bool:
    """Whether the name of an image speaks of an atlas."""
    path = volume.settings.path
    return path is not None and any(word in PurePath(str(path)).name.lower() for word in NAMED)
