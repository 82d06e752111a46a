"""The part of a configuration that says which further images of a pair are compared: channels, and labels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from .images import Intensity, Preprocessing, Section

Name = Annotated[str, StringConstraints(min_length=1)]
Number = Annotated[int, Field(ge=0)]


class ChannelPair(Section):
    """A channel of each image; the two are compared with each other.

    fixed, moving   number, from 0, or name
    weight          of its similarity; 1 is the weight, against the stiffness, of an image that is compared alone
    similarity      null: the engine's and the affine's own (where the affine does not know it: one for any contrast)
    intensity, preprocess   instead of those of the whole configuration; null: the same
    """

    fixed: Number | Name | None = None
    moving: Number | Name | None = None
    weight: float = Field(1.0, gt=0, le=1e6)
    similarity: Literal["lncc", "lncc_squared", "ncc", "mse", "mi", "nmi", "mind", "ngf"] | None = None
    intensity: Intensity | None = None
    preprocess: Preprocessing | None = None


class Labels(Section):
    """Label images of both; the most frequent labels that both have are brought onto each other. 0 is no label.

    fixed, moving   paths, CONTAINER/DATASET in HDF5 and N5. A label image is placed as a mask is, and may be coarser or
                    cover only a part
    weight          of all of them together, relative to the images
    """

    fixed: Name
    moving: Name
    weight: float = Field(1.0, gt=0, le=1e6)
