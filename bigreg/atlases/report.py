"""The page of a brain in an atlas: borders over the tissue, the largest regions, where everything is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from .. import storage
from ..geometry import Grid
from ..pipeline.judging.report import display_levels
from ..pipeline.run import Run
from ..quality.figures import stretched
from ..quality.outlines import outlines, outlines_slice
from ..quality.report import Picture, Section
from ..volumes import Volume
from ..volumes.lookup import lookup
from .regions import Row
from .result import AXES, AtlasResult
from .source import Atlas

SHOWN = 40
"""Rows of the page's table of regions."""
PLANES = (0.3, 0.5, 0.7)
_ACROSS = {"pa": "Coronal", "si": "Horizontal", "rl": "Sagittal"}


def write_atlas_report(folder: str, run: Run, result: AtlasResult, atlas: Atlas, cells: dict[str, Any] | None) -> None:
    """Write the pictures and index.html into `folder`; `cells` are the numbers of the step that counted them."""
    context = run._context()
    moving = context.image("moving", display_levels(context)["moving"])
    tissue = stretched(moving.read((0, 0, 0), moving.grid.shape))
    labels = labels_on(result.annotation, moving.grid)
    orientation = context.volumes["moving"].orientation
    sections = border_sections(tissue, labels, moving.grid.spacing, orientation)
    for section in sections:
        for picture in section.pictures:
            storage.write_file(folder, f"{picture.name}.png", picture.png)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    base = files("bigreg.quality").joinpath("report.html.j2").read_text(encoding="utf-8")
    brain = context.attributes["identities"]["moving"]["path"] or "array"
    style = re.search(r"<style>(.*?)</style>", base, re.S)
    assert style is not None, "the report's own template has one"
    text = environment.from_string(page).render(
        title=f"{brain.rstrip('/').rsplit('/', 1)[-1]} in {atlas.name}",
        style=style.group(1),
        verdict=run.verdict,
        warning=result.warning,
        axes_warning=result.axes_warning,
        axes_picture=_axes_picture(result),
        sections=sections,
        rows=largest(result.regions, {row["id"]: row for row in result.cells} if cells else {}),
        cells=cells,
        intervals=bool(cells) and result.cells[0].get("cells_p5", "") != "",
        total=next(iter(result.regions)),
        spacing=" × ".join(f"{s:g}" for s in result.annotation.grid().spacing),
        regions=sum(1 for row in result.regions if row["own_voxels"]),
    )
    storage.write_file(folder, "index.html", text.encode("utf-8"))


def _axes_picture(result: AtlasResult) -> Picture | None:
    png = storage.read_file(result.url, AXES)
    text = "Both images as they fit best, and as stated."
    return (
        None if png is None else Picture("axes", text, "The brain in the atlas on the axes that fit, and stated", png)
    )


def labels_on(annotation: Volume, grid: Grid) -> np.ndarray:
    """(z, y, x) the labels at the voxels of a grid, of the level that is about as fine."""
    near = [abs(np.log(max(level.grid.spacing) / max(grid.spacing))) for level in annotation.levels]
    level = int(np.argmin(near))
    labels = np.empty(grid.shape, annotation.dtype)
    for z in range(grid.shape[0]):
        index = np.stack(np.meshgrid([z], *map(np.arange, grid.shape[1:]), indexing="ij"), -1).reshape(-1, 3)
        labels[z] = lookup(annotation, grid.index_to_world(index), level).reshape(grid.shape[1:])
    return labels


def border_sections(
    tissue: np.ndarray, labels: np.ndarray, spacing: Sequence[float], orientation: str | None
) -> list[Section]:
    """Three planes at once, then some planes across each axis."""
    whole = Picture("borders", "Three planes through the middle of the image.",
                    "Borders of regions over the tissue, three planes", outlines(tissue, labels, spacing))  # fmt: skip
    text = "The atlas borders, mapped into the brain. They should follow the visible structures."
    sections = [Section("Borders over the tissue", text, (whole,))]
    for axis in range(3):
        side = orientation[axis] if orientation else ""
        name = next((v for k, v in _ACROSS.items() if side and side in k), "zyx"[axis])
        pictures = []
        for place in planes(labels, axis):
            where = f"{name}, {'zyx'[axis]} = {place * spacing[axis]:.0f} µm"
            png = outlines_slice(tissue, labels, spacing, axis, place)
            pictures.append(Picture(f"borders_{'zyx'[axis]}_{place:04d}", where, f"Borders of regions, {where}", png))
        sections.append(Section(f"{name} planes", "", tuple(pictures)))
    return sections


def planes(labels: np.ndarray, axis: int) -> list[int]:
    """Where to look across an axis: parts of the way through what is labelled (of the image where nothing is)."""
    others = tuple(a for a in range(3) if a != axis)
    some = np.flatnonzero((labels != 0).any(axis=others))
    low, high = (some[0], some[-1]) if len(some) else (0, labels.shape[axis] - 1)
    return sorted({round(low + f * (high - low)) for f in PLANES})


def largest(regions: Sequence[Row], cells: dict[int, Row]) -> list[Row]:
    """The first rows of the tree, then as many of the largest as are shown, in the order of the tree."""
    order = sorted(regions, key=lambda row: (row["depth"] > 1, -row["voxels"]))
    chosen = {row["id"] for row in order[:SHOWN] if row["voxels"]}
    return [row | cells.get(row["id"], {}) for row in regions if row["id"] in chosen]
