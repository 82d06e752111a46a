"""The global affine: many starts, the best by what the images show, refined symmetrically in mid-space.

The starts near the way the images lie come first. Where none of them convinces, all rotations are searched; where that
does not either, the mirror image of moving is looked at, so that it can be named.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import torch

from ..errors import InputError
from ..geometry import Grid
from ..similarity import Similarity
from ..transforms.affine import about, angle_deg, nearest_axis_turn, polar_rotation
from .affine_refinement import Compared, Kind, Refinement
from .belief import Belief
from .judge import Judge, Start
from .placed import Placed, digest, placed
from .starts import METHODS, bright, find_anywhere, find_near, find_starts, moments
from .structure import Kind as Structure

STAGES: dict[Kind, tuple[Kind, ...]] = {
    "translation": ("translation",),
    "rigid": ("rigid",),
    "similarity": ("rigid", "similarity"),
    "affine": ("rigid", "similarity", "affine"),
}
FOLLOWED = 5  # starts that are refined before one is chosen
FOLLOWED_ANYWHERE = 8  # of those under all rotations
AMBIGUOUS = 0.03  # share of the best score within which another place is as good
SIGNLESS = ("lncc_squared", "mi", "nmi")  # similarities that do not care which image is bright where
SURE = 0.95  # of the confidence: nothing else is looked for
DOUBTFUL = 0.5  # of the confidence: the mirror image is looked for under all rotations
NEARLY = 0.9  # of the best score: a rival that is compared again after the last refinement
LEAST_EDGE = 8  # voxels that every edge keeps on the coarser rungs
FINISHED = 3  # starts that are refined to the end, where the best does not convince
GIVEN = "given"
MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Candidate:
    """A start after its first refinement. `matrix`: fixed world to moving world (4 x 4, um zyx).

    correlation   of the structure on the overlap; local: mean over windows; overlap: share of the smaller image
    similarity    1 - mean loss, as the refinement sees it
    score         by which candidates are compared
    mirrored      it lays the mirror image of moving on fixed
    """

    name: str
    matrix: np.ndarray
    correlation: float
    local: float
    overlap: float
    similarity: float
    score: float
    mirrored: bool

    def inverted(self) -> Candidate:
        return replace(self, matrix=np.linalg.inv(self.matrix))


@dataclass(frozen=True, eq=False)
class AffineResult:
    """`matrix`: fixed world to moving world (4 x 4, um zyx).

    start        name of the start that was chosen
    similarity   1 - mean loss on the overlap; overlap: share of the smaller image
    candidates   the starts that were followed and lie apart; the chosen one first, the others best first
    confidence   0 .. 1: how sure it is that the start is right
    ambiguous    another start, in another place, is nearly as good
    mirrored     the map is a reflection
    warnings     what a person should look at
    """

    matrix: np.ndarray
    start: str
    similarity: float
    overlap: float
    candidates: list[Candidate]
    confidence: float
    ambiguous: bool
    mirrored: bool = False
    warnings: list[str] = field(default_factory=list)


def register_affine(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    fixed_grid: Grid,
    moving_grid: Grid,
    *,
    fixed_mask: torch.Tensor | None = None,
    moving_mask: torch.Tensor | None = None,
    kind: Kind = "affine",
    similarity: Similarity,
    starts: Collection[str] = METHODS,
    rotations_deg: float = 10.0,
    min_overlap: float = 0.2,
    within_deg: float = 180.0,
    allow_mirror: bool = False,
    start: np.ndarray | None = None,
    pairs: Sequence[Compared] = (),
) -> AffineResult:
    """Find the affine between two coarse images (z, y, x) of intensities about 0..1 on axis-aligned grids.

    fixed_mask, moving_mask   (z, y, x), above 0 where an image has data; None = everywhere
    starts                    which of "identity", "centres", "moments", "shifts", "rotations" are tried
    rotations_deg             the shifts are searched under rotations up to this first; "rotations" are all of them
    min_overlap               share of the smaller image that must stay inside the other
    within_deg                rotations that turn by more are not among "rotations"
    allow_mirror              whether the mirror image of moving may be chosen
    start                     fixed world to moving world (4 x 4, um) to begin with, in place of any search
    pairs                     channels and labels, in the same worlds: where there are some the refinement compares
                              these, and `fixed` and `moving`, the images as one, are what starts are searched with

    It works on the CPU: the images are small, and on one machine one thread gives the same bits each time. Raises
    InputError for a blank image, and where no start has `min_overlap` and a positive correlation.
    """
    if kind not in STAGES:
        raise ValueError(f"kind {kind!r} is unknown; use one of {', '.join(STAGES)}")
    if not starts or not set(starts) <= set(METHODS):
        raise ValueError(f"starts {tuple(starts)} must be some of {', '.join(METHODS)}")
    pair = [placed("fixed", fixed, fixed_grid, fixed_mask), placed("moving", moving, moving_grid, moving_mask)]
    # The order of the two images is decided by their content, not by who is called fixed. So exchanging them runs the
    # very same computation and gives the very inverse, whatever the search and its ties do. (The refinement is
    # symmetric by itself, but the choice among starts sees one image on the other's grid.)
    swapped = digest(pair[0]) > digest(pair[1])
    if swapped:
        pair.reverse()
        pairs = [each.swapped() for each in pairs]
    if start is not None and swapped:
        start = np.linalg.inv(start)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums are added in one order, and transforms so small are slower on several
    try:
        with torch.no_grad():
            affine = _Affine(pair[0], pair[1], kind, similarity, min_overlap, within_deg, pairs)
            result = affine.found(starts, rotations_deg, allow_mirror, start)
    finally:
        torch.set_num_threads(threads)
    if not swapped:
        return result
    return replace(result, matrix=np.linalg.inv(result.matrix), candidates=[c.inverted() for c in result.candidates])


@dataclass(frozen=True, eq=False)
class _Followed:
    """A start after its refinement on the coarsest rung."""

    start: Start
    matrix: np.ndarray
    similarity: float
    overlap: float
    warnings: list[str]

    @property
    def score(self) -> float:
        return self.start.score

    def candidate(self) -> Candidate:
        s = self.start
        return Candidate(
            s.name, s.matrix, float(s.correlation), float(s.local), float(s.overlap), self.similarity, s.score,
            s.mirrored,
        )  # fmt: skip


class _Affine:
    """The search for one pair of images."""

    def __init__(
        self, fixed: Placed, moving: Placed, kind: Kind, similarity: Similarity, min_overlap: float, within_deg: float,
        pairs: Sequence[Compared] = (),
    ) -> None:  # fmt: skip
        self.pairs = pairs
        self.fixed, self.moving, self.kind = fixed, moving, kind
        self.similarity, self.min_overlap, self.within_deg = similarity, min_overlap, within_deg
        self.signless = any(one.name in SIGNLESS for one in (similarity, *(p.similarity for p in pairs)))
        self.kinds: tuple[Structure, ...] = ("band", "directions") if self.signless else ("band", "rank")
        self.judge = Judge(fixed, moving, self.signless)
        self.belief = Belief(self.judge, fixed, moving, self.kinds[0], min_overlap, within_deg)
        self.extent = _extent(self.judge.fixed)
        self.rungs = _rungs(fixed, moving)
        self._refinements: dict[tuple, Refinement] = {}
        self._finished: dict[_Followed, _Followed] = {}

    def found(
        self, methods: Collection[str], rotations_deg: float, allow_mirror: bool, given: np.ndarray | None
    ) -> AffineResult:
        if given is not None:
            followed = self._follow([self.judge(GIVEN, given)], 1)
            return self._result(followed, allow_mirror=True)
        anywhere = "rotations" in methods and self.kind != "translation"
        turns = 0.0 if self.kind == "translation" else rotations_deg
        found = find_starts(self.judge, self.fixed, self.moving, self.kinds, turns, self.min_overlap, methods)
        followed = self._follow(found, FOLLOWED)
        for structure in self.kinds if anywhere else ():
            if self._confidence(followed) >= SURE:
                break
            more = find_anywhere(self.judge, self.fixed, self.moving, structure, self.min_overlap, self.within_deg)
            found += more
            followed = self._apart(followed + self._follow(more, FOLLOWED_ANYWHERE))
        if not found:
            raise InputError(
                f"fixed and moving have nothing in common where at least {self.min_overlap:.0%} of the smaller one "
                "overlaps; check orientation, spacing and channel, or lower affine.min_overlap"
            )
        if followed and anywhere:
            followed = self._apart(followed + self._mirrored(followed))
        return self._result(followed, allow_mirror)

    def _mirrored(self, followed: list[_Followed]) -> list[_Followed]:
        """Candidates for the mirror image of moving: near what was found, and where that does not convince, all."""
        mirrored = self.moving.turned(MIRROR[:3, :3])
        judge = Judge(self.fixed, mirrored, self.signless)
        near = reversals(polar_rotation(followed[0].matrix))
        found = find_near(judge, self.fixed, mirrored, self.kinds[0], near, self.min_overlap)
        if self._confidence(followed) < DOUBTFUL and self.within_deg >= 180.0:
            found += find_anywhere(judge, self.fixed, mirrored, self.kinds[0], self.min_overlap)
        found = [self.judge("mirrored, " + s.name, MIRROR @ s.matrix) for s in found]
        return self._follow(sorted(found, key=lambda s: -s.score), FOLLOWED)

    def _refinement(self, turn: np.ndarray, spacing: np.ndarray) -> Refinement:
        key = tuple(turn.ravel()), tuple(spacing)
        if key not in self._refinements:
            moving, pairs = self.moving, self.pairs
            if not np.array_equal(turn, np.eye(3)):
                moving, pairs = moving.turned(turn), [pair.turned(turn) for pair in pairs]
            self._refinements[key] = Refinement(
                self.fixed, moving, spacing, self.similarity, self.min_overlap, pairs
            )  # fmt: skip
        return self._refinements[key]

    def _refined(
        self, name: str, matrix: np.ndarray, rung: np.ndarray, stages: tuple[Kind, ...], warnings: list[str]
    ) -> _Followed | None:
        """The best of what the stages find, in the frame where moving's axes run most nearly along those of fixed."""
        turn = nearest_axis_turn(matrix)
        back = about(turn.T, np.zeros(3))
        found = self._refinement(turn, rung).staged(back @ matrix, stages, warnings)
        there = about(turn, np.zeros(3))
        followed = [_Followed(self.judge(name, there @ m), there @ m, s, o, warnings) for m, s, o in found]
        return max(followed, key=lambda f: f.score, default=None)

    def _follow(self, starts: list[Start], number: int) -> list[_Followed]:
        """The best few starts that lie apart, refined on the coarsest rung; best first."""
        chosen: list[Start] = []
        for start in starts:
            if len(chosen) == number:
                break
            if all(_distance(start.matrix, other.matrix, self.extent) > 3 * self.judge.spacing for other in chosen):
                chosen.append(start)
        followed = []
        for start in chosen:
            warnings: list[str] = []
            refined = self._refined(start.name, start.matrix, self.rungs[0], STAGES[self.kind], warnings)
            if refined is not None and (refined.score > 0 or start.name == GIVEN):
                followed.append(refined)
        return self._apart(followed)

    def _apart(self, followed: list[_Followed]) -> list[_Followed]:
        """Those that lie apart, best first."""
        kept: list[_Followed] = []
        for each in sorted(followed, key=lambda f: -f.score):
            if all(_distance(each.matrix, k.matrix, self.extent) > 3 * self.judge.spacing for k in kept):
                kept.append(each)
        return kept

    def _confidence(self, followed: list[_Followed]) -> float:
        """How sure it is that the first of the followed starts is right, 0 .. 1."""
        if not followed:
            return 0.0
        first = followed[0]
        belief = self.belief(first.start, [f.start for f in followed[1:]])
        if belief < DOUBTFUL or first.start.name == GIVEN:  # a doubtful one is not made surer by its detail
            return belief
        detail = self.belief.detail(self._finely(first).matrix)
        return belief if detail is None else min(belief, detail.trust)

    def _result(self, followed: list[_Followed], allow_mirror: bool) -> AffineResult:
        eligible = [f for f in followed if allow_mirror or not f.start.mirrored]
        if not eligible:
            raise InputError(
                f"every start lost the overlap of {self.min_overlap:.0%} when it was refined; "
                "check orientation, spacing and channel, or lower affine.min_overlap"
            )
        first, rest = self._finely(eligible[0]), [f for f in followed if f is not eligible[0]]
        if self._confidence([first, *rest]) < SURE or any(f.score > NEARLY * first.score for f in rest):
            # Where that decides too little, the best few are refined to the end before one is chosen.
            few = [*eligible[1:FINISHED], *[f for f in rest if f not in eligible][:1]]
            rest = [*(self._finely(f) for f in few), *(f for f in rest if f not in few)]
        followed = self._apart([first, *rest])
        eligible = [f for f in followed if allow_mirror or not f.start.mirrored]
        equals = [f for f in eligible if f.score >= eligible[0].score * (1.0 - AMBIGUOUS)]
        # Of places that the images do not tell apart, the one that turns least is the likeliest.
        chosen = min(equals, key=lambda f: (round(_turn_deg(f.matrix) / 5.0), -f.score))
        others = [f for f in followed if f is not chosen]
        warnings = list(chosen.warnings)
        ambiguous = len(equals) > 1
        if ambiguous:
            warnings.append(
                "starts in different places are nearly equally good; judge the overlay, or narrow the search"
            )
        better = [f for f in others if f.start.mirrored and not allow_mirror and f.score > chosen.score]
        if better:
            warnings.append(
                f"the mirror image of moving fits better (score {better[0].score:.3f} against {chosen.score:.3f}); "
                "check the order of its axes and slices, or set affine.allow_mirror=true"
            )
        detail = None if chosen.start.name == GIVEN else self.belief.detail(self._finely(chosen).matrix)
        if detail is not None and detail.trust < DOUBTFUL:
            warnings.append(detail.warning)
        return AffineResult(
            chosen.matrix, chosen.start.name, float(chosen.similarity), float(chosen.overlap),
            [f.candidate() for f in (chosen, *others)], self._confidence([chosen, *others]), ambiguous,
            chosen.start.mirrored, warnings,
        )  # fmt: skip

    def _finely(self, followed: _Followed) -> _Followed:
        """The same after the finer rungs."""
        if followed in self._finished:
            return self._finished[followed]
        found, name, warnings = followed, followed.start.name, list(followed.warnings)
        for spacing in self.rungs[1:]:
            for stage in reversed(STAGES[self.kind]):
                refined = self._refined(name, found.matrix, spacing, (stage,), warnings)
                if refined is not None:
                    found = refined
                    break
        self._finished[followed] = self._finished[found] = found
        return found


def reversals(turn: np.ndarray) -> list[np.ndarray]:
    """Rotations onto the mirror image of moving where one of the images is reversed along an axis of its own.

    So is a stack that is written the wrong way round, be it fixed or moving. `turn`: fixed to moving.
    """
    flips = [np.diag(1.0 - 2.0 * (np.arange(3) == axis)) for axis in range(3)]
    return [MIRROR[:3, :3] @ linear for flip in flips for linear in (turn @ flip, flip @ turn)]


def _rungs(fixed: Placed, moving: Placed) -> list[np.ndarray]:
    """Spacings (um) coarse to fine; the last is each axis's coarser one of the two images."""
    native = np.maximum(fixed.grid.spacing, moving.grid.spacing)
    extent = np.minimum(*(np.multiply(p.grid.shape, p.grid.spacing) for p in (fixed, moving)))
    even = float(np.prod(native)) ** (1 / 3)
    rungs: list[np.ndarray] = []
    for factor in (4, 2, 1):
        # A thin image keeps its planes.
        spacing = np.maximum(native, np.minimum(factor * even if factor > 1 else 0.0, extent / LEAST_EDGE))
        if not rungs or (spacing < rungs[-1] * 0.99).any():
            rungs.append(spacing)
    return rungs


def _distance(a: np.ndarray, b: np.ndarray, points: np.ndarray) -> float:
    """Mean distance (um) between where two maps take points (N, 3)."""
    return float(np.linalg.norm(points @ (a - b)[:3, :3].T + (a - b)[:3, 3], axis=1).mean())


def _extent(placed: Placed) -> np.ndarray:
    """(8, 3) corners (um) of the box whose second moments are those of what is bright."""
    centre, axes = moments(placed)
    points, weight = bright(placed)
    half = np.sqrt(3.0 * weight @ ((points - centre) @ axes) ** 2)
    return centre + (np.array(list(product((-1.0, 1.0), repeat=3))) * half) @ axes.T


def _turn_deg(matrix: np.ndarray) -> float:
    """The angle of the rotation that is nearest to an affine's linear part."""
    turn = polar_rotation(matrix)
    return angle_deg(turn * np.linalg.det(turn))
