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

    Above `knee` (in these units) the engines compare the logarithm of the intensity, below it the intensity itself;
    None: no logarithm. The global start has its own knee.
    """

    low: float = Field(1.0, ge=0, lt=100)
    high: float = Field(99.9, gt=0, le=100)
    knee: float | None = Field(None, gt=0, le=1)


class Stripes(Section):
    """Shadows of a light sheet, or slices of different brightness, along the image's own axes.

    along     the axis of a stripe, or two axes for whole slices
    across    the axis across which stripes follow each other
    width_um  what is as wide as this is no stripe
    length_um length over which a stripe is constant; None: the whole axis
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
    """What is done to an image before the engines compare it; null: not done. Lengths in µm.

    background_um    what is dim in every window of this size is removed
    bias_um          tissue is made equally bright on average over this length
    clip             percentiles of the image at which intensities are clipped
    contrast_um      intensities are spread by their distribution within this window, at most `contrast_limit` times
    despeckle        single voxels that differ strongly from their neighbours are replaced; auto: if an image has many
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
    """Corrections of each image for comparison; they never change what is written."""

    fixed: Preprocess = Preprocess()
    moving: Preprocess = Preprocess()
