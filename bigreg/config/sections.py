"""Every key of a configuration, its type and its default. Unknown keys are errors."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from ..cluster.settings import Cluster
from .channels import ChannelPair, Labels
from .images import Intensity, Preprocessing, Section


class Masks(Section):
    """What is compared of each image.

    none: everything; tissue: what is brighter than the background, detected; finite: all but the NaN and infinite
    voxels of a float image; padding: all but one constant value around the data, as rotating, deskewing and stitching
    leave it; auto: padding if there is some, else none; or the path of a mask in any format that is read, 0 where not
    to compare (CONTAINER/DATASET in HDF5 and N5), or of a label image and the labels to compare (PATH:1, PATH:1,3). A
    mask is placed by its own spacing and origin or, if its file states none, voxel on voxel of the image or of a whole
    number of them.

    noncorrespondence   also leave out what has no counterpart in the other image, as found on each level
    """

    fixed: str = "auto"
    moving: str = "auto"
    noncorrespondence: bool = True


class Affine(Section):
    """The global start.

    `start` replaces the search: an affine (ITK's .txt .mat .h5, a 4 x 4 matrix, or landmarks as .csv), which is refined
    as `kind` says; or a run, whose whole map is used as it is. `start_unit` and `start_axes` are those of ITK's files.
    If the search ends with a confidence below `least_confidence`, the run stops until a person has accepted a start; 0:
    it never stops. A mirror image is used only with `allow_mirror`.
    """

    kind: Literal["none", "translation", "rigid", "similarity", "affine"] = "affine"
    similarity: Literal["lncc", "lncc_squared", "ncc", "mse", "mi", "nmi"] = "lncc"
    rotations_deg: float = Field(10.0, ge=0, le=45)
    min_overlap: float = Field(0.2, gt=0, le=1)
    knee: float | None = Field(None, gt=0, le=1)
    voxels: int = Field(128, ge=32, le=512)
    allow_mirror: bool = False
    least_confidence: float = Field(0.5, ge=0, le=1)
    start: str | None = None
    start_unit: Literal["mm", "um"] = "mm"
    start_axes: Literal["lps", "xyz"] = "lps"


class Landmarks(Section):
    """Pairs that steer the registration on every level; a pair that nothing supports loses its weight.

    path         BigWarp's CSV, or one with columns fixed_z ... moving_x, µm; auto: the run finds pairs by itself
    weight       relative to 1, the weight of the images where they are certain
    accuracy_um  how exactly the points were set; at least a level's voxel
    spline       begin with a thin-plate spline through the pairs, if an affine is not enough
    """

    path: str | None = None
    weight: float = Field(10.0, gt=0)
    accuracy_um: float | None = Field(None, gt=0)
    spline: bool = False

    @model_validator(mode="after")
    def _pairs_for_the_spline(self) -> Landmarks:
        if self.spline and self.path is None:
            raise ValueError("spline needs pairs to go through: give landmarks.path")
        return self


class Ladder(Section):
    """The levels, coarse to fine."""

    finest: int = Field(1, ge=1)
    coarsest: int | None = Field(None, ge=1)
    cell_voxels: int = Field(4, ge=2, le=16)
    samples: int = Field(2, ge=1, le=16)
    iterations: list[int] = Field([20, 30, 40, 60], min_length=1)
    repeats: list[int] = Field([1], min_length=1)

    @field_validator("finest", "coarsest")
    @classmethod
    def _power_of_two(cls, value: int | None) -> int | None:
        if value is not None and value & (value - 1):
            raise ValueError(f"{value} must be a power of two")
        return value

    @field_validator("iterations", "repeats")
    @classmethod
    def _at_least_one(cls, value: list[int]) -> list[int]:
        if min(value) < 1:
            raise ValueError(f"{value} must be numbers of at least 1")
        return value


def listed(value: Any) -> Any:
    """One name as a list of it; anything else as it is."""
    return [value] if isinstance(value, str) else value


def _only_of_used(engines: list[str], options: dict[str, dict[str, Any]]) -> None:
    for name in options:
        if name not in engines:
            used = ", ".join(engines) or "none"
            raise ValueError(
                f"there are options for {name!r}, which is not used (used: {used}); they go under the engine"
            )


_NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 1}
Engines = Annotated[
    list[str], BeforeValidator(listed), Field(min_length=1), WithJsonSchema({"anyOf": [_NAMES, {"type": "string"}]})
]
"""Names of engines, each going on from what the one before it found; one may be given without a list."""
Options = dict[str, dict[str, Any]]
"""Of each engine, by its name."""


class Coarse(Section):
    """Other engines for the first, coarsest passes of the ladder."""

    engine: Engines | None = None
    passes: int = Field(1, ge=1)
    options: Options = Field(default_factory=dict)

    @model_validator(mode="after")
    def _options_are_used(self) -> Coarse:
        _only_of_used(self.engine or [], self.options)
        return self


class Blocks(Section):
    """The unit of work, in voxels of a level."""

    core: int = Field(128, ge=8)
    halo: int = Field(16, ge=0)


class Output(Section):
    """What the run writes beside its maps. The report can also be written later."""

    warped: bool = True
    confidence: bool = True
    sigma: bool = True
    report: bool = True
    interpolation: Literal["linear", "cubic"] = "linear"
    chunk: int = Field(64, ge=8)
    shard: int = Field(128, ge=8)

    @field_validator("shard")
    @classmethod
    def _whole_chunks(cls, value: int, info: Any) -> int:
        if "chunk" in info.data and value % info.data["chunk"]:
            raise ValueError(f"shard {value} must be a multiple of chunk {info.data['chunk']}")
        return value


class Guarantee(Section):
    """What the stored fields must satisfy; otherwise the velocity is damped until they do."""

    min_determinant: float = Field(0.05, gt=0, lt=0.5)
    inverse_tolerance: float = Field(0.01, gt=0, lt=0.5)


class IO(Section):
    """Storage access of one worker process. `copies` None: 4, or the worker's part of the cores if it has a GPU."""

    copies: int | None = Field(None, ge=1)
    transfers: int = Field(8, ge=1)
    cache: str = "64MB"

    @field_validator("cache")
    @classmethod
    def _size(cls, value: str) -> str:
        if _bytes(value) is None:
            raise ValueError(f"{value!r} is not a size such as 64MB")
        return value

    @property
    def cache_bytes(self) -> int:
        size = _bytes(self.cache)
        assert size is not None, "checked when it was set"
        return size


_PLAIN_BYTES = re.compile(r"(\d+) ?(MB|GB|MiB|GiB)")
_BYTES = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


def _bytes(text: str) -> int | None:
    if plain := _PLAIN_BYTES.fullmatch(text):  # Dask is not to be imported for what every preset says
        return int(plain[1]) * _BYTES[plain[2]]
    from dask.utils import parse_bytes

    try:
        size = parse_bytes(text)
    except ValueError:
        return None
    return size if size >= 0 else None


class Config(Section):
    """Configuration of one registration.

    Without `deformation`, the affine is the whole map: no engine runs, and the levels only set how finely the images
    are compared.
    """

    intensity: Intensity = Intensity()
    preprocess: Preprocessing = Preprocessing()
    masks: Masks = Masks()
    channels: list[ChannelPair] = Field(default_factory=list)
    labels: Labels | None = None
    affine: Affine = Affine()
    landmarks: Landmarks = Landmarks()
    deformation: bool = True
    ladder: Ladder = Ladder()
    engine: Engines = Field(["optimise"])
    engine_options: Options = Field(default_factory=dict)
    coarse: Coarse = Coarse()
    blocks: Blocks = Blocks()
    output: Output = Output()
    guarantee: Guarantee = Guarantee()
    cluster: Cluster = Cluster()
    io: IO = IO()

    @model_validator(mode="after")
    def _options_are_used(self) -> Config:
        _only_of_used(self.engine, self.engine_options)
        return self

    @model_validator(mode="after")
    def _pairs_steer_something(self) -> Config:
        if not self.deformation and self.landmarks.path is not None:
            raise ValueError(
                f"landmarks.path {self.landmarks.path!r} steers the deformation, and there is none (deformation: "
                "false); give the pairs as affine.start, or allow the deformation"
            )
        return self

    def result_part(self) -> dict[str, Any]:
        """The part that decides the result: all but cluster, storage and when to ask. A resumed run must agree."""
        return self.model_dump(mode="json", exclude={"cluster": True, "io": True, "affine": {"least_confidence"}})
