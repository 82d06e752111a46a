"""How far a run is and what its verdict is, read from its store. Knows no torch, so that asking is quick."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ... import storage
from ...quality.verdict import Verdict
from ..context import starts
from ..store.lock import at_work
from ..store.store import DEVICES, FOUND, SMALLER, RunStore, Status

VERDICT = "verdict"
"""The attribute of a finished run that holds its verdict."""
UNDERSTOOD = "understood"
"""The attribute of a run that says what was understood of fixed and moving (see `Volume.understood`)."""
CHOICE = "choice"
"""The attribute of a run that says how its preset was chosen (see `choosing.choice`); None where its user named one."""
PACE = "pace"
"""The attribute of a run at work by which its end is foreseen: `since` (unix seconds), `seconds` that each stage is
planned to take on one worker, `done` of them when it began; None before the affine is known, which decides that."""
UNMATCHED_STAGE = "stages/noncorrespondence"
"""The stage that brings the mask of non-correspondence to the fixed image (see `noncorrespondence`)."""
WORTH_A_LINE = 5e-4
"""A share of the voxels that reads 0.0 % is not reported."""
SURE_SECONDS = 10.0
"""How long a run has to be at work until its pace says anything."""


@dataclass(frozen=True)
class StageStatus:
    """Progress of one stage in blocks; 0 of them where they are not known yet."""

    name: str
    title: str
    blocks: int
    done: int = 0
    blank: int = 0
    failed: int = 0
    running: int = 0


@dataclass(frozen=True)
class RunStatus:
    """Progress of a run. `state`: planned, running, incomplete (ended early) or finished. `updated`: unix seconds.

    `waiting`: of a running one, the batch system whose first job has not started yet; else empty.
    `workers`: processes that are connected while it is running. `start`: what is told of the global start, in lines:
    its confidence, warnings, the best few where it is doubtful, the picture; none before the affine is known.
    `start_doubtful`: the run does not go on before a person has accepted a start.
    `images`: what was understood of fixed and moving (see `Volume.understood`); empty in runs of earlier versions.
    `choice`: how the preset was chosen, where its user named none: preset, settings, why, and more; all in one `line`.
    `verdict`: of a finished run; None before, and in a run that was finished before verdicts were kept (`Run.verdict`
    judges that one).
    `pairs`: of a run that looks for pairs of points, once it has: how many were found and used, how large the distance
    between them is that the affine leaves, all in one `line`; else None.
    `seconds_left`: until the end, by the blocks since it was begun or resumed, each counted by the work that is planned
    for its stage; None before the total is known, where nobody works on it, and in the first seconds.
    `notes`: how much has no counterpart and was left out; how it was computed, where that may show in its last digits:
    in smaller pieces, on several kinds of device.
    """

    state: str
    stages: tuple[StageStatus, ...]
    errors: tuple[str, ...]
    updated: float
    workers: int = 0
    start: tuple[str, ...] = ()
    start_doubtful: bool = False
    verdict: Verdict | None = None
    choice: dict[str, Any] | None = None
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    waiting: str = ""
    seconds_left: float | None = None
    pairs: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything, in what JSON knows."""
        sums = ("done", "blank", "failed", "running")
        return {
            "state": self.state,
            "updated": self.updated,
            "workers": self.workers,
            "waiting": self.waiting,
            "seconds_left": self.seconds_left,
            "blocks": {"total": self.total, **{k: sum(getattr(s, k) for s in self.stages) for k in sums}},
            "stages": [asdict(s) for s in self.stages],
            "errors": list(self.errors),
            "notes": list(self.notes),
            "start": list(self.start),
            "start_doubtful": self.start_doubtful,
            "images": self.images,
            "choice": self.choice,
            "pairs": self.pairs,
            "verdict": None if self.verdict is None else self.verdict.to_json(),
        }

    @property
    def blocks(self) -> int:
        """Of all stages whose blocks are known."""
        return sum(s.blocks for s in self.stages)

    @property
    def total(self) -> int | None:
        """Blocks of the whole run; None before the affine is known, which decides it."""
        return self.blocks if all(s.blocks for s in self.stages) else None

    @property
    def done(self) -> int:
        return sum(s.done + s.blank for s in self.stages)


def status_of(store: RunStore) -> RunStatus:
    """Progress of every stage that has been planned."""
    attributes = store.attributes
    stages = []
    for name, title, blocks in attributes.get("stages", []):
        url = store.path(name, "status")
        if not storage.exists(url):
            stages.append(StageStatus(name, title, blocks))
            continue
        status = storage.open_array(url)[...]
        count = np.bincount(status.ravel(), minlength=len(Status)).tolist()
        stages.append(
            StageStatus(
                name,
                title,
                status.size,
                count[Status.DONE],
                count[Status.BLANK],
                count[Status.FAILED],
                count[Status.RUNNING],
            )
        )
    errors = tuple(
        f"{e['stage']} block {tuple(e['block'])}: {e['message']}" + " (treated as blank)" * e.get("accepted", False)
        for e in attributes.get("errors", [])
    )
    state = attributes["state"]
    workers = attributes.get("connected", {}).get("workers", 0) if state == "running" else 0
    found = starts.starts_of(store)
    lines, doubtful = (found.lines, found.doubtful) if found is not None else ((), False)
    return RunStatus(
        state, tuple(stages), errors, attributes["updated"], workers, lines, doubtful, stored_verdict(store),
        attributes.get(CHOICE), attributes.get(UNDERSTOOD, {}),
        (attributes.get("waiting") or "") if state == "running" else "", _seconds_left(store, attributes, stages),
        attributes.get(FOUND), tuple(_notes(store, attributes, stages)),
    )  # fmt: skip


def unmatched_share(store: RunStore) -> float:
    """Of the voxels that lie in both images those without a counterpart; NaN where that is not known (yet)."""
    place = store.path(UNMATCHED_STAGE, "metrics")
    if not storage.exists(place):
        return float("nan")
    seen, unmatched = (
        float(np.nansum(storage.open_array(storage.join(place, name))[...])) for name in ("seen", "unmatched")
    )
    return unmatched / seen if seen else float("nan")


def _notes(store: RunStore, attributes: Mapping[str, Any], stages: Iterable[StageStatus]) -> Iterator[str]:
    if attributes["state"] == "finished" and (share := unmatched_share(store)) >= WORTH_A_LINE:
        yield f"{share:.1%} of the overlap has no counterpart in the other image and was left out"
    titles = {s.name: s.title for s in stages}
    for name, count in attributes.get(SMALLER, {}).items():
        yield (
            f"memory ran out on {count} block{'s' * (count != 1)} of '{titles.get(name, name)}', computed in smaller "
            "pieces: the map may differ by up to 0.1 voxel of the level there"
        )
    devices = attributes.get(DEVICES, [])
    if len(devices) > 1:
        yield f"computed on {' and '.join(devices)}: another run may differ in the last digits"


def planned_seconds_done(planned: Mapping[str, float], stages: Iterable[StageStatus]) -> float:
    """How much of the seconds that are planned for each stage is behind it."""
    return sum(planned.get(s.name, 0.0) * (s.done + s.blank) / s.blocks for s in stages if s.blocks)


def _seconds_left(store: RunStore, attributes: Mapping[str, Any], stages: Iterable[StageStatus]) -> float | None:
    pace = attributes.get(PACE)
    if pace is None or attributes["state"] != "running" or at_work(store.url) is None:
        return None
    return seconds_left(pace, stages, time.time(), attributes["updated"])


def seconds_left(pace: Mapping[str, Any], stages: Iterable[StageStatus], now: float, updated: float) -> float | None:
    """Seconds until the end, as `PACE` and the blocks that are done tell; None in the first seconds.

    now, updated: unix seconds, of now and of when a stage ended last.
    """
    planned = pace["seconds"]
    stages = list(stages)
    done = planned_seconds_done(planned, stages)
    passed = now - pace["since"]
    if passed < SURE_SECONDS or done <= pace["done"]:
        return None
    left = max(sum(planned.values()) - done, 0.0)
    alone = [s for s in stages if s.blocks == 1 and s.running and not s.done]
    if not alone or updated <= pace["since"]:
        return float(left * passed / (done - pace["done"]))
    # A stage of one block counts for nothing until it ends: of what was foreseen when it began its own time goes off.
    rate = (updated - pace["since"]) / (done - pace["done"])
    own = sum(planned.get(s.name, 0.0) for s in alone)
    return float(max(left * rate - (now - updated), (left - own) * rate, 0.0))


def stored_verdict(store: RunStore) -> Verdict | None:
    """The verdict that a finished run keeps."""
    attributes = store.attributes
    known = attributes.get(VERDICT) if attributes["state"] == "finished" else None
    return None if known is None else Verdict.from_json(known)
