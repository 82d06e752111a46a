"""The frames of a run and the affine maps between them.

    fixed world --half--> mid-space --half--> canonical moving world --canonical--> moving world

Canonical moving coordinates have their axes along the fixed image's: by the orientation codes, and by the turn of axes
that is nearest to the affine, a mirror image included. So the affine between fixed and canonical is at most a rotation
of 63 degrees with a stretch, it has a principal square root `half`, and each image carries half of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...geometry import Grid
from ...transforms.affine import about, apply_affine, nearest_axis_turn, principal_sqrt
from .channels import side


@dataclass(frozen=True, eq=False)
class Frames:
    """Level-0 grids of both images, `canonical` (canonical moving to moving world) and `half`; 4 x 4, um.

    `before` takes the fixed world to the moving world before registration: by the orientation codes alone.
    """

    fixed: Grid
    moving: Grid
    canonical: np.ndarray
    half: np.ndarray
    before: np.ndarray = field(default_factory=lambda: np.eye(4))

    @classmethod
    def from_affine(cls, fixed: Grid, moving: Grid, canonical: np.ndarray, affine: np.ndarray) -> Frames:
        """Any affine from the fixed world to the canonical moving world of the orientation codes.

        Its nearest turn of axes, about the middle of the moving image, becomes a part of the frames' own `canonical`.
        Raises ValueError for an affine that is singular.
        """
        turn = nearest_axis_turn(affine)
        before = canonical
        if not np.array_equal(turn, np.eye(3)):
            middle = apply_affine(np.linalg.inv(canonical), np.mean(moving.bounds(), axis=0))
            own = about(turn, np.abs(turn).T @ middle, middle)
            canonical, affine = canonical @ own, np.linalg.inv(own) @ affine
        return cls(fixed, moving, canonical, principal_sqrt(affine), before)

    @property
    def mirrors(self) -> bool:
        """Whether the affine is a reflection of what the orientation codes say."""
        return bool(np.linalg.det(np.linalg.solve(self.before, self.affine)[:3, :3]) < 0)

    @property
    def affine(self) -> np.ndarray:
        """Fixed world to moving world."""
        return self.canonical @ self.half @ self.half

    def mid_to(self, which: str) -> np.ndarray:
        """Mid-space to the world of `fixed` or `moving`, or of an image of that side."""
        return np.linalg.inv(self.half) if side(which) == "fixed" else self.canonical @ self.half

    def to_mid(self, which: str) -> np.ndarray:
        """The world of `fixed` or `moving` to mid-space."""
        return self.half if side(which) == "fixed" else np.linalg.inv(self.canonical @ self.half)

    def grid(self, which: str) -> Grid:
        return self.fixed if side(which) == "fixed" else self.moving

    def mid_spacing(self, which: str) -> np.ndarray:
        """Spacing of an image along the axes of mid-space, um: of rotations half is left there, so axes keep names."""
        if which == "fixed":
            return axis_spacing(self.fixed)
        return np.abs(self.canonical[:3, :3]).T @ axis_spacing(self.moving)

    def domain(self) -> tuple[np.ndarray, np.ndarray]:
        """The box in mid-space (um) around both images."""
        boxes = [self.grid(which).bounds(self.to_mid(which), faces=True) for which in ("fixed", "moving")]
        return np.minimum(boxes[0][0], boxes[1][0]), np.maximum(boxes[0][1], boxes[1][1])

    def to_json(self) -> dict:
        return {
            "fixed": self.fixed.to_json(),
            "moving": self.moving.to_json(),
            "canonical": self.canonical.tolist(),
            "half": self.half.tolist(),
            "before": self.before.tolist(),
        }

    @classmethod
    def from_json(cls, data: dict) -> Frames:
        return cls(
            Grid.from_json(data["fixed"]),
            Grid.from_json(data["moving"]),
            np.asarray(data["canonical"]),
            np.asarray(data["half"]),
            np.asarray(data.get("before", data["canonical"])),  # a run of before it was kept
        )


def axis_spacing(grid: Grid) -> np.ndarray:
    """Spacing along the world axes (z, y, x), um: of the index axis that runs nearest to each."""
    direction = np.abs(grid.affine[:3, :3] / np.asarray(grid.spacing))
    return np.array([grid.spacing[int(row.argmax())] for row in direction])
