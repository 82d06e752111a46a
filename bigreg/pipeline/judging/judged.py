"""What a `Run` says of how good it is."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import storage
from ...errors import InputError
from ...quality.evaluation import Evaluation
from ...quality.verdict import Verdict
from ...transforms.maps import Map
from ..context.context import Context
from ..store.inputs import as_volume
from ..store.store import EVALUATION, RunStore, require_fields
from . import verdict as verdicts
from .status import stored_verdict

if TYPE_CHECKING:
    from .torn import ProposedPieces


class Judged:
    """The part of a `Run` that judges."""

    store: RunStore

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def map(self, direction: str = ...) -> Map: ...

    @abstractmethod
    def _context(self) -> Context: ...

    @property
    def verdict(self) -> Verdict:
        """Whether the registration worked: level ("good", "look", "bad"), headline, reasons, similarity.

        It is kept in the run when it finishes, and anew by `evaluate` and `report`: landmarks count once they are
        measured. Raises InputError where the run is not finished.
        """
        if self.store.attributes["state"] != "finished":
            raise InputError(f"'{self.url}' is not finished, so it has no verdict yet; `bigreg resume` it first")
        return stored_verdict(self.store) or self.judged()

    def judged(self, evaluation: Evaluation | None = None) -> Verdict:
        """The verdict by another evaluation than the one that the run keeps, such as one that was written elsewhere."""
        require_fields(self.store)
        return verdicts.judged(self._context(), evaluation)

    def propose_pieces(self, *, out: str | None = None) -> ProposedPieces:
        """The pieces that tissue of the fixed image may be torn into, seen on a small copy; nothing is done with them.

        out   also write them there, as a label image for `pieces` and `masks.fixed`
        Raises InputError where the run is not finished, or does not look for what has no counterpart.
        """
        from .torn import proposed

        require_fields(self.store)
        found = proposed(self._context())
        if out is not None:
            found.write(str(out))
        return found

    def metrics(self) -> dict[str, dict[str, np.ndarray]]:
        """For each stage that has begun, its metrics as float32 arrays over the blocks (z, y, x)."""
        found = {}
        for name, _, _ in self.store.attributes.get("stages", []):
            place = self.store.path(name, "metrics")
            names = [n for n in storage.children(place) if n != "zarr.json"]
            if names:
                found[name] = {n: storage.open_array(storage.join(place, n))[...] for n in names}
        return found

    def summary(self) -> list[tuple[str, str, float, str, str]]:
        """The table of figures: (group, name, value, unit, note)."""
        from .figures import figures

        return figures(self._context())

    def evaluate(
        self,
        *,
        landmarks: str | None = None,
        labels: tuple[Any, Any] | None = None,
        annotation: Any = None,
        out: str | None = None,
    ) -> Evaluation:
        """Measure the run, block by block; what is given decides what can be measured.

        landmarks    CSV of pairs (see transforms.landmarks), best those that the run has not seen
        labels       label images of the fixed and of the moving frame, on any grids
        annotation   label image of the fixed frame: similarity, folds, volume change and errors of each region
        out          folder for JSON and CSV; without it they go into the run, and its report is written anew
        Raises InputError where the run has no fields yet, or for images and files that cannot be read.
        """
        from .evaluate import evaluate

        require_fields(self.store)
        images = None
        if labels is not None:
            images = as_volume(labels[0], "fixed labels"), as_volume(labels[1], "moving labels")
        regions = None if annotation is None else as_volume(annotation, "annotation")
        found = evaluate(self._context(), self.url, self.map(), landmarks=landmarks, labels=images, annotation=regions)
        found.write(self.store.path(EVALUATION) if out is None else str(out))
        if out is None:
            self.report()
        return found

    def report(self, *, figure: str | None = None) -> str:
        """Write the report anew; returns the path of its index.html.

        figure   also write one overview picture there, at 200 dpi: a new .png, .svg or .pdf
        Raises ConfigError for another ending, OutputError where `figure` exists or cannot be written.
        """
        from ...quality.overview import new_picture, write_overview
        from . import report

        require_fields(self.store)
        with nullcontext() if figure is None else new_picture(figure) as path:
            data = report.collect(self._context())
            written = report.write_page(self._context(), data)
            if path is not None:
                write_overview(data, path)
        if self.store.attributes["state"] == "finished":
            verdicts.keep(self._context())
        return written
