"""What guides a `Run` to its start and along the way: the starts that were tried, the landmarks that it keeps."""

from __future__ import annotations

import numpy as np

from ... import storage
from ...transforms.landmarks import Landmarks, bigwarp_text, landmarks, parse
from ..store.store import RunStore
from . import starts
from .pairing import FOUND_FILE
from .starts import StartCandidate

LANDMARKS, PAIRS = "landmarks", "pairs.csv"


class Guided:
    """The part of a `Run` that says what guides it."""

    store: RunStore

    @property
    def starts(self) -> list[StartCandidate]:
        """The starts that were tried, best first, as `accept_start` numbers them; empty before, and where none were."""
        found = starts.starts_of(self.store)
        return [] if found is None else list(found.candidates)

    @property
    def start_confidence(self) -> float | None:
        """How probable it is that the first of `starts` is right, 0..1; None where that is not known."""
        found = starts.starts_of(self.store)
        return None if found is None else found.confidence

    def start_picture(self) -> bytes | None:
        """The best of `starts`, both images overlaid, as PNG; None where there is no such picture."""
        return storage.read_file(self.store.path(starts.PLACE), starts.PICTURE) or None

    def landmarks(self) -> Landmarks:
        """The pairs of landmarks that are kept in the run; empty where none were saved."""
        return self._landmarks(PAIRS)

    def _landmarks(self, name: str) -> Landmarks:
        content = storage.read_file(self.store.path(LANDMARKS), name)
        if not content:
            return landmarks(np.empty((0, 3)), np.empty((0, 3)))
        return parse(content.decode("utf-8-sig"), self.store.path(LANDMARKS, name))

    def found_landmarks(self) -> Landmarks:
        """The pairs of points that the run found and uses (landmarks/found.csv); empty where it has none."""
        return self._landmarks(FOUND_FILE)

    def save_landmarks(self, pairs: Landmarks) -> str:
        """Keep pairs in the run, in place of those there: landmarks/pairs.csv, as BigWarp reads it. Returns its path.

        Raises OutputError where the run cannot be written.
        """
        self.store.groups(LANDMARKS)
        storage.write_file(self.store.path(LANDMARKS), PAIRS, bigwarp_text(pairs).encode())
        return self.store.path(LANDMARKS, PAIRS)
