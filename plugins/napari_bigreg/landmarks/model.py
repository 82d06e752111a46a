"""Pairs of landmarks of a run: where they are, where the map takes them, and by how much it errs. Knows no Qt."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from psygnal import Signal

import bigreg
from bigreg.errors import InputError, OutputError
from bigreg.pipeline.run import Run
from bigreg.quality.metrics import RegistrationError, target_registration_error
from bigreg.transforms.affine import apply_affine
from bigreg.transforms.landmarks import Landmarks, bigwarp_text, landmarks, read_landmarks
from bigreg.transforms.maps import Affine, Map

from ..shared.registration import SIDES, Choice, Launch
from .snapping import Levels, Snapped, snap

UNSET = (float("nan"),) * 3


@dataclass
class Pair:
    """One landmark: world points, um (z, y, x), NaN where not set yet.

    `proposal`: where the map puts the point that is missing. It is no measurement, so it counts for nothing until a
    person moves it, snaps it or accepts it.
    """

    name: str
    fixed: np.ndarray = field(default_factory=lambda: np.array(UNSET))
    moving: np.ndarray = field(default_factory=lambda: np.array(UNSET))
    active: bool = True
    proposal: np.ndarray | None = None

    def at(self, side: str) -> np.ndarray:
        return self.fixed if side == "fixed" else self.moving

    def shown(self, side: str) -> np.ndarray | None:
        """Where to show its point of a side: set, proposed or (None) nowhere."""
        point = self.at(side)
        return point if np.isfinite(point).all() else self.proposal

    @property
    def lacks(self) -> str | None:
        """The side whose point is not set."""
        return next((side for side in SIDES if not np.isfinite(self.at(side)).all()), None)


@dataclass(frozen=True, eq=False)
class Errors:
    """Distance (um) of each pair after the affine and after the whole map, NaN where it is not known; and in sum.

    before, after are None where no pair is used; `after` too where the run has no deformation yet.
    """

    affine: np.ndarray
    mapped: np.ndarray
    before: RegistrationError | None
    after: RegistrationError | None

    def text(self) -> str:
        """For people, in one line a map."""
        if self.before is None:
            return "TRE: no complete pair yet"
        rows = [("affine", self.before), ("deformation", self.after)]
        return "\n".join(
            f"TRE {name}: mean {e.mean:.2f}, median {e.median:.2f}, 95 % {e.p95:.2f} µm ({e.points} pairs)"
            if e is not None and e.points
            else f"TRE {name}: the run has none yet"
            for name, e in rows
        )


@dataclass(frozen=True, eq=False)
class Expected:
    """Where the map puts the partners of points, in the world of a side: places (N, 3) um, covariances (N, 3, 3) um^2.

    NaN where the map leads nowhere or nothing is known of its error.
    """

    places: np.ndarray
    covariances: np.ndarray


class LandmarksModel:
    """The pairs of a run, in the order of the table. `changed` is emitted after every change of them."""

    changed = Signal()

    def __init__(self, run: Run | str) -> None:
        """Open a run, finished or not. Raises InputError where it is none or has not come as far as its affine."""
        self.run = bigreg.open_run(run) if isinstance(run, str) else run
        self.affine = self.run.affine
        self.images: dict[str, Levels] = {side: self.run.pyramid(side) for side in SIDES}
        self.maps, self.missing = self._maps()
        self.no_sigma = self._no_sigma()
        self.pairs: list[Pair] = []
        self.saved = True
        self._mapped: dict[tuple[str, bytes], np.ndarray] = {}
        self._take(self.run.landmarks())

    def _maps(self) -> tuple[dict[str, Map], str]:
        """Of each side, the map to the other one; the affine, and why, where the run has no fields yet."""
        try:
            maps = {"fixed": self.run.map("fixed_to_moving"), "moving": self.run.map("moving_to_fixed")}
            return maps, ""
        except InputError as error:
            back = np.linalg.inv(self.affine)
            return {"fixed": Map((Affine(self.affine),)), "moving": Map((Affine(back),))}, str(error)

    def _no_sigma(self) -> str:
        """Why nothing is known of the map's error; empty where it is."""
        try:
            self.run.sigma_at(np.empty((0, 3)))
        except InputError as error:
            return str(error)
        return self.missing

    # ------------------------------------------------------------------------------------------------- the pairs

    @property
    def landmarks(self) -> Landmarks:
        fixed, moving = (np.array([p.at(side) for p in self.pairs]).reshape(-1, 3) for side in SIDES)
        return landmarks(fixed, moving, [p.name for p in self.pairs], [p.active for p in self.pairs])

    def add(self, side: str, point: np.ndarray, name: str | None = None) -> Pair:
        """A new pair with one of its points."""
        pair = Pair(name or self._new_name())
        pair.at(side)[:] = point
        self.pairs.append(pair)
        self._touched()
        return pair

    def place(self, pair: Pair, side: str, point: np.ndarray) -> None:
        """Set or move one point of a pair."""
        pair.at(side)[:] = point
        if pair.lacks is None:
            pair.proposal = None
        self._touched()

    def propose(self, pair: Pair, point: np.ndarray) -> None:
        """Show where the missing point of a pair may be."""
        if pair.lacks is not None:
            pair.proposal = np.asarray(point, float)
            self.changed.emit()

    def accept(self, pairs: Iterable[Pair]) -> None:
        """Take proposals as they are."""
        for pair in pairs:
            if pair.lacks is not None and pair.proposal is not None:
                self.place(pair, pair.lacks, pair.proposal)

    def rename(self, pair: Pair, name: str) -> None:
        """Raises InputError for an empty name and one that another pair has."""
        name = name.strip()
        if not name or any(p.name == name for p in self.pairs if p is not pair):
            raise InputError(f"a landmark cannot be called '{name}': " + ("another one is" if name else "it is empty"))
        pair.name = name
        self._touched()

    def activate(self, pair: Pair, active: bool) -> None:
        """Whether a pair counts: it is kept in any case."""
        pair.active = active
        self._touched()

    def remove(self, pairs: Iterable[Pair]) -> None:
        gone = {id(p) for p in pairs}
        self.pairs = [p for p in self.pairs if id(p) not in gone]
        self._touched()

    def _new_name(self) -> str:
        names = {p.name for p in self.pairs}
        return next(name for i in range(len(names) + 1) if (name := f"Pt-{i}") not in names)

    def _take(self, found: Landmarks) -> None:
        self.pairs = [
            Pair(name, f.copy(), m.copy(), bool(a))
            for name, f, m, a in zip(found.names, found.fixed, found.moving, found.active, strict=True)
        ]

    def _touched(self) -> None:
        self.saved = False
        self.changed.emit()

    # ---------------------------------------------------------------------------------------- through the transform

    def partner(self, side: str, point: np.ndarray) -> np.ndarray:
        """Where the current map takes a point of one side: (3,) um. Beyond the image as its border would."""
        return self.maps[side].points(np.asarray(point, float)[None], beyond=True)[0]

    def derivative(self, point: np.ndarray) -> np.ndarray:
        """3 x 3 of the map from fixed to moving at a fixed point, by central differences over a voxel."""
        step = np.diag(self.images["fixed"][0].grid.spacing)
        ends = self.maps["fixed"].points(np.concatenate([point + step, point - step]), beyond=True)
        return ((ends[:3] - ends[3:]) / (2 * np.diag(step))[:, None]).T

    def snapped(self, pair: Pair, within: float) -> Snapped:
        """Where the moving point of a pair agrees best with its fixed one, near where it is or would be.

        Raises InputError where the fixed point is missing or there is no optimum.
        """
        if not np.isfinite(pair.fixed).all():
            raise InputError(f"landmark '{pair.name}' has no fixed point to look for; place it first")
        start = pair.moving if np.isfinite(pair.moving).all() else self.partner("fixed", pair.fixed)
        return snap(
            self.images["fixed"], self.images["moving"], pair.fixed, start,
            derivative=self.derivative(pair.fixed), within=within,
        )  # fmt: skip

    def errors(self, pairs: Landmarks | None = None) -> Errors:
        """How far the affine, and the whole map, take each fixed point from its moving one; default: as they are."""
        now = self.landmarks if pairs is None else pairs
        affine = np.linalg.norm(apply_affine(self.affine, now.fixed) - now.moving, axis=1)
        through = self._through("fixed", now.fixed)
        mapped = np.full(len(now), np.nan) if self.missing else np.linalg.norm(through - now.moving, axis=1)
        used = now.used
        if not used.any():
            return Errors(affine, mapped, None, None)
        truth = now.moving[used]
        before = target_registration_error(apply_affine(self.affine, now.fixed[used]), truth)
        after = None if self.missing else target_registration_error(through[used], truth)
        return Errors(affine, mapped, before, after)

    def expected(self, pairs: Landmarks | None = None) -> dict[str, Expected]:
        """Of both sides: where the map puts the partner of each pair's point of the other side, and how sure it is.

        Empty where the run keeps no sigma (`no_sigma` says why). A covariance is that of sigma, whose errors along the
        fixed world's axes are independent; in moving's world it is turned as the affine turns.
        """
        if self.no_sigma:
            return {}
        now = self.landmarks if pairs is None else pairs
        ahead, back = self._through("fixed", now.fixed), self._through("moving", now.moving)
        linear = self.affine[:3, :3]
        squares = {
            side: np.square(self.run.sigma_at(points), dtype=float)
            for side, points in (("fixed", back), ("moving", now.fixed))
        }
        return {
            "fixed": Expected(back, squares["fixed"][:, :, None] * np.eye(3)),
            "moving": Expected(ahead, np.einsum("ij,nj,kj->nik", linear, squares["moving"], linear)),
        }

    def _through(self, side: str, points: np.ndarray) -> np.ndarray:
        """Points of a side through the map; what was mapped before is not read again, so that dragging is light."""
        new = [p for p in points if (side, p.tobytes()) not in self._mapped and np.isfinite(p).all()]
        if new:
            for point, to in zip(new, self.maps[side].points(np.array(new)), strict=True):
                self._mapped[side, point.tobytes()] = to
        return np.array([self._mapped.get((side, p.tobytes()), np.array(UNSET)) for p in points]).reshape(-1, 3)

    # -------------------------------------------------------------------------------------------------------- files

    def load(self, path: str) -> int:
        """Take the pairs of a file (BigWarp's CSV, or one with columns) in addition to those there; how many."""
        found = read_landmarks(path)
        before = self.pairs
        self._take(found)
        taken = {p.name for p in before}
        for pair in self.pairs:
            name, number = pair.name, 2
            while pair.name in taken:
                pair.name, number = f"{name} ({number})", number + 1
            taken.add(pair.name)
        self.pairs = before + self.pairs
        self._touched()
        return len(found)

    def export(self, path: str) -> None:
        """Write all pairs as BigWarp reads them. Raises OutputError."""
        try:
            Path(path).write_text(bigwarp_text(self.landmarks), encoding="utf-8", newline="\n")
        except OSError as error:
            raise OutputError(f"'{path}' cannot be written: {error.strerror or error}; choose another place") from error

    def save(self) -> str:
        """Keep all pairs in the run; returns where. Raises OutputError where the run is read-only."""
        path = self.run.save_landmarks(self.landmarks)
        self.saved = True
        return path

    def steered(self) -> Launch:
        """Keep all pairs in the run, and what would register its images again with them. Raises OutputError."""
        pairs = self.save()
        folder = Path(tempfile.mkdtemp(prefix="bigreg-"))
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(self.run.config.model_dump(mode="json", exclude={"cluster"}), sort_keys=False))
        images = self.run.store.images
        stem = self.run.url.rstrip("/").removesuffix(".zarr")
        return Launch(
            Choice.of(images["fixed"]),
            Choice.of(images["moving"]),
            f"{stem}-steered.zarr",
            str(config),
            (f"landmarks.path={pairs}",),
        )
