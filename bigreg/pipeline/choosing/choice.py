"""Which preset a registration takes where its user says none: what a short look says, told and kept in the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ... import storage
from ...config import Config, load_config
from ...engines.affine import AffineResult
from ...errors import named
from ...volumes import Volume
from ..context.lying import provisional
from ..judging.status import CHOICE
from ..store.inputs import Image, require_one_plane
from ..store.store import RunStore, is_run
from ..tasks.start import affine_factors
from .copies import unreadable
from .diagnosis import ROUNDS
from .look import look

DEFAULT = ROUNDS


@dataclass(frozen=True, eq=False)
class Choice:
    """A preset that nobody named.

    settings     KEY=VALUE on top of it, below what the user sets
    why          one line; looked: whether the images were looked at
    candidates   presets that fit, the likeliest first
    answers      starts that were searched on the way, for the run (see `context.looked`)
    """

    preset: str
    settings: tuple[str, ...]
    why: str
    looked: bool
    candidates: tuple[str, ...] = ()
    answers: tuple[tuple[str, AffineResult], ...] = field(default=(), repr=False)

    def config(self, overrides: Sequence[str] = (), cluster: Any = None) -> Config:
        """The configuration, with what a user sets."""
        return load_config(preset=self.preset, cluster=cluster, overrides=[*self.settings, *overrides])

    def to_json(self) -> dict[str, Any]:
        return {"line": self.line, **{k: v for k, v in vars(self).items() if k != "answers"}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Choice:
        return cls(data["preset"], tuple(data["settings"]), data["why"], data["looked"], tuple(data["candidates"]))

    @property
    def line(self) -> str:
        """What is told."""
        how = "chosen from the images" if self.looked else "the default, as the images were not inspected"
        settings = f" with {', '.join(self.settings)}" if self.settings else ""
        rest = self.candidates[1:]
        doubt = f"; {' or '.join(rest)} may fit as well" if rest else ""
        asked = named("--preset", "config")
        return f"preset: {self.preset}{settings}, {how}: {self.why}{doubt}; pass {asked} to choose another"


def choose(
    images: Mapping[str, Image], overrides: Sequence[str] = (), cluster: Any = None, out: str | None = None
) -> Choice | None:
    """The choice for a pair; a run that is at `out` keeps its own, None where that has none.

    Raises what `register` raises for such images and overrides.
    """
    if out is not None and storage.exists(out) and is_run(out):
        return stored_choice(RunStore(out))
    require_one_plane(*images.values())
    config = load_config(DEFAULT, cluster=cluster, overrides=list(overrides))
    volumes = {which: v for which, v in images.items() if isinstance(v, Volume)}
    if len(volumes) < len(images):
        return Choice(DEFAULT, (), "hypothetical images cannot be inspected", False)
    frames = provisional(images["fixed"], images["moving"])
    for which, volume in volumes.items():
        problem = unreadable(volume, affine_factors(frames, which, config.affine.voxels))
        if problem is not None:
            return Choice(DEFAULT, (), problem, False)
    seen = look(volumes, overrides, cluster)
    found = seen.diagnosis
    return Choice(found.preset or DEFAULT, found.settings, found.why, True, found.candidates, seen.answers)


def stored_choice(store: RunStore) -> Choice | None:
    """How the preset of a run was chosen; None where its user named it, and in a run of before it was kept."""
    known = store.attributes.get(CHOICE)
    return None if known is None else Choice.from_json(known)


def chosen_config(
    images: Mapping[str, Image], overrides: Sequence[str] = (), cluster: Any = None, out: str | None = None
) -> tuple[Config, Choice | None]:
    """The configuration where no preset and no file is given, and the choice that led to it."""
    choice = choose(images, overrides, cluster, out)
    if choice is None:  # the run that is there was begun with a preset; before one was chosen, it was this
        return load_config(DEFAULT, cluster=cluster, overrides=list(overrides)), None
    return choice.config(overrides, cluster), choice
