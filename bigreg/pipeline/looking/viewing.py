"""What somebody who looks at a run may ask of it. Nothing is written, and a run of terabytes answers as a small one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from ...geometry import triple
from ...volumes import Volume, open_volume
from ...volumes.lookup import lookup
from ..context.context import Context
from ..judging import confidence as judged
from ..judging import noncorrespondence as unmatched
from ..judging import sigma as sigmas
from . import pyramids, seen_blocks
from .pyramids import Samples
from .seen_blocks import BlockReport, Blocks, Patches

OUTSIDE = 255  # no value of a mask


class Viewed:
    """The part of a `Run` that answers."""

    _seen: Context | None = None

    @abstractmethod
    def _context(self) -> Context: ...

    def _view(self) -> Context:
        """The context of before while the run's attributes stand: opening both images again takes many requests."""
        fresh = self._context()
        if self._seen is None or self._seen.attributes != fresh.attributes:
            self._seen = fresh
        return self._seen

    @property
    def fixed(self) -> Volume:
        """The fixed image."""
        return self._view().volumes["fixed"]

    @property
    def moving(self) -> Volume:
        """The moving image."""
        return self._view().volumes["moving"]

    @property
    def warped(self) -> Volume:
        """The moving image on the fixed grid. Raises InputError where the run has not come so far, or keeps none."""
        self.pyramid("warped")
        return open_volume(self._view().store.path("warped"), name="warped")

    @property
    def confidence(self) -> Volume:
        """The probability of an error above two voxels, one value per tile of 8^3.

        NaN where nothing is known: where over half of a tile lies outside of moving or has no counterpart.

        Raises InputError where the run has not come so far, or keeps none.
        """
        self.pyramid("risk")
        return open_volume(self._view().store.path(judged.PLACE), name="confidence")

    def pyramid(self, what: str) -> tuple[Samples, ...]:
        """Something of the run at several resolutions, finest first, read box by box.

        what   fixed, moving; affine, warped: moving on the fixed grid, after the affine and after all;
               fixed_to_moving, moving_to_fixed: displacements (3, z, y, x) um, affine excluded;
               jacobian: the determinant of the former, below 0 wherever one of eight stencils says that a cell folds
               risk: the probability of an error above two voxels, one value per tile of 8^3, NaN where nothing is known
               noncorrespondence: 1 where there is no counterpart in the other image
        Raises InputError where the run has not come so far, CorruptDataError naming what cannot be decoded.
        """
        return pyramids.pyramid(self._view(), what)

    def fixed_labels(self) -> Samples | None:
        """The labels that steer, of the fixed image, at their own resolution; None without any."""
        context = self._view()
        if context.config.labels is None:
            return None
        labels = context.volumes["fixed-labels"]
        return Samples(labels.grid(), labels.dtype, labels.read)

    def risk_at(self, points: np.ndarray) -> np.ndarray:
        """(N,) the probability that the map is off by more than two voxels of the finest level, at points (N, 3) of the
        fixed frame, um; NaN where nothing is known. Raises InputError where the run has no such map (yet).
        """
        return lookup(self.confidence, np.asarray(points, dtype=float), outside=np.nan)

    @property
    def seeks_noncorrespondence(self) -> bool:
        """Whether the run looks for what has no counterpart (see `noncorrespondence`)."""
        return unmatched.kept(self._view())

    @property
    def noncorrespondence(self) -> Volume:
        """1 where the fixed image has no counterpart in the moving one, or is empty where the moving one is not.

        Raises InputError where the run has not come so far, or does not look for it.
        """
        self.pyramid("noncorrespondence")
        return open_volume(self._view().store.path(unmatched.PLACE), name="noncorrespondence")

    def noncorrespondence_at(self, points: np.ndarray) -> np.ndarray:
        """(N,) float, the same at points (N, 3) of the fixed frame, um; NaN outside of it."""
        found = lookup(self.noncorrespondence, np.asarray(points, dtype=float), outside=OUTSIDE)
        return np.where(found == OUTSIDE, np.nan, found)

    @property
    def keeps_sigma(self) -> bool:
        """Whether the run says how far its map may be off."""
        return sigmas.kept(self._view())

    @property
    def sigma(self) -> Volume:
        """How far the map may be off: SD in um along z, y and x of the fixed world, as channels 0, 1 and 2 (this
        opens channel 0), one value per tile of 8^3, NaN where nothing is known.

        Raises InputError where the run has not come so far, or its engine gives none.
        """
        return self._sigma(0)

    def _sigma(self, axis: int) -> Volume:
        context = self._view()
        if "frames" in context.attributes:
            sigmas.require_given(context)
        pyramids.image_of_run(context, sigmas.PLACE, "map of sigma")
        return open_volume(context.store.path(sigmas.PLACE), channel=axis, name="sigma")

    def sigma_at(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) how far the map may be off along z, y and x of the fixed world, SD in um, at points (N, 3) of the
        fixed frame, um; NaN where nothing is known. Raises InputError where the run has none (yet), or never will.
        """
        points = np.asarray(points, dtype=float)
        return np.stack([lookup(self._sigma(axis), points, outside=np.nan) for axis in range(3)], axis=1)

    def contrast(self, which: str) -> tuple[float, float] | None:
        """The range of stored values of "fixed" or "moving" in which its tissue is; None before the affine is known."""
        known = self._view().attributes.get("intensity", {}).get(which)
        return None if known is None else (float(known[0]), float(known[1]))

    def blocks(self) -> dict[str, Blocks]:
        """For each stage that is foreseen, how its blocks lie in the fixed world; empty before the affine is known."""
        return seen_blocks.blocks(self._view())

    def block_status(self, stage: str) -> np.ndarray:
        """uint8 (z, y, x) of `Status`, one element per block; all todo if the stage has not begun."""
        return seen_blocks.block_status(self._view(), stage)

    def block(self, stage: str, index: Sequence[int]) -> BlockReport:
        """What is known of one block: status, metrics, worker, error."""
        return seen_blocks.block_report(self._view(), stage, triple(int(i) for i in index))

    def patches(self, stage: str, index: Sequence[int]) -> Patches:
        """Both images on a block of a stage, moving before and after the deformation as far as it is known."""
        return seen_blocks.patches(self._view(), stage, triple(int(i) for i in index))
