"""A short look at two images before they are registered: what kind of pair they are, and so which preset fits.

Both are seen as small copies, as the affine of a run sees them. The start is searched, the same that a run would; what
the affine leaves is bent in one small patch; and how alike both are then, in contrast and in structure, names the
preset (see `diagnosis`). Of masks only `finite` is heeded, and no correction: what a run leaves out is looked at too.
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
from ..context.context import IMAGES, compressed
from ..context.frames import Frames
from ..context.given import GivenStart
from ..context.looked import Question
from ..context.lying import provisional
from ..context.padding import padding_of
from ..tasks.start import affine_factors, of_sides, percentiles, question, said, without_bright
from .copies import small_copy
from .diagnosis import ATLAS, ROUNDS, Diagnosis, Measured, contrast_of, diagnose, structure_of
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
    base, given = beginning(base, volumes)
    copies = Copies(volumes, base, given)
    found = _found(copies)
    result = found.result
    seen = Measured(
        confidence=None if result is None else float(result.confidence),
        least_confidence=0.0 if given is not None else base.affine.least_confidence,
        overlap=None if result is None else float(result.overlap),
        start=None if result is None else _told(result, copies.frames, found.frames),
        warnings=() if result is None else tuple(result.warnings),
        affine=found.affine,
        bent=found.bent,
        motion=found.motion,
        strain=found.strain,
        free=base.deformation
        and (given is None or given.run is None)
        and not any(item.startswith("landmarks.") for item in overrides),
        template=any(_named(v) for v in volumes.values()),
        engines=tuple(base.engine),
        padding=copies.padding,
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
    affine: Relation
    bent: Relation
    motion: Motion
    strain: float | None
    result: AffineResult | None = None
    answers: tuple[tuple[str, AffineResult], ...] = ()

    @property
    def convinces(self) -> bool:
        """Whether no other contrast has to be tried."""
        sure = self.result is None or self.result.confidence >= DOUBTFUL
        return structure_of(self.bent) == "shared" or (sure and contrast_of(self.affine) in ("same", "unknown"))


@dataclass(eq=False)
class Copies:
    """Small copies of both images: intensities of about 0..1, where they are known, grids."""

    volumes: dict[str, Volume]
    config: Config
    given: GivenStart | None
    images: list[np.ndarray] = field(default_factory=list)
    masks: list[np.ndarray | None] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    padding: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.frames = provisional(self.volumes["fixed"], self.volumes["moving"], self.given)
        limits = self.config.intensity.low, self.config.intensity.high
        for which in IMAGES:
            choice = getattr(self.config.masks, which)
            padding = None
            if choice in (masks.AUTO, masks.PADDING):
                padding = padding_of(self.volumes[which], always=choice == masks.PADDING)
            if padding is not None:
                self.padding[which] = padding
            finite = choice not in (masks.AUTO, masks.PADDING, masks.NONE)
            factors = affine_factors(self.frames, which, self.config.affine.voxels)
            data, known, grid = small_copy(self.volumes[which], factors, finite=finite, padding=padding)
            low, high = percentiles(which, data, *limits, known)
            bright = bright_limit(data if known is None else data[known], high, limits[1])
            scaled = np.minimum((data - low) / (high - low), np.float32(bright))
            if known is not None:  # as in a run, see `start`
                scaled = np.where(known, scaled, scaled[known].mean()).astype(np.float32)
            self.images.append(scaled)
            self.masks.append(without_bright(scaled, known, bright))
            self.grids.append(grid)

    def question(self, settings: Affine) -> Question:
        """What a run with these settings of the affine would ask."""
        images = [compressed(torch.as_tensor(image), settings.knee) for image in self.images]
        seen = [None if m is None else torch.as_tensor(m, dtype=torch.float32) for m in self.masks]
        return question(
            images, self.grids, seen, self.frames, settings, said=said(*self.volumes.values()),
            start=None if self.given is None else self.given.matrix,
        )  # fmt: skip

    def frames_of(self, matrix: np.ndarray) -> Frames:
        """The frames of a run with this affine, fixed world to moving world."""
        fixed, moving = (self.volumes[w].grid() for w in IMAGES)
        canonical = self.frames.canonical
        return Frames.from_affine(fixed, moving, canonical, np.linalg.solve(canonical, matrix))


def _found(copies: Copies) -> _Found:
    """The start as `rounds` would search it, or where that does not convince, for any contrast."""
    given, settings = copies.given, copies.config.affine
    if settings.kind == "none" or (given is not None and given.run is not None):
        matrix = copies.frames.canonical if given is None else given.matrix
        return _Found(copies.frames_of(matrix), *_relations(copies, matrix))
    tried = [settings]
    if settings.similarity not in SIGNLESS:
        other = load_config(ATLAS).affine
        tried.append(settings.model_copy(update={"similarity": ANY_CONTRAST, "knee": other.knee}))
    best: _Found | None = None
    refusal: InputError | None = None
    answers: list[tuple[str, AffineResult]] = []
    for each in tried:
        asked = copies.question(each)
        try:
            result = asked.answer()
        except InputError as error:  # by this similarity there is nothing in common
            refusal = refusal or error
            continue
        answers.append((asked.digest, result))
        matrix = copies.frames.canonical @ result.matrix
        found = _Found(copies.frames_of(matrix), *_relations(copies, matrix), result)
        if best is None or best.result is None or result.confidence > best.result.confidence:
            best = found
        if best.convinces:
            break
    if best is None:
        assert refusal is not None, "each similarity was refused"
        raise refusal
    return replace(best, answers=tuple(answers))


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
