"""Whether two images fit better on other axes than their orientations say: all 24 orders, and their mirror images.

The start is searched under all rotations, whoever stated the orientations: the axes that it comes out on are compared
with those that were stated. Mirror images are named only: a body is nearly its own, so they fit nearly as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...config import Config
from ...engines.affine import SURE, Candidate
from ...engines.belief import MIRROR_MARGIN
from ...errors import InputError
from ...transforms.affine import nearest_axis_turn, signed_permutation
from ...volumes import Volume
from ..context import starts
from ..context.beginning import beginning
from ..context.channels import pairs
from ..context.context import IMAGES
from ..context.lying import provisional
from ..tasks.start import affine_factors
from .copies import unreadable
from .look import Copies

_OPPOSITE = dict(zip("apsilr", "paisrl", strict=True))


@dataclass(frozen=True, eq=False)
class BetterAxes:
    """Axes on which fixed and moving fit better than on those that are stated.

    fixed, moving   the codes that one of them would have where the other's is right; the best first, and after it the
                    mirror image where that fits about as well
    score, stated   how well they fit there, and as stated (0: not at all)
    picture         a PNG of both
    """

    fixed: tuple[str, ...]
    moving: tuple[str, ...]
    score: float
    stated: float
    picture: bytes


def better_axes(volumes: dict[str, Volume], config: Config) -> BetterAxes | None:
    """Axes that fit clearly better than the stated ones of `fixed` and `moving`, which both have an orientation.

    None where the stated ones fit best, where it cannot be told, and where a start is given. Reads small copies.
    """
    config, given = beginning(config, volumes)
    if given is not None:
        return None
    settings = config.affine
    if settings.kind in ("none", "translation"):
        settings = settings.model_copy(update={"kind": "rigid"})
    copies = Copies(volumes, config, None, pairs(config)[0])
    asked = copies.question(settings)
    try:
        result = replace(asked, settings={**asked.settings, "within_deg": 180.0, "allow_mirror": False}).answer()
    except InputError:  # nothing in common: the run says so
        return None
    orders: dict[bytes, tuple[np.ndarray, Candidate]] = {}
    for candidate in sorted(result.candidates, key=lambda c: -c.score):
        turn = nearest_axis_turn(candidate.matrix)
        orders.setdefault(turn.tobytes(), (turn, candidate))
    same = orders.get(np.eye(3).tobytes())
    stated = 0.0 if same is None else same[1].score
    ranked = sorted(orders.values(), key=lambda order: -order[1].score / (MIRROR_MARGIN if order[1].mirrored else 1.0))
    turn, best = ranked[0]
    clear = best.score > MIRROR_MARGIN * stated and (best.mirrored or result.confidence >= SURE)
    if np.array_equal(turn, np.eye(3)) or not clear:
        return None
    near = [order for order in ranked[1:] if order[1].mirrored != best.mirrored and order[1].score > best.score * 0.95]
    turns = [turn, *(other for other, _ in near)]
    said = [str(volumes[which].orientation) for which in IMAGES]
    codes = [codes_after(said[0], said[1], each) for each in turns]
    shown = [("fits best", best), *(("mirrored", c) for _, c in near), *([("as stated", same[1])] if same else [])]
    png = starts.drawn(
        "Other axes than stated fit better", copies.images, copies.grids,
        [([f"{what}: score {c.score:.2f}"], copies.frames.canonical @ c.matrix) for what, c in shown],
    )  # fmt: skip
    return BetterAxes(tuple(c[0] for c in codes), tuple(c[1] for c in codes), best.score, stated, png)


def unseen(volumes: dict[str, Volume], config: Config) -> str:
    """Why small copies of fixed and moving are not made: too much would be read. Empty where they can be."""
    config, given = beginning(config, volumes)
    frames = provisional(volumes["fixed"], volumes["moving"], given)
    reasons = (unreadable(volumes[which], affine_factors(frames, which, config.affine.voxels)) for which in IMAGES)
    return next((reason for reason in reasons if reason is not None), "")


def codes_after(fixed: str, moving: str, turn: np.ndarray) -> tuple[str, str]:
    """The code that fixed would have where moving's is right, and that of moving where fixed's is.

    turn   (3, 3) signed permutation, from fixed to the frame of moving whose axes run like those of fixed
    """
    return _turned(fixed, turn), _turned(fixed, (signed_permutation(moving, fixed, np.zeros(3))[:3, :3] @ turn).T)


def _turned(code: str, turn: np.ndarray) -> str:
    """The sides at which axes start that are `turn` of those of `code`: a column an axis."""
    along: Sequence[int] = np.abs(turn).argmax(0)
    return "".join(code[j] if turn[j, i] > 0 else _OPPOSITE[code[j]] for i, j in enumerate(along))
