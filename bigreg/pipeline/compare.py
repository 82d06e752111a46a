"""Runs, or what was measured of them, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..quality.comparison import Comparison, Series, compare
from ..quality.evaluation import Evaluation, read_evaluation
from .run import Run, open_run
from .store.store import EVALUATION, is_run


def compare_runs(paths: Sequence[str], *, aggregate: bool = False) -> Comparison:
    """Compare runs, or folders that `evaluate` wrote: their figures, and what was measured at the same places.

    A run that was not evaluated has its own figures, and the local correlation of its blocks. The first is the one that
    the others are compared with; `aggregate` leaves that out, so that the images may differ. Raises InputError.
    """
    found = [_read(str(path)) for path in paths]
    return compare(_names(paths), [e for e, _ in found], [s for _, s in found], aggregate=aggregate)


def _read(path: str) -> tuple[Evaluation, Series]:
    if not is_run(path):
        evaluation = read_evaluation(path)
        if evaluation is None:
            raise InputError(
                f"'{path}' is neither a run nor a folder that `bigreg evaluate --out` wrote; check the path"
            )
        return evaluation, {}
    run = open_run(path)
    evaluation = read_evaluation(run.store.path(EVALUATION))
    if evaluation is None:
        identities = run.store.attributes["identities"]
        evaluation = Evaluation(run.url, identities["fixed"], identities["moving"], run.summary())
    return evaluation, _blocks(run)


def _blocks(run: Run) -> Series:
    """Local correlation after all of each block of the comparison, by its place and how many there are."""
    metrics = run.metrics().get("stages/warped", {})
    if "local_sum_after" not in metrics:
        return {}
    total, count = metrics["local_sum_after"], metrics["local_count_after"]
    shard, warped = run.config.output.shard, run.config.output.warped
    key = (*total.shape, shard, warped, run.config.ladder.finest if not warped else 1)
    return {(*key, *map(int, i)): float(total[tuple(i)] / count[tuple(i)]) for i in np.argwhere(count > 0)}


def _names(paths: Sequence[str]) -> list[str]:
    """Paths without the folders they share."""
    parts = [str(p).rstrip("/").split("/") for p in paths]
    shared = 0
    while shared < min(map(len, parts)) - 1 and len({p[shared] for p in parts}) == 1:
        shared += 1
    names = ["/".join(p[shared:]) for p in parts]
    return names if len(set(names)) == len(names) else [str(p) for p in paths]
