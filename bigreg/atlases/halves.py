"""Whether the halves of a brain come out as unlike as they cannot be: an atlas that lies wrongly shows there first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import named
from .regions import Row
from .source import LEFT, RIGHT, Atlas

APART = 0.2
"""By what part of the larger half the two of a brain may differ."""
SYMMETRIC = 0.05
"""By what part those of an atlas that is taken to be symmetric differ at most."""
PLANES, POINTS = 40, 2000
"""Planes of an annotation that are looked at, and about how many voxels across each of their axes."""


def halves_of(atlas: Atlas) -> tuple[int, int]:
    """How many voxels of an atlas's annotation lie left and right, of some planes spread over it."""
    annotation, counts = atlas.annotation, np.zeros(2, np.int64)
    grid = annotation.grid()
    depth, height, width = grid.shape
    step = max(1, height // POINTS, width // POINTS)
    for z in sorted({round(float(v)) for v in np.linspace(0, depth - 1, min(PLANES, depth))}):
        plane = annotation.read((z, 0, 0), (z + 1, height, width))[0, ::step, ::step]
        y, x = np.nonzero(plane)
        sides = atlas.sides_of(grid.index_to_world(np.stack([np.full(len(y), z), y * step, x * step], axis=1)))
        counts += [int((sides == LEFT).sum()), int((sides == RIGHT).sum())]
    return int(counts[0]), int(counts[1])


def warning_of_halves(rows: Sequence[Row], atlas: Atlas) -> str:
    """One sentence where the halves of the brain are further apart than a symmetric atlas has them; or nothing."""
    left, right = (sum(row[f"volume_{side}_mm3"] for row in rows if row["depth"] == 0) for side in ("left", "right"))
    if not max(left, right) > 0 or abs(left - right) <= APART * max(left, right):
        return ""
    own = halves_of(atlas)
    if not min(own) or abs(own[0] - own[1]) > SYMMETRIC * max(own):
        return ""
    asked = named("--atlas-orientation", "local_atlas's orientation")
    own_asked = named("--orientation", "open_volume's orientation")
    return (
        f"the left half of the brain has {left:.4g} mm3 and the right one {right:.4g}, though the atlas is symmetric: "
        "look at the borders over the tissue. If they do not fit, the orientation of the atlas ("
        f"{asked}, now {atlas.template.orientation}) or of the brain ({own_asked}) is wrong; if "
        "they do, tissue is missing"
    )
