"""What is known of a run before any of its voxels is read; the plan and the run ask the same of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from ...config import Config
from .engines import matched_by
from .frames import Frames
from .ladder import LevelPlan, ladder


class Outlined(Protocol):
    """What an Outline and a Context have."""

    @property
    def frames(self) -> Frames: ...

    @property
    def config(self) -> Config: ...

    @property
    def levels(self) -> dict[int, LevelPlan]: ...

    @property
    def coarse_to_fine(self) -> list[LevelPlan]: ...

    @property
    def steered(self) -> bool: ...

    def matched_by(self, level: LevelPlan) -> str | None: ...


@dataclass(frozen=True, eq=False)
class Outline:
    """Frames and configuration, and the levels that follow from them. A Context has the same and more."""

    frames: Frames
    config: Config

    @cached_property
    def levels(self) -> dict[int, LevelPlan]:
        return {plan.index: plan for plan in ladder(self.frames, self.config)}

    @property
    def coarse_to_fine(self) -> list[LevelPlan]:
        return [self.levels[index] for index in sorted(self.levels, reverse=True)]

    def matched_by(self, level: LevelPlan) -> str | None:
        """See `matched_by`."""
        return matched_by(self.config, level, len(self.levels))

    @property
    def steered(self) -> bool:
        """Whether pairs of landmarks steer the levels; those that a run looks for are thought to be found."""
        return self.config.landmarks.path is not None
