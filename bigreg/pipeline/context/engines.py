"""Which engines work at a level. It knows none by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

from ...config import Config
from ...engines import Engine
from ...engines.base import engine_kind
from ...engines.chain import chained, load_engines
from ...engines.noncorrespondence import SIMILARITIES
from ...errors import ConfigError
from .ladder import LevelPlan


@dataclass(frozen=True)
class EngineChoice:
    """Engines by name, one going on from the other, with the options of each (JSON), and where those are configured."""

    names: tuple[str, ...]
    options: str
    place: str

    def load(self, iterations: int) -> dict[str, Engine]:
        """The engines. Raises ConfigError."""
        return load_engines(self.names, json.loads(self.options), iterations=iterations)

    def identities(self, engines: Mapping[str, Engine]) -> dict[str, str]:
        """What decides the results of engines beside their options, by where these are configured."""
        found = {f"{self.place}.{name}": getattr(engine, "identity", None) for name, engine in engines.items()}
        return {place: identity for place, identity in found.items() if identity is not None}


def _choices(config: Config) -> dict[str, EngineChoice]:
    found = {"main": EngineChoice(tuple(config.engine), json.dumps(config.engine_options), "engine_options")}
    if config.coarse.engine is not None:
        coarse = config.coarse
        found["coarse"] = EngineChoice(tuple(config.coarse.engine), json.dumps(coarse.options), "coarse.options")
    return found


def engine_choice(config: Config, level: LevelPlan, levels: int) -> EngineChoice:
    """The engines of one of so many passes of the ladder."""
    choices = _choices(config)
    return choices["coarse" if "coarse" in choices and level.index >= levels - config.coarse.passes else "main"]


def gives_sigma(config: Config, finest: LevelPlan, levels: int) -> bool:
    """Whether a run keeps what the last engine of the finest of so many passes says of how far it may be off."""
    if not (config.deformation and config.output.sigma):
        return False
    return bool(getattr(engine_kind(engine_choice(config, finest, levels).names[-1]), "gives_sigma", False))


def matched_by(config: Config, level: LevelPlan, levels: int) -> str | None:
    """The similarity by which the last engine of one of so many passes compares, where what has no counterpart can be
    told by it and is looked for; None elsewhere.
    """
    if not (config.deformation and config.masks.noncorrespondence):
        return None
    choice = engine_choice(config, level, levels)
    kind, name = engine_kind(choice.names[-1]), choice.names[-1]
    if not getattr(kind, "by_similarity", False):
        return None
    known = json.loads(choice.options).get(name, {}).get("similarity", signature(kind).parameters["similarity"].default)
    return known if known in SIMILARITIES else None


def settled_engines(config: Config) -> tuple[Config, dict[str, str]]:
    """The configuration with options that mean the same in every process, and the identities of its engines.

    Raises ConfigError for an engine or an option that does not exist, and for engines that do not go together.
    """
    identities: dict[str, str] = {}
    settled: dict[str, dict[str, Any]] = {}
    for which, choice in _choices(config).items():
        engines = choice.load(1)
        chained(engines)
        _require_channels(config, choice)
        identities |= choice.identities(engines)
        given = json.loads(choice.options)
        settled[which] = {
            name: {key: getattr(engines[name], "options", {}).get(key, value) for key, value in options.items()}
            for name, options in given.items()
        }
    update: dict[str, Any] = {"engine_options": settled["main"]}
    if "coarse" in settled:
        update["coarse"] = config.coarse.model_copy(update={"options": settled["coarse"]})
    return config.model_copy(update=update), identities


def _require_channels(config: Config, choice: EngineChoice) -> None:
    """Raise ConfigError where an engine would leave out channels or labels."""
    place = choice.place.replace("_options", "").replace(".options", ".engine")
    if not config.deformation:
        return
    several = len(config.channels) > 1
    lacking = [n for n in choice.names if several and not getattr(engine_kind(n), "takes_channels", False)]
    if lacking:
        raise ConfigError(
            f"{place}: engine {lacking[0]!r} compares one channel, and there are {len(config.channels)}; name one pair "
            "of channels, or take another engine, such as optimise"
        )
    last = choice.names[-1]
    if config.labels is not None and place == "engine" and not getattr(engine_kind(last), "takes_labels", False):
        raise ConfigError(
            f"{place}: engine {last!r} takes no labels, so they would not steer; let optimise follow "
            f"([{last}, optimise]), or leave the labels out"
        )


def check_spacings(config: Config, levels: Iterable[LevelPlan]) -> None:
    """Raise ConfigError where an engine cannot work at the voxels of its levels."""
    levels = list(levels) if config.deformation else []
    loaded: dict[EngineChoice, dict[str, Engine]] = {}
    for level in levels:
        choice = engine_choice(config, level, len(levels))
        if choice not in loaded:
            loaded[choice] = choice.load(level.iterations)
        for engine in loaded[choice].values():
            if hasattr(engine, "check_spacing"):
                engine.check_spacing(level.spacing)
