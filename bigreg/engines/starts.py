"""Where a global registration may start: all shifts under rotations, centres of mass, principal axes, identity.

First near the way the images lie, which is where most lie; and where nothing there is convincing, under all rotations:
coarse to fine as for global gradient fields (Ofverstedt, Lindblad, Sladoje, 2022), a spread of rotations with the best
shift of each by FFT, then smaller and smaller rotations around the best of them.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import product

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from ..geometry import Grid
from ..transforms.affine import about, angle_deg, polar_rotation, translation
from ..transforms.positions import Positions
from .judge import Judge, Start, evidence
from .placed import Placed, sampled
from .rotations import apart_deg, around, spread
from .shifts import ShiftSearch
from .structure import Kind, structure, turned_channels

METHODS = ("identity", "centres", "moments", "shifts", "rotations")
ROTATION_STEP = 15.0  # degrees at most between the rotations that are tried near the images' own axes
MAX_TURN = 45.0  # principal axes that differ by more are another pairing of the axes
NEAR_VOXELS = 40  # along the longest axis of the copies whose shifts are searched near the images' own axes
WIDE_VOXELS = 24  # and under all rotations,
WIDE_LEAST = 16  # where the smaller image keeps so many
WIDE_MOST = 56  # as long as the larger one has no more
WIDE_ROTATIONS = 400  # 20 to 30 degrees apart
WIDE_STEPS = ((14.0, 8), (7.0, 4))  # degrees around the best so many
WIDE_KEPT = 5  # of each kind of structure
WIDE_OVERLAP = 0.35  # share of the smaller image, at least


def find_starts(
    judge: Judge, fixed: Placed, moving: Placed, kinds: Collection[Kind], rotations_deg: float, min_overlap: float,
    methods: Collection[str] = METHODS,
) -> list[Start]:  # fmt: skip
    """Candidates near the way the images lie, of enough overlap and positive correlation, best first."""
    found: list[Start] = []
    if "identity" in methods:
        found.append(judge("before registration", np.eye(4)))
    (cf, af), (cm, am) = moments(judge.fixed), moments(judge.moving)
    if "centres" in methods:
        found.append(judge("centres of mass", translation(cm - cf)))
    extent = max(max(np.multiply(p.grid.shape, p.grid.spacing)) for p in (fixed, moving))
    for kind in kinds:
        search = TurnedSearch(fixed, moving, kind, extent / NEAR_VOXELS, min_overlap)
        if "moments" in methods and rotations_deg > 0:
            for signs in product((1.0, -1.0), repeat=3):
                turn = am @ np.diag(signs) @ af.T
                # Four of the eight choices of sign are rotations; at most one of them is a small one.
                if np.linalg.det(turn) > 0 and Rotation.from_matrix(turn).magnitude() <= np.deg2rad(MAX_TURN):
                    found.append(judge("principal axes", about(turn, cf, cm)))
                    found += [judge("principal axes, all shifts", m) for _, m in search(turn)]
        if "shifts" in methods:
            found += [judge(name, m) for name, m in _near_rotations(search, rotations_deg)]
    found = [s for s in found if s.overlap >= min_overlap and s.score > 0]
    return sorted(found, key=lambda s: -s.score)


def _near_rotations(search: TurnedSearch, rotations_deg: float) -> list[tuple[str, np.ndarray]]:
    """Every shift under a ball of rotations, then under those half a step around the two best of them."""
    tried: dict[tuple[float, ...], list[tuple[float, np.ndarray]]] = {}

    def look(angles: tuple[float, ...]) -> None:
        angles = tuple(round(float(a), 3) for a in angles)
        if angles not in tried:
            tried[angles] = search(Rotation.from_rotvec(np.deg2rad(angles)).as_matrix())

    steps = int(np.ceil(rotations_deg / ROTATION_STEP))
    step = rotations_deg / steps if steps else 0.0
    for triple in product(range(-steps, steps + 1), repeat=3):
        if np.linalg.norm(triple) <= steps:
            look(tuple(step * i for i in triple))
    if steps:
        best = sorted(tried, key=lambda a: -max((score for score, _ in tried[a]), default=-1.0))[:2]
        for centre, axis, sign in product(best, range(3), (-0.5, 0.5)):
            angles = tuple(c + sign * step * (i == axis) for i, c in enumerate(centre))
            if np.linalg.norm(angles) <= rotations_deg + 1e-6:
                look(angles)
    return [
        ("all shifts" + (", rotated by ({:g}, {:g}, {:g}) degrees".format(*angles) if any(angles) else ""), matrix)
        for angles, places in tried.items()
        for _, matrix in places
    ]


def find_anywhere(
    judge: Judge, fixed: Placed, moving: Placed, kind: Kind, min_overlap: float, within_deg: float = 180.0
) -> list[Start]:
    """The best few candidates by one kind of structure under all rotations up to an angle, best first."""
    search = wide_search(fixed, moving, kind, min_overlap)
    turns = [turn for turn in spread(WIDE_ROTATIONS) if angle_deg(turn) <= within_deg]
    best = sorted((place for turn in turns for place in search(turn)), key=lambda p: -p[0])
    for degrees, number in WIDE_STEPS:
        best = _unlike(best, number, degrees)
        turns = [turn @ matrix[:3, :3] for _, matrix in best for turn in around(degrees)]
        best = sorted(best + [place for turn in turns for place in search(turn)], key=lambda p: -p[0])
    found = []
    for _, matrix in _unlike(best, WIDE_KEPT, 2 * WIDE_STEPS[-1][0]):
        name = f"all rotations by {kind}, {angle_deg(polar_rotation(matrix)):.0f} degrees"
        found.append(judge(name, matrix))
    return sorted((s for s in found if s.score > 0), key=lambda s: -s.score)


def wide_search(fixed: Placed, moving: Placed, kind: Kind, min_overlap: float) -> TurnedSearch:
    """The search of small copies for the best shift under each of many rotations."""
    sizes = [max(np.multiply(p.grid.shape, p.grid.spacing)) for p in (fixed, moving)]
    spacing = max(min(max(sizes) / WIDE_VOXELS, min(sizes) / WIDE_LEAST), max(sizes) / WIDE_MOST)
    return TurnedSearch(fixed, moving, kind, spacing, max(min_overlap, WIDE_OVERLAP), places=1)


def find_near(
    judge: Judge, fixed: Placed, moving: Placed, kind: Kind, turns: list[np.ndarray], min_overlap: float
) -> list[Start]:
    """The best places under given rotations and some around them."""
    extent = max(max(np.multiply(p.grid.shape, p.grid.spacing)) for p in (fixed, moving))
    search = TurnedSearch(fixed, moving, kind, extent / WIDE_VOXELS, min_overlap, places=1)
    places = [
        place for turn in turns for step in (np.eye(3)[None], around(12.0)) for r in step for place in search(r @ turn)
    ]
    best = _unlike(sorted(places, key=lambda p: -p[0]), len(turns), 20.0)
    return [judge("near", matrix) for _, matrix in best]


def _unlike(places: list[tuple[float, np.ndarray]], number: int, degrees: float) -> list[tuple[float, np.ndarray]]:
    """The first few whose rotations lie at least so far apart."""
    chosen: list[tuple[float, np.ndarray]] = []
    for place in places:
        if all(apart_deg(place[1][:3, :3], other[1][:3, :3]) >= degrees for other in chosen):
            chosen.append(place)
            if len(chosen) == number:
                break
    return chosen


class TurnedSearch:
    """All shifts of the moving image under one rotation after another."""

    def __init__(
        self, fixed: Placed, moving: Placed, kind: Kind, spacing: float, min_overlap: float, places: int = 2
    ) -> None:
        self.spacing, self.places = spacing, places
        self.fixed, self.moving = fixed.isotropic(spacing), moving.isotropic(spacing)
        self.voxels = min(p.volume for p in (self.fixed, self.moving)) / spacing**3
        channels, values = structure(self.fixed, kind), structure(self.moving, kind)
        self.values = torch.stack(values)
        self.shifts = ShiftSearch(channels, self.fixed.weights, min_overlap * self.voxels)

    def __call__(self, turn: np.ndarray) -> list[tuple[float, np.ndarray]]:
        """(score, fixed world -> moving world) of the best places that lie apart."""
        matrix = about(turn, np.mean(self.moving.grid.bounds(), axis=0))
        low, high = self.moving.grid.bounds(np.linalg.inv(matrix))
        grid = Grid.from_spacing(np.ceil((high - low) / self.spacing - 1e-6).astype(int) + 1, (self.spacing,) * 3, low)
        values, mask = sampled(self.values, self.moving.mask, self.moving.grid, grid, matrix)
        lowest, correlation, voxels = self.shifts(list(turned_channels(values, turn)), mask)
        score = evidence(correlation.numpy(), np.minimum(voxels.numpy() / self.voxels, 1.0))
        apart = max(self.fixed.grid.shape) // 8
        found = []
        for _ in range(self.places):
            peak = np.unravel_index(int(score.argmax()), score.shape)
            if score[peak] <= 0:
                break
            # Fixed voxel i lies on moving voxel i + shift; both grids have the same cubic voxels.
            offset = np.subtract(grid.origin, self.fixed.grid.origin) + self.spacing * (lowest + peak)
            found.append((float(score[peak]), matrix @ translation(offset)))
            score[tuple(slice(max(p - apart, 0), p + apart + 1) for p in peak)] = -1.0
        return found


def bright(placed: Placed) -> tuple[np.ndarray, np.ndarray]:
    """Places (N, 3; um) of the voxels of an image and their weights: how much brighter than the median, with sum 1."""
    weight = (placed.image - placed.image[placed.weights > 0].median()).clamp_min(0) * placed.weights
    w = weight.double().numpy().ravel()
    if not w.any():  # at least half of the voxels share the highest value
        w = placed.weights.double().numpy().ravel()
    return Positions.of_grid(placed.grid).points(), w / w.sum()


def moments(placed: Placed) -> tuple[np.ndarray, np.ndarray]:
    """Centre of mass (um) and principal axes (columns, largest first) of the brighter part of an image."""
    points, w = bright(placed)
    centre = w @ points
    second = (points - centre).T @ ((points - centre) * w[:, None])
    return centre, np.linalg.eigh(second)[1][:, ::-1]
