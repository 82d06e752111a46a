"""How far a run is and what its verdict is, read from its store. Knows no torch, so that asking is quick."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ... import storage
from ...quality.verdict import Verdict
from ..context import starts
from ..store.store import RunStore, Status

VERDICT = "verdict"
"""The attribute of a finished run that holds its verdict."""
UNDERSTOOD = "understood"
"""The attribute of a run that says what was understood of fixed and moving (see `Volume.understood`)."""
CHOICE = "choice"
"""The attribute of a run that says how its preset was chosen (see `choosing.choice`); None where its user named one."""


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

    def to_json(self) -> dict[str, Any]:
        """Everything, in what JSON knows."""
        sums = ("done", "blank", "failed", "running")
        return {
            "state": self.state,
            "updated": self.updated,
            "workers": self.workers,
            "waiting": self.waiting,
            "blocks": {"total": self.total, **{k: sum(getattr(s, k) for s in self.stages) for k in sums}},
            "stages": [asdict(s) for s in self.stages],
            "errors": list(self.errors),
            "start": list(self.start),
            "start_doubtful": self.start_doubtful,
            "images": self.images,
            "choice": self.choice,
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
        count = {s: int((status == s).sum()) for s in Status}
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
        (attributes.get("waiting") or "") if state == "running" else "",
    )  # fmt: skip


def stored_verdict(store: RunStore) -> Verdict | None:
    """The verdict that a finished run keeps."""
    attributes = store.attributes
    known = attributes.get(VERDICT) if attributes["state"] == "finished" else None
    return None if known is None else Verdict.from_json(known)
