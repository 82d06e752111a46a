"""What runs on a worker for one block, and what comes back of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from distributed import get_worker

from ... import storage
from ...cluster import GPU, give_back_memory
from ...device import computing_on
from ...errors import BigregError, CorruptDataError, InputError, OutputError
from ...geometry import Shape
from ..store.store import Status

Opener = Callable[[str, str], Any]
"""What a task is given, of the url of a store and the stamp of its state."""

FATAL = (InputError, OutputError, CorruptDataError)


@dataclass(frozen=True)
class Failure:
    """Why a block failed, in a form that travels. `error`: what was raised, where bigreg raised it on purpose."""

    message: str
    trace: str = ""
    error: BigregError | None = None

    @property
    def fatal(self) -> bool:
        """Whether other blocks will most likely meet the same."""
        return isinstance(self.error, FATAL)


@dataclass(frozen=True)
class Answer:
    """What comes back of a block. `worker`: where it ran."""

    status: Status
    metrics: dict[str, float]
    failure: Failure | None = None
    worker: str = ""


def told(failures: Mapping[tuple[str, Shape], Failure], accepted: bool = False) -> list[dict]:
    """Failures, by stage and block, as the run's attribute `errors` lists them."""
    return [
        {"stage": name, "block": list(index), "message": f.message, "trace": f.trace, "accepted": accepted}
        for (name, index), f in failures.items()
    ]


def execute(opener: Opener, url: str, stamp: str, task: Callable, arguments: tuple, index: Shape) -> Answer:
    """On a worker: one block. One torch thread, so that sums are added in one order whatever the machine."""
    torch.set_num_threads(1)
    own = get_worker()
    worker = own.address
    try:
        with storage.computing(), computing_on("cuda" if GPU in own.state.total_resources else "cpu"):
            _begin(task)
            status, metrics = task(opener(url, stamp), *arguments, index)
            return Answer(status, metrics, worker=worker)
    except BigregError as error:
        return Answer(Status.FAILED, {}, Failure(str(error), traceback.format_exc(), error), worker)
    except Exception as error:
        return Answer(Status.FAILED, {}, Failure(f"{type(error).__name__}: {error}", traceback.format_exc()), worker)


_begun: set[str] = set()


def _begin(task: Callable) -> None:
    """Before the first block of a kind: what blocks of other kinds have left is given back, as it fits these badly."""
    kind = getattr(task, "__qualname__", type(task).__name__)
    if kind not in _begun:
        _begun.add(kind)
        give_back_memory()
