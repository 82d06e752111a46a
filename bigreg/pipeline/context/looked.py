"""The start of a pair that was looked at before its run began: kept in the run, so that it is not searched twice.

It is kept under a digest of everything that the search sees. A run whose images are compared otherwise, corrected or
masked for instance, asks another question and searches itself: what is kept decides the time of a run, never its bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from ... import storage
from ...engines.affine import AffineResult, Candidate, register_affine
from ...engines.affine_refinement import Compared
from ...engines.placed import Placed
from ...geometry import Grid
from ...similarity import by_name
from ..store.store import RunStore

PLACE, NAME = "starts", "looked.json"


@dataclass(frozen=True, eq=False)
class Other:
    """A pair of channels or labels (z, y, x), as `register_affine` takes it."""

    images: tuple[torch.Tensor, ...]
    grids: tuple[Grid, ...]
    masks: tuple[torch.Tensor | None, ...]
    similarity: str
    weight: float

    def compared(self) -> Compared:
        fixed, moving = (
            Placed(image if mask is None else torch.where(mask > 0, image, image[mask > 0].mean()), grid, mask)
            for image, grid, mask in zip(self.images, self.grids, self.masks, strict=True)
        )
        return Compared(fixed, moving, by_name(self.similarity), self.weight)


@dataclass(frozen=True, eq=False)
class Question:
    """Arguments of `register_affine`: both images (z, y, x), their grids and masks, keywords, a start to refine.

    others   what the refinement compares, where there are several channels or labels
    """

    images: tuple[torch.Tensor, ...]
    grids: tuple[Grid, ...]
    masks: tuple[torch.Tensor | None, ...]
    settings: Mapping[str, Any]
    start: np.ndarray | None = None
    others: tuple[Other, ...] = ()

    def answer(self) -> AffineResult:
        return register_affine(
            self.images[0], self.images[1], self.grids[0], self.grids[1], fixed_mask=self.masks[0],
            moving_mask=self.masks[1], start=self.start, pairs=[other.compared() for other in self.others],
            **{**self.settings, "similarity": by_name(self.settings["similarity"])},
        )  # fmt: skip

    @property
    def digest(self) -> str:
        start = None if self.start is None else self.start.tolist()
        known = hashlib.sha256(repr(([g.to_json() for g in self.grids], dict(self.settings), start)).encode())
        for array in (*self.images, *self.masks):
            known.update(b"-" if array is None else array.contiguous().numpy().tobytes())
        for other in self.others:
            known.update(repr(([g.to_json() for g in other.grids], other.similarity, other.weight)).encode())
            for array in (*other.images, *other.masks):
                known.update(b"-" if array is None else array.contiguous().numpy().tobytes())
        return known.hexdigest()


Answers = Sequence[tuple[str, AffineResult]]
"""Digests of questions, and their answers."""


def keep(store: RunStore, answers: Answers) -> None:
    """Keep answers in a run."""
    found = {digest: asdict(result) for digest, result in answers}
    text = json.dumps(found, default=lambda value: value.tolist())  # arrays and NumPy's numbers, every digit
    store.groups(PLACE)
    storage.write_file(store.path(PLACE), NAME, text.encode())


def known(store: RunStore, asked: Question) -> AffineResult | None:
    """The kept answer to a question; None where there is none."""
    content = storage.read_file(store.path(PLACE), NAME)
    found = json.loads(content).get(asked.digest) if content else None
    if found is None:
        return None
    candidates = [Candidate(**{**c, "matrix": np.asarray(c["matrix"])}) for c in found["candidates"]]
    return replace(AffineResult(**found), matrix=np.asarray(found["matrix"]), candidates=candidates)
