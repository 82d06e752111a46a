"""What is to be registered, whether it can be, what it costs; and its start as a process of its own. Knows no Qt."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import bigreg
from bigreg import storage
from bigreg.cluster import require_memory
from bigreg.config import Config, load_config
from bigreg.errors import BigregError, ConfigError, InputError, OutputError, ResourceError
from bigreg.pipeline.planning.plan import Plan
from bigreg.volumes import Volume

from ..shared.processes import log_of, start_process

SIDES = ("fixed", "moving")
Report = Callable[[int, int, str], Any]


class FieldError(Exception):
    """What is wrong, and in which field of the form; `row`: which of the overrides."""

    def __init__(self, place: str, error: BigregError | str, row: int | None = None) -> None:
        super().__init__(str(error))
        self.place, self.row = place, row

    def __reduce__(self) -> tuple:
        return FieldError, (self.place, str(self), self.row)


@dataclass(frozen=True)
class Choice:
    """One image: a path or URL, and what its file does not say or says wrongly (text as a person types it)."""

    path: str = ""
    dataset: str = ""
    channel: int | None = None
    time: int | None = None
    spacing: str = ""
    origin: str = ""
    orientation: str = ""

    @classmethod
    def of(cls, spec: dict[str, Any]) -> Choice:
        """From what a run keeps of its image."""
        given = {f.name: spec.get(f.name) for f in fields(cls)}
        texts = {k: " ".join(f"{v:g}" for v in given[k]) for k in ("spacing", "origin") if given[k] is not None}
        return cls(**{k: v for k, v in {**given, **texts}.items() if v is not None})

    def given(self, side: str) -> dict[str, Any]:
        """What is said beside the path. Raises InputError."""
        out: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "path" or value in ("", None):
                continue
            if f.name in ("spacing", "origin"):
                try:
                    value = tuple(float(v) for v in value.replace(",", " ").split())
                except ValueError as error:
                    raise InputError(f"{side} {f.name} '{value}' is not three numbers Z Y X in um") from error
            out[f.name] = value
        return out

    def options(self, side: str) -> list[str]:
        """For the command line."""
        out = []
        for name, value in self.given(side).items():
            out += [f"--{side}-{name}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
        return out

    def open(self, side: str) -> Volume:
        """Raises InputError."""
        if not self.path.strip():
            raise InputError(f"{side} is missing: give a path or URL")
        return bigreg.open_volume(self.path, name=side, **self.given(side))


@dataclass(frozen=True)
class Launch:
    """A form filled in: what `bigreg register` takes. `config`: name of a preset, or path of a YAML file."""

    fixed: Choice = field(default_factory=Choice)
    moving: Choice = field(default_factory=Choice)
    run: str = ""
    config: str = "rounds"
    overrides: tuple[str, ...] = ()
    cluster: str = ""
    workers: int | None = None
    memory: str = ""

    def arguments(self) -> list[str]:
        """Of the command `bigreg`."""
        which = "--preset" if self.config in presets() else "--config"
        out = ["register", self.fixed.path, self.moving.path, self.run, which, self.config]
        out += [part for item in self.overrides for part in ("--set", item)]
        out += ["--cluster", self.cluster] if self.cluster else []
        out += ["--workers", str(self.workers)] if self.workers else []
        out += ["--memory-limit", self.memory] if self.memory else []
        return out + self.fixed.options("fixed") + self.moving.options("moving")

    def text(self) -> str:
        """The command line for a terminal, or for a cluster's login node."""
        return shlex.join(["bigreg", *self.arguments()])

    def settings(self) -> Config:
        """The configuration. Raises FieldError that names where it is wrong."""
        with _in("config"):
            load_config(self.config)
        for row, item in enumerate(self.overrides):
            # Each by itself, so that the row is known; all at once below, as one may need another.
            try:
                load_config(self.config, overrides=[item])
            except ConfigError as error:
                if len(self.overrides) == 1 or not _valid(self.config, self.overrides):
                    raise FieldError("set", error, row) from error
        with _in("set"):
            load_config(self.config, overrides=list(self.overrides))
        overrides = list(self.overrides)
        with _in("cluster"):
            config = load_config(self.config, cluster=self.cluster or None, overrides=overrides)
        for place, key, value in (("workers", "workers", self.workers), ("memory", "memory_limit", self.memory)):
            if value:
                overrides.append(f"cluster.{key}={json.dumps(value)}")
                with _in(place):
                    config = load_config(self.config, cluster=self.cluster or None, overrides=overrides)
        return config


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
    with _in("memory"):
        require_memory(plan.memory_per_worker, config.cluster)
    with _in("run"):
        goes_on = _run_place(launch.run)
    return Checked(volumes, config, plan, [*plan.rows(), *plan.place_rows(launch.run)], goes_on)


def opened(launch: Launch, report: Report = _quiet) -> tuple[dict[str, Volume], Config]:
    """Both images and the configuration. Raises FieldError."""
    volumes = {}
    for number, side in enumerate(SIDES):
        report(number, 4, side)
        with _in(side):
            volumes[side] = getattr(launch, side).open(side)
    report(2, 4, "configuration")
    return volumes, launch.settings()


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


def _valid(config: str, overrides: tuple[str, ...]) -> bool:
    try:
        load_config(config, overrides=list(overrides))
    except ConfigError:
        return False
    return True


@contextmanager
def _in(place: str) -> Iterator[None]:
    try:
        yield
    except BigregError as error:
        raise FieldError(place, error) from error


def presets() -> list[str]:
    from bigreg.config import preset_names

    return preset_names()


def clusters() -> list[str]:
    from bigreg.config import cluster_names

    return cluster_names()


def keys(model: type = Config, before: str = "") -> list[str]:
    """All keys that can be set, dotted."""
    out = []
    for name, about in model.model_fields.items():
        inner = about.annotation
        if isinstance(inner, type) and hasattr(inner, "model_fields"):
            out += keys(inner, f"{before}{name}.")
        else:
            out.append(before + name)
    return out


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
