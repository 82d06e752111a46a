"""The card of a trained network: what it is, what it learned from, and how well it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import ConfigError

FORMAT = 1
"""Version of card and tensor names; another one is refused by name."""

Triple = tuple[float, float, float]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Spacing(_Part):
    """Voxel spacings (um, z y x) of the patches that a network was trained on: smallest and largest of each axis."""

    low: Triple
    high: Triple

    @model_validator(mode="after")
    def _ordered(self) -> Spacing:
        if not all(0 < a <= b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError(f"low {self.low} must be above 0 and at most high {self.high}")
        return self

    def holds(self, spacing: tuple[float, ...], slack: float) -> bool:
        """Whether a spacing lies in the range, or within a factor `slack` of it."""
        return all(a / slack <= s <= b * slack for a, s, b in zip(self.low, spacing, self.high, strict=True))


class Card(_Part):
    """`data`, `spacing`, `contrast`, `figures` and `licence` are the author's; `save` fills in the rest.

    architecture, settings   what the network is built from
    data                     what it was trained on, in words
    spacing                  of those patches; None: it was trained on no particular one
    contrast                 which contrasts, in words
    figures                  what was measured, by name; units in the names
    versions                 of bigreg and torch
    digest                   sha256 of the tensors as they are stored
    """

    format: int = FORMAT
    architecture: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    data: str = ""
    spacing: Spacing | None = None
    contrast: str = ""
    figures: dict[str, float] = Field(default_factory=dict)
    licence: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    digest: str = ""

    def rows(self, size: int) -> list[tuple[str, str]]:
        """(what, value) for people, of weights of so many bytes."""
        settings = ", ".join(f"{key} {value}" for key, value in self.settings.items())
        spacing = "any"
        if self.spacing is not None:
            low, high = (" x ".join(f"{v:.3g}" for v in end) for end in (self.spacing.low, self.spacing.high))
            spacing = f"{low} µm" if low == high else f"{low} to {high} µm"
        return [
            ("architecture", self.architecture),
            ("settings", settings),
            ("trained on", self.data or "not stated"),
            ("voxels (z y x)", spacing),
            ("contrast", self.contrast or "not stated"),
            *((f"figure: {key}", f"{value:g}") for key, value in self.figures.items()),
            ("size", f"{size * 1e-6:.2f} MB"),
            ("licence", self.licence or "not stated"),
            ("made with", ", ".join(f"{key} {value}" for key, value in self.versions.items())),
            ("digest", self.digest),
        ]


def read_card(path: Path, what: str) -> Card:
    """The card in a JSON file. Raises ConfigError that names `what` for a missing, broken or foreign one."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ConfigError(f"{what} have no card '{path.name}' beside them; copy it there with them") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"card '{path}' cannot be read: {error}") from error
    try:
        card = Card.model_validate_json(text)
    except ValidationError as error:
        found = _format_of(text)
        if found is not None and found != FORMAT:
            raise _foreign(path, found) from None
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "it"
        raise ConfigError(f"card '{path}' is not valid: {where}: {problem['msg']}; get it again") from None
    if card.format != FORMAT:
        raise _foreign(path, card.format)
    return card


def _format_of(text: str) -> Any:
    import json

    try:
        data = json.loads(text)
    except ValueError:
        return None
    return data.get("format") if isinstance(data, dict) else None


def _foreign(path: Path, found: Any) -> ConfigError:
    return ConfigError(
        f"card '{path}' is of format {found}, this bigreg reads {FORMAT}; get weights for it, or the bigreg of the card"
    )
