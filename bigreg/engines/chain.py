"""Several engines one after the other on the same patch: each goes on from what the one before it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from ..errors import ConfigError
from .base import Engine, PatchPair, VelocityPatch, estimate_antisymmetric, load_engine


class Chain:
    """Engine made of engines. What is said of a patch is what the last says, and the similarity before the first."""

    antisymmetric: ClassVar[bool] = True

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self.engines = dict(engines)
        for name, engine in list(self.engines.items())[1:]:
            if not getattr(engine, "takes_start", False):
                raise ConfigError(
                    f"engine {name!r} cannot continue from what {next(iter(self.engines))!r} found; put it first, "
                    "or leave it out"
                )

    def estimate(self, pair: PatchPair) -> VelocityPatch:
        """See bigreg.engines.base."""
        for engine in self.engines.values():
            patch = estimate_antisymmetric(engine, pair)
            pair = replace(pair, start=patch.coefficients)
        return patch


def load_engines(
    names: Sequence[str], options: Mapping[str, Mapping[str, Any]], *, iterations: int | None = None
) -> dict[str, Engine]:
    """Engines by name, in order, each made with its own options. Raises ConfigError."""
    if len(set(names)) < len(names):
        raise ConfigError(f"engines {', '.join(names)}: one is named twice; name each once")
    return {name: load_engine(name, options.get(name, {}), iterations=iterations) for name in names}


def chained(engines: Mapping[str, Engine]) -> Engine:
    """One engine that is all of them, one after the other. Raises ConfigError where that cannot be."""
    return next(iter(engines.values())) if len(engines) == 1 else Chain(engines)
