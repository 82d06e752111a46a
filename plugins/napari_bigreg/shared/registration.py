"""A registration that is to be started, as a form holds it: its images, its run, its configuration. Knows no Qt."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import BaseModel

import bigreg
from bigreg.config import Config, load_config
from bigreg.errors import BigregError, ConfigError, InputError
from bigreg.volumes import Volume

SIDES = ("fixed", "moving")


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
        given: dict[str, Any] = {f.name: spec.get(f.name) for f in fields(cls)}
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
                    raise InputError(f"{side} {f.name} '{value}' is not three numbers Z Y X in µm") from error
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
        with blaming("config"):
            load_config(self.config)
        for row, item in enumerate(self.overrides):
            # Each by itself, so that the row is known; all at once below, as one may need another.
            try:
                load_config(self.config, overrides=[item])
            except ConfigError as error:
                if len(self.overrides) == 1 or not _valid(self.config, self.overrides):
                    raise FieldError("set", error, row) from error
        with blaming("set"):
            load_config(self.config, overrides=list(self.overrides))
        overrides = list(self.overrides)
        with blaming("cluster"):
            config = load_config(self.config, cluster=self.cluster or None, overrides=overrides)
        for place, key, value in (("workers", "workers", self.workers), ("memory", "memory_limit", self.memory)):
            if value:
                overrides.append(f"cluster.{key}={json.dumps(value)}")
                with blaming(place):
                    config = load_config(self.config, cluster=self.cluster or None, overrides=overrides)
        return config


@contextmanager
def blaming(place: str) -> Iterator[None]:
    """What bigreg refuses inside becomes a FieldError of that field."""
    try:
        yield
    except BigregError as error:
        raise FieldError(place, error) from error


def _valid(config: str, overrides: tuple[str, ...]) -> bool:
    try:
        load_config(config, overrides=list(overrides))
    except ConfigError:
        return False
    return True


def presets() -> list[str]:
    from bigreg.config import preset_names

    return preset_names()


def clusters() -> list[str]:
    from bigreg.config import cluster_names

    return cluster_names()


def keys(model: type[BaseModel] = Config, before: str = "") -> list[str]:
    """All keys that can be set, dotted."""
    out = []
    for name, about in model.model_fields.items():
        inner = about.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            out += keys(inner, f"{before}{name}.")
        else:
            out.append(before + name)
    return out
