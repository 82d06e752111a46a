"""The part of a configuration that says how the intensities of images are seen; and what all parts have in common."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Field(gt=0)


class Section(BaseModel):
    """Part of a configuration: what it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Intensity(Section):
    """Both images are scaled so that these percentiles become 0 and 1.

    Above `knee` (in these units) the engines compare intensities by their logarithm, below as they are; None: no
    logarithm. The global start has a knee of its own.
    """

    low: float = Field(1.0, ge=0, lt=100)
    high: float = Field(99.9, gt=0, le=100)
    knee: float | None = Field(None, gt=0, le=1)


class Stripes(Section):
    """Shadows of a light sheet, or slices of another brightness, along the image's own axes.

    along     what a stripe runs along: one axis, or two for whole slices
    across    what it is told from its neighbours by
    width_um  what is as wide as this across is no stripe
    length_um a stripe is the same over this length; None: over the whole axis
    """

    along: Literal["z", "y", "x", "yx", "zx", "zy"] = "x"
    across: Literal["z", "y", "x"] = "y"
    width_um: float = Positive
    length_um: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _across_is_another(self) -> Stripes:
        if self.across in self.along:
            raise ValueError(f"stripes along {self.along} cannot be distinguished across {self.across}")
        return self


class Preprocess(Section):
    """What the engines see of one image in place of what is stored; null is not done. Lengths in µm.

    background_um    what is dim in every window of this size is taken away
    bias_um          tissue is made equally bright on average over this length
    clip             percentiles of the image below and above which is cut
    contrast_um      intensities are spread by their distribution within this window, at most `contrast_limit` times
    despeckle        single voxels far outside of their neighbours are replaced; auto: where an image has many
    """

    stripes: Stripes | None = None
    background_um: float | None = Field(None, gt=0)
    bias_um: float | None = Field(None, gt=0)
    clip: tuple[float, float] | None = None
    contrast_um: float | None = Field(None, gt=0)
    contrast_limit: float = Field(3.0, gt=1)
    despeckle: bool | Literal["auto"] = "auto"

    @field_validator("clip")
    @classmethod
    def _in_order(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 <= value[0] < value[1] <= 100:
            raise ValueError(f"{value} must be two increasing percentiles")
        return value

    @property
    def by_tiles(self) -> bool:
        """Whether something is done that is estimated of tiles."""
        return any(v is not None for v in (self.background_um, self.bias_um, self.clip, self.contrast_um))

    @property
    def any(self) -> bool:
        return self.by_tiles or self.stripes is not None


class Preprocessing(Section):
    """Of each image; what is written is never touched by it."""

    fixed: Preprocess = Preprocess()
    moving: Preprocess = Preprocess()
