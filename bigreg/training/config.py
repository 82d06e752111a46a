"""What a training's YAML file says: every key, its type and its default. Unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from ..config import Intensity, Section, parse_yaml, set_key
from ..errors import ConfigError
from ..models import RANDOM
from ..volumes import ImageSpec
from .losses_config import Loss, kind_of

Vector = tuple[float, float, float]
Range = tuple[float, float]
Weight = Field(1.0, gt=0)


class Source(Section):
    """Where patches come from: one `image`, which is deformed, or `fixed` and `moving`, a real pair.

    A pair lies as `affine` says (4 x 4, fixed world to moving world, um, after orientation codes were brought to one
    another as `register` does), or as an existing `run` has it: its affine, and with `after` its maps after that level.
    Labels count for Dice, landmarks (CSV with fixed_z .. moving_x, um) for their distance.
    """

    image: ImageSpec | None = None
    fixed: ImageSpec | None = None
    moving: ImageSpec | None = None
    affine: list[list[float]] | None = None
    run: str | None = None
    after: int | None = Field(None, ge=0)
    labels: ImageSpec | None = None
    fixed_labels: ImageSpec | None = None
    moving_labels: ImageSpec | None = None
    landmarks: Path | None = None
    weight: float = Weight

    @field_validator("affine")
    @classmethod
    def _four_by_four(cls, value: list[list[float]] | None) -> list[list[float]] | None:
        if value is not None and (len(value) != 4 or any(len(row) != 4 for row in value)):
            raise ValueError("an affine is four rows of four numbers")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        pair = [self.fixed is not None, self.moving is not None]
        if (self.image is not None) == any(pair) or any(pair) != all(pair):
            raise ValueError("give either image (it is deformed), or both fixed and moving")
        only_pairs = ("affine", "run", "fixed_labels", "moving_labels", "landmarks", "after")
        wrong = [k for k in only_pairs if self.image is not None and getattr(self, k) is not None]
        wrong += ["labels"] if self.image is None and self.labels is not None else []
        if wrong:
            raise ValueError(f"{', '.join(wrong)} does not go with {'image' if self.image else 'a pair'}")
        if self.affine is not None and self.run is not None:
            raise ValueError("affine and run both state how the pair is aligned; give one")
        if self.after is not None and self.run is None:
            raise ValueError("after is a level of a run; give run")
        if self.after is not None and self.landmarks is not None:
            raise ValueError("landmarks are placed by the affine alone; leave out after, or them")
        if (self.fixed_labels is None) != (self.moving_labels is None):
            raise ValueError("labels are needed of both images")
        return self


class Tissue(Section):
    """Which patches are taken: their mean lies between `least` and `most`, and at least `share` is above `level`.

    Of intensities 0 .. 1; of a pair both images.
    """

    least: float = 0.03
    most: float = 0.9
    level: float = 0.05
    share: float = Field(0.1, ge=0, le=1)


class Data(Section):
    """What is learned from. A patch's voxels are of the image's spacing times one of `downsample` (or of `spacing`).

    held_out   share of each source, at the far end of its longest axis, that only the validation sees
    """

    sources: list[Source] = Field(min_length=1)
    spacing: list[Vector] | None = None
    downsample: list[int] = Field([1], min_length=1)
    patch: int | tuple[int, int, int] = 64
    intensity: Intensity = Intensity()
    tissue: Tissue = Tissue()
    held_out: float = Field(0.2, ge=0, lt=0.9)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of a patch (z, y, x)."""
        return (self.patch,) * 3 if isinstance(self.patch, int) else self.patch

    @field_validator("patch")
    @classmethod
    def _large_enough(cls, value: int | tuple) -> int | tuple:
        if min((value,) if isinstance(value, int) else value) < 16:
            raise ValueError(f"{value} must be at least 16 voxels")
        return value

    @field_validator("downsample")
    @classmethod
    def _powers(cls, value: list[int]) -> list[int]:
        if any(v < 1 or v & (v - 1) for v in value):
            raise ValueError(f"{value} must be powers of two")
        return value


class Deformation(Section):
    """Random velocities: on lattices of `cells` voxels, their sum moving at most `largest` voxels (drawn, half-way).

    least   smallest share of `largest` that is drawn
    roughness   amplitude of a lattice goes with its cell to this power: 1 is the same strain at every scale
    """

    cells: list[int] = Field([8, 16, 32], min_length=1)
    largest: float = Field(4.0, gt=0)
    least: float = Field(0.2, ge=0, le=1)
    roughness: float = Field(1.0, ge=0)


class Curve(Section):
    """Random nonlinear intensity curves, so that the images of a pair differ in contrast.

    probability   share of the images that get one
    knots      smallest and largest number of knots; two make a straight line
    monotone   share of the curves that only rise, or only fall; the others are folded: they go up and down
    inverted   share of the monotone ones that fall
    dark       share of the curves that leave a dark background dark, whatever they do to the tissue
    """

    probability: float = Field(1.0, gt=0, le=1)
    knots: tuple[int, int] = (3, 6)
    monotone: float = Field(0.5, ge=0, le=1)
    inverted: float = Field(0.5, ge=0, le=1)
    dark: float = Field(0.5, ge=0, le=1)

    @field_validator("knots")
    @classmethod
    def _enough(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 2 <= value[0] <= value[1]:
            raise ValueError(f"{list(value)} must be a smallest number of at least 2 and a largest one")
        return value

    @model_validator(mode="after")
    def _foldable(self) -> Curve:
        if self.monotone < 1 and self.knots[1] < 3:
            raise ValueError("two knots make a line, which is monotone: give knots up to 3 or more, or monotone 1")
        return self


class Greys(Section):
    """Images made of label volumes: a random grey value for each label (SynthMorph, Hoffmann et al. 2022).

    probability   share of the images of patches with labels that are replaced by one that is made of the labels
    deviation     SD of the noise in a label, drawn for each
    """

    probability: float = Field(0.5, gt=0, le=1)
    deviation: Range = (0.0, 0.1)

    @field_validator("deviation")
    @classmethod
    def _ordered(cls, value: Range) -> Range:
        if not 0 <= value[0] <= value[1]:
            raise ValueError(f"{list(value)} must be a smallest value of at least 0 and a largest one")
        return value


class Contrast(Section):
    """Changes of intensity, drawn for each image by itself; intensities are about 0 .. 1. Zero ranges do nothing.

    curve, greys   another contrast altogether, before all that follows; none by default
    gamma   exponent, log-uniform      gain, offset   a + b x      noise   SD      blur   sigma in voxels
    bias    largest of a smooth factor exp(b), b of the size of a patch
    """

    curve: Curve | None = None
    greys: Greys | None = None

    gamma: Range = (0.7, 1.4)
    gain: Range = (0.8, 1.2)
    offset: Range = (-0.03, 0.03)
    noise: Range = (0.0, 0.03)
    blur: Range = (0.0, 0.7)
    bias: float = Field(0.2, ge=0)


class Augment(Section):
    """Geometry: mirror along every axis, exchange axes of equal spacing and size; contrast.

    both_orders   each pair counts twice, the second time with its images exchanged: a network that is not symmetric by
                  itself then does not learn which way the pairs of one batch happened to move
    """

    flips: bool = True
    permutations: bool = True
    both_orders: bool = False
    contrast: Contrast | None = Contrast()


class Schedule(Section):
    """Steps, batch (for each process), Adam and what keeps it quiet."""

    steps: int = Field(20000, ge=1)
    batch: int = Field(2, ge=1)
    rate: float = Field(1e-4, gt=0)
    decay: Literal["cosine", "constant"] = "cosine"
    warmup: int = Field(0, ge=0)
    clip: float | None = Field(1.0, gt=0)
    amp: bool = False
    ema: float | None = Field(0.999, gt=0, lt=1)


class Validation(Section):
    """Held-out synthetic pairs (and real ones where there are): `patches` of each source, `every` so many steps.

    sources   whole images or pairs of their own, in place of the held-out ends of the training's
    border    voxels at the faces of a patch that do not count, as a halo does not
    """

    every: int = Field(500, ge=1)
    patches: int = Field(8, ge=1)
    border: int = Field(4, ge=0)
    sources: list[Source] | None = None


class Output(Section):
    """Folder of everything that a training writes; `name` of the weights; what the card says of them."""

    folder: Path
    name: str = "weights"
    checkpoint: int = Field(500, ge=1)
    tensorboard: bool = False
    licence: str = "unspecified"
    description: str = ""


class Network(Section):
    """Architecture and the keywords of its constructor.

    weights   packaged weights or a file to begin from (fine-tuning); `settings` are theirs then, and those that are
              given must agree. null: random ones
    """

    name: Literal["sitreg", "invgan", "voxelmorph", "transmorph"]
    settings: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None

    @field_validator("weights")
    @classmethod
    def _trained(cls, value: str | None) -> str | None:
        if value == RANDOM:
            raise ValueError("a training begins from random weights where network.weights is left out")
        return value


class Training(Section):
    """Configuration of one training."""

    network: Network
    data: Data
    deformation: Deformation = Deformation()
    augment: Augment = Augment()
    losses: list[Loss] = Field(min_length=1)
    schedule: Schedule = Schedule()
    validation: Validation = Validation()
    output: Output
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    readers: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _possible(self) -> Training:
        sources = self.data.sources
        names = [loss.name for loss in self.losses]
        kinds = [kind_of(loss) for loss in self.losses]
        double = {kind for kind in kinds if kinds.count(kind) > 1}
        if double:
            raise ValueError(f"losses {', '.join(sorted(double))} are named twice")
        needs = {
            "supervised": (any(s.image for s in sources), "a source with `image`"),
            "dice": (any(s.labels or s.fixed_labels for s in sources), "a source with labels"),
            "landmarks": (any(s.landmarks for s in sources), "a pair with landmarks"),
        }
        for name, (met, what) in needs.items():
            if name in names and not met:
                raise ValueError(f"loss {name} needs {what}")
        if ("regularisation" in names) != (self.network.settings.get("regularisation") is not None):
            raise ValueError(
                "the loss regularisation and the range network.settings.regularisation (sitreg) go together: the "
                "network takes a weight of that range, and the loss weighs by it"
            )
        if "identity" in names and self.network.name == "sitreg":
            raise ValueError(
                "loss identity: sitreg gives an image and itself the identity by construction; leave it out"
            )
        self._check_contrast(kinds)
        if self.data.held_out == 0 and self.validation.sources is None:
            raise ValueError("nothing is left to validate on: give data.held_out or validation.sources")
        return self

    def _check_contrast(self, kinds: list[str]) -> None:
        contrast = self.augment.contrast
        if contrast is None or (contrast.curve is None and contrast.greys is None):
            return
        key = f"augment.contrast.{'curve' if contrast.curve is not None else 'greys'}"
        if contrast.greys is not None and not any(s.labels or s.fixed_labels for s in self.data.sources):
            raise ValueError("augment.contrast.greys needs a source with labels")
        alike = [kind for kind in kinds if kind in ("lncc", "ncc", "mse")]
        if alike:
            raise ValueError(
                f"loss {', '.join(alike)} wants images of one contrast, and {key} makes them of several; leave one of "
                "both out, or use supervised, mi, nmi, mind, ngf or lncc_squared"
            )
        if "adversarial pair" in kinds:
            raise ValueError(
                f"{key} makes the images of a pair of different contrasts, by which discriminators of pairs would tell "
                "them; use kind flow"
            )

    def result_part(self) -> dict[str, Any]:
        """The part that decides the weights: a training that goes on must agree in it."""
        data = self.model_dump(mode="json", exclude={"device", "readers"})
        data["output"] = {k: data["output"][k] for k in ("licence", "description")}
        data["validation"].pop("every")
        return data


def load_training(source: Training | dict | str | Path, *, overrides: list[str] | None = None) -> Training:
    """Make a Training from a YAML file or a dict, then dotted `KEY=VALUE` overrides.

    Relative paths in a file are relative to the current folder. Raises ConfigError that names key and value.
    """
    if isinstance(source, Training):
        data = source.model_dump(mode="json")
    elif isinstance(source, dict):
        data = dict(source)
    else:
        try:
            data = parse_yaml(Path(source).read_text(encoding="utf-8"), f"training configuration '{source}'")
        except OSError as error:
            raise ConfigError(f"training configuration '{source}' cannot be read: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"training configuration '{source}' must hold keys and values")
    for item in overrides or []:
        key, sep, value = item.partition("=")
        if not sep or not key:
            raise ConfigError(f"override {item!r} is not KEY=VALUE (for instance schedule.steps=1000)")
        set_key(data, key.strip().split("."), parse_yaml(value, f"override {item!r}"), item)
    try:
        return Training.model_validate(data)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            # Of a section that is wrong as a whole the value would be the whole section.
            value = "" if isinstance(problem["input"], dict) else f" = {problem['input']!r}"
            where = ".".join(map(str, problem["loc"]))
            lines.append(f"{where}{value}: {problem['msg']}" if where else problem["msg"])
        raise ConfigError("the training configuration is not valid: " + "; ".join(lines)) from None
