"""Whether what is to be registered can be, what it costs; and its start as a process of its own. Knows no Qt."""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bigreg
from bigreg import storage
from bigreg.cluster import require_memory
from bigreg.config import Config
from bigreg.engines import load_engine
from bigreg.errors import BigregError, ConfigError, OutputError, ResourceError
from bigreg.pipeline.planning.plan import Plan
from bigreg.volumes import Volume

from ..shared.processes import log_of, start_process
from ..shared.registration import SIDES, FieldError, Launch, blaming

Report = Callable[[int, int, str], Any]


@dataclass(frozen=True, eq=False)
class Checked:
    """What was found good: images, configuration, plan, and whether a run that is there is gone on with."""

    volumes: dict[str, Volume]
    config: Config
    plan: Plan
    rows: list[tuple[str, str]]
    goes_on: bool


def _quiet(done: int, total: int, text: str) -> None:
    pass


def check(launch: Launch, report: Report = _quiet) -> Checked:
    """Look at everything that `bigreg register` would refuse, field by field, without reading a voxel.

    Raises FieldError.
    """
    volumes, config = opened(launch, report)
    report(3, 4, "plan")
    try:
        plan = bigreg.plan(volumes["fixed"], volumes["moving"], config=config)
    except BigregError as error:
        raise FieldError(_place(error), error) from error
    with blaming("memory"):
        require_memory(plan.memory_per_worker, config.cluster)
    with blaming("run"):
        goes_on = _run_place(launch.run)
    return Checked(volumes, config, plan, [*plan.rows(), *plan.place_rows(launch.run)], goes_on)


def opened(launch: Launch, report: Report = _quiet) -> tuple[dict[str, Volume], Config]:
    """Both images and the configuration. Raises FieldError."""
    volumes = {}
    for number, side in enumerate(SIDES):
        report(number, 4, side)
        with blaming(side):
            volumes[side] = getattr(launch, side).open(side)
    report(2, 4, "configuration")
    return volumes, launch.settings()


@dataclass(frozen=True)
class Stiffness:
    """The key of the configuration that says it, its value, and what the engine takes.

    auto: it is chosen, and the value is that where nothing is.
    """

    key: str
    value: float
    low: float
    high: float
    auto: bool = False


def stiffness(launch: Launch) -> Stiffness | None:
    """Of the last engine that has one; None where none has. Raises BigregError."""
    config = launch.settings()
    for name in reversed(config.engine):
        options = dict(config.engine_options.get(name, {}))
        given = options.pop("regularisation", None)
        auto = isinstance(given, str)
        engine: Any = load_engine(name, {**options, "regularisation": given} if auto else options)
        bounds = getattr(engine, "stiffness", None)
        if bounds is not None:
            # An engine that is not given one takes its own default, or the middle of its range.
            value = (None if auto else given) or engine.regularisation or math.sqrt(bounds[0] * bounds[1])
            low, high = bounds
            return Stiffness(f"engine_options.{name}.regularisation", value, low, high, auto)
    return None


def _run_place(run: str) -> bool:
    if not run.strip():
        raise OutputError("the run is missing: give a new folder or URL, such as run.zarr")
    if not storage.exists(run):
        return False
    if not bigreg.is_run(run):
        raise OutputError(f"'{run}' exists already and is no run; choose another place")
    state = bigreg.open_run(run).status().state
    if state == "finished":
        raise OutputError(f"'{run}' is a finished run; choose another place, or open it")
    return True


def _place(error: BigregError) -> str:
    """The field that an error of a plan speaks of."""
    text = str(error)
    for side in SIDES:
        if text.startswith(side):
            return side
    if isinstance(error, ResourceError):
        return "memory"
    return "cluster" if re.match(r"cluster\b", text) else "set" if isinstance(error, ConfigError) else "config"


# ----------------------------------------------------------------------------------------------------------- processes


@dataclass(frozen=True, eq=False)
class Started:
    """A registration that goes on by itself. `log`: what it says."""

    process: subprocess.Popen
    log: Path
    run: str

    @property
    def ended(self) -> int | None:
        """Its exit status; None while it works."""
        return self.process.poll()

    @property
    def works(self) -> bool:
        """Whether it has the run in hand, or is done with it: from then on the run itself tells how it goes."""
        if not bigreg.is_run(self.run):
            return False
        holder = bigreg.open_run(self.run).held_by()
        return self.ended == 0 or (holder is not None and holder.get("process") == self.process.pid)

    def tail(self, lines: int = 12) -> str:
        """The last lines of what it said."""
        with open(self.log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            text = file.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def begin(launch: Launch) -> Started:
    """Begin the registration in a session of its own: it outlives napari.

    Raises FieldError where the log cannot be written.
    """
    log = log_of(launch.run)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return Started(start_process(launch.arguments(), log), log, launch.run)
    except OSError as error:
        raise FieldError("run", f"'{log}' cannot be written: {error.strerror or error}; choose another run") from error
