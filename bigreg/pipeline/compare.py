"""Runs, or what was measured of them, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .. import storage
from ..errors import InputError
from ..quality.comparison import Comparison, Series, compare
from ..quality.evaluation import Evaluation, read_evaluation
from ..quality.report import Picture
from .run import Run, open_run
from .store.store import EVALUATION, is_run


def compare_runs(paths: Sequence[str], *, aggregate: bool = False) -> Comparison:
    """Compare runs, or folders that `evaluate` wrote: their figures, and what was measured at the same places.

    A run that was not evaluated has its own figures, and the local correlation of its blocks. The first is the one that
    the others are compared with; `aggregate` leaves that out, so that the images may differ. Raises InputError.
    """
    found = [_read(str(path)) for path in paths]
    made = compare(_names(paths), [e for e, _ in found], [s for _, s in found], aggregate=aggregate)
    return replace(made, pictures=_pictures([str(path) for path in paths]))


def _pictures(paths: Sequence[str]) -> list[tuple[str, list[Picture | None]]]:
    """The pictures that the runs' reports have, one kind after the other; None where a run has no such one."""
    kinds = []
    for name, title in (("overlay_after", "Fixed (magenta) and moving (green) after registration"), ("risk", "Risk")):
        pictures: list[Picture | None] = []
        for path in paths:
            png = storage.read_file(storage.join(path, "report"), f"{name}.png") if is_run(path) else b""
            pictures.append(Picture(name, title, f"{title}, of {path}", png) if png else None)
        kinds += [(title, pictures)] if any(pictures) else []
    return kinds


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
    """Paths without the folders that all share, before and behind what is different."""
    parts = [str(p).rstrip("/").split("/") for p in paths]
    shared = 0
    while shared < min(map(len, parts)) - 1 and len({p[shared] for p in parts}) == 1:
        shared += 1
    parts = [p[shared:] for p in parts]
    while min(map(len, parts)) > 1 and len({p[-1] for p in parts}) == 1:
        parts = [p[:-1] for p in parts]
    names = ["/".join(p) for p in parts]
    return names if len(set(names)) == len(names) else [str(p) for p in paths]
