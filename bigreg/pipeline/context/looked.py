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
from ...geometry import Grid
from ...similarity import by_name
from ..store.store import RunStore

PLACE, NAME = "starts", "looked.json"


@dataclass(frozen=True, eq=False)
class Question:
    """Arguments of `register_affine`: both images (z, y, x), their grids and masks, keywords, a start to refine."""

    images: tuple[torch.Tensor, ...]
    grids: tuple[Grid, ...]
    masks: tuple[torch.Tensor | None, ...]
    settings: Mapping[str, Any]
    start: np.ndarray | None = None

    def answer(self) -> AffineResult:
        return register_affine(
            self.images[0], self.images[1], self.grids[0], self.grids[1], fixed_mask=self.masks[0],
            moving_mask=self.masks[1], start=self.start,
            **{**self.settings, "similarity": by_name(self.settings["similarity"])},
        )  # fmt: skip

    @property
    def digest(self) -> str:
        start = None if self.start is None else self.start.tolist()
        known = hashlib.sha256(repr(([g.to_json() for g in self.grids], dict(self.settings), start)).encode())
        for array in (*self.images, *self.masks):
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
