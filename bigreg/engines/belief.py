"""How sure a start is, from how well it fits and how far it stands out.

The numbers were set by hand on a few dozen right and wrong starts of heads, brains and cells; they are not fitted, and
too low for noisy and tiny images.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy import special


@dataclass(frozen=True)
class Belief:
    """How the confidence follows from the score of a start and from the gap to its best rival.

    enough      a score that could not be better: a start that fits so well may still have a rival that does
    unrelated   the score that a wrong start reaches where all rotations were searched; unsearched: where they were not
    """

    bias: float
    by_score: float
    by_gap: float
    enough: float
    unrelated: float
    unsearched: float

    def __call__(self, score: float, rival: float, searched: bool) -> float:
        rival = max(rival, self.unrelated if searched else self.unsearched)
        gap = 1.0 - rival / max(score, 1e-6)
        return float(special.expit(self.bias + self.by_score * min(score, self.enough) + self.by_gap * gap))


SIGNED = Belief(-6.0, 5.0, 15.0, 1.0, 0.3, 0.5)
DIRECTIONS = Belief(-12.0, 15.0, 16.0, 0.78, 0.5, 0.7)
