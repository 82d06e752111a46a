"""How sure a start is: how far it stands out among maps that are known to be wrong."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from scipy import special

from ..transforms.affine import about, polar_rotation, translation
from .detail import Detail, detail_in_place
from .judge import Judge, Start
from .placed import Placed
from .rotations import apart_deg, spread
from .starts import moments, wide_search
from .structure import Kind

HALF, SLOPE = 0.25, 40.0  # the lead over the best rival at which a start is as likely right as wrong, and how sharply
OVERFIT = 0.05  # of the score: what a refinement gains where nothing corresponds
WRONG_ROTATIONS = 60  # 40 to 50 degrees apart; those nearer than so many degrees to the start are left out:
NEAR_DEG = 30.0
MIRROR_MARGIN = 1.12  # a mirror image fits clearly better from this ratio of scores on: two sides are nearly alike


class Belief:
    """The confidence of the starts of one pair."""

    def __init__(
        self, judge: Judge, fixed: Placed, moving: Placed, kind: Kind, min_overlap: float, within_deg: float
    ) -> None:
        self.judge, self.within_deg = judge, within_deg
        self._search = lambda: wide_search(fixed, moving, kind, min_overlap)
        self._wrong: list[tuple[np.ndarray, float]] | None = None
        self._images = fixed, moving
        self._details: dict[bytes, Detail | None] = {}

    def __call__(self, best: Start, others: Collection[Start]) -> float:
        """0 .. 1 by how much less well its best rival fits, per root of how far the start stands above chance.

        The lead is a difference of Fisher's z: where hardly more than chance is in common a small one decides, and
        where nearly everything fits, as in a body that is much like itself turned by half, it has to be larger.
        Rivals are the other starts, the best shifts under rotations spread over all, and the start itself turned by
        half a turn or shifted by a quarter of the image, where outlines still fit and what is inside does not.
        """
        if best.score <= 0:
            return 0.0
        # Two sides of a body are nearly mirror images: such a rival counts where it fits clearly better.
        rivals = [s.score for s in others if s.mirrored == best.mirrored]
        rivals += [s.score / MIRROR_MARGIN for s in others if s.score > MIRROR_MARGIN * best.score]
        chance = self._chance(best)
        rivals += [s.score for s in self._spoilt(best.matrix)] + chance
        above = best.score - float(np.mean(chance) if chance else 0.0) + OVERFIT
        return float(special.expit(SLOPE * ((best.score - max(rivals)) / above**0.5 - HALF))) if above > 0 else 0.0

    def detail(self, matrix: np.ndarray) -> Detail | None:
        """Whether fine detail agrees under a map that is refined to the end; None where it cannot tell.

        Bright may go with dark in another contrast, and so may detail with nothing.
        """
        key = matrix.tobytes()
        if key not in self._details:
            self._details[key] = None if self.judge.signless else detail_in_place(*self._images, matrix)
        return self._details[key]

    def _chance(self, best: Start) -> list[float]:
        if self._wrong is None:
            search = self._search()
            self._wrong = [
                (turn, self.judge("chance", matrix).score)
                for turn in spread(WRONG_ROTATIONS)
                for _, matrix in search(turn)
            ]
        turn = polar_rotation(best.matrix)
        turn *= np.linalg.det(turn)
        return [score for other, score in self._wrong if apart_deg(other, turn) > NEAR_DEG]

    def _spoilt(self, matrix: np.ndarray) -> list[Start]:
        """The map made wrong in known ways: by half turns about the principal axes of fixed, and by large shifts."""
        centre, axes = moments(self.judge.fixed)
        halves = range(3) if self.within_deg >= 180.0 else ()  # a person has said that it is none of these
        turns = [about(axes @ np.diag(1.0 - 2.0 * (np.arange(3) != k)) @ axes.T, centre) for k in halves]
        extent = np.multiply(self.judge.fixed.grid.shape, self.judge.fixed.grid.spacing)
        shifts = [translation(0.25 * sign * extent * (np.arange(3) == axis)) for axis in range(3) for sign in (1, -1)]
        return [self.judge("spoilt", matrix @ spoil) for spoil in turns + shifts]
