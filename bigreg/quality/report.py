"""The report of a run: one HTML page that needs nothing but itself, and its pictures as files beside it."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, StrictUndefined

from ..geometry import Vector
from ..storage import write_file
from . import figures as draw
from .confidence import RISKY
from .evaluation import sign
from .verdict import Outcome, judge

# What the maps of blocks mean, in their order on the page: title, unit, what to look for.
BLOCK_METRICS = {
    "status": ("Status", "", "In failed blocks the neighbours and the coarser levels decide."),
    "similarity_before": ("Similarity before", "", "Of the patches before this level."),
    "similarity_after": ("Similarity after", "", "Should be higher than before almost everywhere."),
    "disagreement": ("Disagreement", "µm", "How far neighbouring blocks differ where they overlap, before blending."),
    "max_displacement": ("Largest displacement", "µm", "Largest motion that this level added."),
    "min_jacobian": ("Smallest Jacobian", "", "Above 0: no fold."),
    "seconds": ("Time", "s", "Computing time of the block."),
}
_SIMILARITIES = ("similarity_before", "similarity_after")  # drawn over one range, to be compared by eye


class Figure(NamedTuple):
    """One row of the table of figures. A value that is None or NaN is shown as not measured."""

    group: str
    name: str
    value: float | int | str | None
    unit: str = ""
    note: str = ""


class Table(NamedTuple):
    """A table of what was measured: its columns' names, and rows of as many values."""

    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Sequence[float | int | str | None]]


@dataclass(frozen=True, eq=False)
class ReportData:
    """All that a report shows.

    `names` are those of fixed and moving. The volumes (z, y, x) lie on one display grid in the fixed frame,
    `spacing_um` apart, at most about 256 voxels an axis: `fixed`, moving as it lies (`moving_before`), after the
    affine (`moving_affine`), after all (`warped`), 0 where there is no image; `displacement` (3, z, y, x) um is
    what the registration adds to the affine, `jacobian` its determinant (<= 0 is marked as a fold), `inside` where
    the moving image reaches. `blocks` maps the name of a stage or level to its metrics (see BLOCK_METRICS), each a
    3-D array over blocks. `risk`, where it is known, is the probability of a large error, NaN where there is none
    to tell, and `large` names one, in voxels and um; `tables` what was measured against a truth; `more` are
    sections that come after those of the registration. Raises ValueError where shapes disagree.
    """

    names: tuple[str, str]
    spacing_um: Vector
    fixed: np.ndarray
    moving_before: np.ndarray
    moving_affine: np.ndarray
    warped: np.ndarray
    displacement: np.ndarray
    jacobian: np.ndarray
    inside: np.ndarray
    outcome: Outcome
    figures: Sequence[Figure]
    blocks: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    risk: np.ndarray | None = None
    large: str = "2 voxels"
    tables: Sequence[Table] = ()
    config: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    more: Sequence[Section] = ()

    @property
    def title(self) -> str:
        return f"{self.names[1]} on {self.names[0]}"

    def __post_init__(self) -> None:
        shape = self.fixed.shape
        if len(shape) != 3:
            raise ValueError(f"fixed has shape {shape}; need (z, y, x)")
        for name in ("moving_before", "moving_affine", "warped", "jacobian", "inside", "risk"):
            if getattr(self, name) is not None and getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, fixed {shape}; need one display grid")
        if self.displacement.shape != (3, *shape):
            raise ValueError(f"displacement has shape {self.displacement.shape}; need {(3, *shape)}")
        for stage, metrics in self.blocks.items():
            for name, values in metrics.items():
                if np.ndim(values) != 3:
                    raise ValueError(f"block metric {stage}/{name} has {np.ndim(values)} axes; need blocks (z, y, x)")


class Picture(NamedTuple):
    """A PNG with the name of its file, its caption and what it shows for those who cannot see it."""

    name: str
    caption: str
    alt: str
    png: bytes

    @property
    def uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


class Section(NamedTuple):
    title: str
    text: str
    pictures: tuple[Picture, ...]


def render(data: ReportData) -> str:
    """The page as one string of HTML, pictures included; it asks the network for nothing."""
    return _page(data, *_sections(data))


def write_report(data: ReportData, folder: str) -> None:
    """Write the pictures, then index.html, under a path or URL; each appears complete or not at all.

    Raises OutputError where the place cannot be written.
    """
    sections, blocks = _sections(data)
    page = _page(data, sections, blocks)
    pictures = [(f"{p.name}.png", p.png) for s in (*sections, *blocks) for p in s.pictures]
    for name, content in [*pictures, ("index.html", page.encode("utf-8"))]:
        write_file(str(folder), name, content)


# ------------------------------------------------------------------------------------------------------- contents


def _sections(data: ReportData) -> tuple[list[Section], list[Section]]:
    """The sections of pictures, and those of the maps of blocks (one a stage)."""
    spacing = tuple(float(s) for s in data.spacing_um)
    inside = np.asarray(data.inside, dtype=bool)
    fixed = draw.stretched(data.fixed)
    warped = draw.stretched(data.warped)
    power = draw.likened(fixed, warped, inside)
    states = [
        ("before", "Before registration", draw.stretched(data.moving_before) ** power),
        ("affine", "After the affine", draw.stretched(data.moving_affine) ** power),
        ("after", "After registration", warped**power),
    ]
    overlays = tuple(
        Picture(f"overlay_{key}", title, f"Overlay of fixed and moving, {title.lower()}, three planes",
                draw.overlay(fixed, moving, spacing))
        for key, title, moving in states
    )  # fmt: skip
    sections = [
        Section(
            "Overlay",
            "Fixed is magenta, moving is green; where both are bright the sum is white or grey. Coloured rims and "
            "doubled cells are not aligned. A region that is magenta only is outside the moving image, or missing "
            "in it.",
            overlays,
        ),
        Section(
            "Along the depth",
            "The same overlay near the first plane, at the middle and near the last one: errors are usually largest at "
            "the ends of the stack.",
            tuple(_depth_pictures(fixed, states, spacing)),
        ),
        Section(
            "Checkerboard",
            "Squares show fixed (faint magenta) and moving (faint green) in turn. Cells, vessels and edges should "
            "continue across tile edges.",
            tuple(
                Picture(
                    f"checkerboard_{key}",
                    title,
                    f"Checkerboard of fixed and moving, {title.lower()}",
                    draw.checkerboard(fixed, moving, spacing),
                )
                for key, title, moving in states[1:]
            ),
        ),
        Section(
            "Deformation",
            "What the registration adds to the affine. Grey is outside the moving image.",
            (
                Picture(
                    "grid",
                    "Regular lines of the fixed frame, deformed. Lines must not cross.",
                    "Deformed grid over the fixed image, three planes",
                    draw.deformed_grid(fixed, data.displacement, spacing, inside),
                ),
                Picture(
                    "displacement",
                    "Length of the displacement.",
                    "Map of displacement length in micrometres",
                    draw.displacement_map(data.displacement, spacing, inside),
                ),
                Picture(
                    "jacobian",
                    "Local volume ratio: blue shrinks, red grows, white keeps its volume. "
                    "Folds would be yellow squares.",
                    "Map of the Jacobian determinant",
                    draw.jacobian_map(data.jacobian, spacing, inside),
                ),
            ),
        ),
    ]
    if data.risk is not None and np.isfinite(data.risk).any():
        sections.insert(1, _risk_section(fixed, data.risk, spacing, data.large))
    sections += data.more
    return sections, [_block_section(data, stage, metrics) for stage, metrics in data.blocks.items()]


def _risk_section(fixed: np.ndarray, risk: np.ndarray, spacing: Sequence[float], large: str) -> Section:
    """The middle planes, and the one of the greatest risk."""
    worst = int(np.nansum(risk**2, axis=(1, 2)).argmax())
    place = f"z = {worst * spacing[0]:.0f} µm"
    return Section(
        "Where not to trust it",
        f"Estimated probability of an error above {large}: from how well each place fits, whether another place nearby "
        f"would fit as well, and how much structure there is. Places are flagged from {RISKY:.0%} on. Where there is "
        "no structure, the map is interpolated from its surroundings and cannot be checked. Grey: unknown, as the "
        "moving image does not reach there, shows no tissue, or has no counterpart of what fixed shows.",
        (
            Picture("risk", "Three planes through the centre.", "Map of the risk of a large error, three planes",
                    draw.risk_map(fixed, risk, spacing, large=large)),
            Picture("risk_worst", f"{place}, the plane at most risk.", f"Map of the risk of a large error at {place}",
                    draw.risk_map(fixed, risk, spacing, worst, large)),
        ),
    )  # fmt: skip


def _depth_pictures(fixed: np.ndarray, states: Sequence[tuple], spacing: Sequence[float]) -> Iterator[Picture]:
    depth = fixed.shape[0]
    for z in sorted({round(f * (depth - 1)) for f in (0.12, 0.5, 0.88)}):
        for key, title, moving in states:
            place = f"z = {z * spacing[0]:.0f} µm"
            yield Picture(
                f"slice_{z:03d}_{key}",
                f"{place}. {title}",
                f"Overlay at {place}, {title.lower()}",
                draw.overlay_slice(fixed, moving, spacing, z),
            )


def _block_section(data: ReportData, stage: str, metrics: Mapping[str, np.ndarray]) -> Section:
    extent = [n * s for n, s in zip(data.fixed.shape, data.spacing_um, strict=True)]
    order = [name for name in BLOCK_METRICS if name in metrics] + [n for n in metrics if n not in BLOCK_METRICS]
    alike = draw.finite_range([metrics[n] for n in _SIMILARITIES if n in metrics] or [np.zeros(0)])
    pictures = []
    for name in order:
        title, unit, meaning = BLOCK_METRICS.get(name, (name.replace("_", " ").capitalize(), "", ""))
        limits = alike if name in _SIMILARITIES else None
        png = draw.block_map(metrics[name], extent, name, title.lower(), unit, limits)
        file = "".join(c if c.isalnum() else "_" for c in f"blocks_{stage}_{name}")
        pictures.append(Picture(file, f"{title}. {meaning}".strip(), f"{title} of each block, {stage}", png))
    shape = next(iter(metrics.values())).shape if metrics else ()
    return Section(stage, f"{' × '.join(map(str, shape))} blocks (z, y, x)", tuple(pictures))


def _page(data: ReportData, sections: Sequence[Section], blocks: Sequence[Section]) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "sign": sign}
    groups: dict[str, list[Figure]] = {}
    for row in data.figures:
        groups.setdefault(row[0], []).append(Figure(*row))
    o = data.outcome
    errors = [
        ("Before registration", o.error_before),
        ("After the affine", o.error_affine),
        ("After registration", o.error_after),
    ]
    template = files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        data=data,
        verdict=judge(o),
        sections=sections,
        blocks=blocks,
        groups=groups,
        errors=[(name, e) for name, e in errors if e is not None],
    )


def number(value: float | int | str | None) -> str:
    """A figure as it is read: whole numbers in groups of three, others to four digits, nothing invented for NaN."""
    if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        return "not measured"
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}".replace(",", "\u202f")
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.2e}"
    return f"{value:.4g}"
