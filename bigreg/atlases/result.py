"""What the atlas workflow leaves behind, and where."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .. import storage
from ..errors import InputError, named
from ..pipeline.run import Run, open_run
from ..points import map_points_file
from ..volumes import Volume, open_volume
from .regions import Row, Watched, from_csv

KEY = "bigreg-atlas"
RUN, ANNOTATION, BORDERS = "run.zarr", "annotation.ome.zarr", "borders.ome.zarr"
REGIONS, CELLS = "regions.csv", "cells.csv"
AXES = "axes.png"


@dataclass(frozen=True)
class AtlasResult:
    """What `atlas` has made, at `url`."""

    url: str

    @property
    def run(self) -> Run:
        """The registration: fixed is the atlas's template, moving the brain."""
        return open_run(storage.join(self.url, RUN))

    @property
    def annotation(self) -> Volume:
        """The annotation in the brain."""
        return open_volume(storage.join(self.url, ANNOTATION), name="annotation")

    @property
    def borders(self) -> Volume:
        """The borders of the regions in the brain: 1, elsewhere 0."""
        return open_volume(storage.join(self.url, BORDERS), name="borders")

    @property
    def brain(self) -> Volume:
        """The brain in the atlas."""
        return open_volume(storage.join(self.url, RUN, "warped"), name="brain")

    @cached_property
    def regions(self) -> list[Row]:
        """The table of volumes, a row a structure."""
        return from_csv(_text(self.url, REGIONS))

    @cached_property
    def cells(self) -> list[Row]:
        """The table of cells, a row a structure. Raises InputError where no cells were given."""
        if "cells" not in _attributes(self.url)["done"]:
            raise InputError(f"'{self.url}' has no table of cells; give them ({named('--cells FILE', 'cells')})")
        return from_csv(_text(self.url, CELLS))

    def cell_places(self) -> np.ndarray | None:
        """(N, 3) um in the brain of the cells that lie in the atlas; None where no cells were given.

        They are those of the table cells_in_atlas, taken back through the map.
        """
        done = _attributes(self.url)["done"].get("cells")
        if done is None:
            return None
        name = f"cells_in_atlas{Path(done['given']['path']).suffix.lower()}"
        pieces = [np.empty((0, 3))]
        back = Watched(self.run.map("fixed_to_moving"), lambda there: pieces.append(there[np.isfinite(there).all(1)]))
        with TemporaryDirectory() as folder:
            kept = Path(folder) / name
            files, place = storage.filesystem(storage.join(self.url, name))
            files.get_file(place, str(kept))
            map_points_file(kept, kept.with_name(f"back{kept.suffix}"), back, columns=done["given"]["columns"])
        return np.concatenate(pieces)

    @property
    def report(self) -> str:
        """The path of the page."""
        return storage.join(self.url, "report", "index.html")

    @property
    def warning(self) -> str:
        """What is wrong about the two halves of the brain; empty where they are as in the atlas."""
        return str(_attributes(self.url)["done"].get("regions", {}).get("warning", ""))

    @property
    def axes_warning(self) -> str:
        """That the brain lies otherwise in the atlas than the orientations say, and how; empty where it does not.

        A picture is in axes.png, where it was seen before the registration.
        """
        done = _attributes(self.url)["done"]
        return str(done.get("axes", {}).get("warning", "") or done.get("turn", {}).get("warning", ""))

    @property
    def warnings(self) -> list[str]:
        """All that a person should look at, as sentences."""
        return [text for text in (self.axes_warning, self.warning) if text]

    def figures(self) -> list[tuple[str, str, float, str, str]]:
        """The same as (group, name, value, unit, note): the volumes of all regions that were found, and the cells."""
        sides = ("volume_mm3", ""), ("volume_left_mm3", ", left"), ("volume_right_mm3", ", right")
        found = [row for row in self.regions if row["own_voxels"]]
        named = {row["id"]: row for row in [*self.regions[:1], *found]}.values()
        rows = [("regions", "found", float(len(found)), "", "")]
        rows += [("volume", f"{r['name']}{side}", r[key], "mm3", "") for r in named for key, side in sides]
        counted = _attributes(self.url)["done"].get("cells")
        return [*rows, *(("cells", k, counted[k], "", "") for k in ("cells", "outside", "no region") if counted)]

    def summary(self) -> list[tuple[str, str]]:
        """(what, value) of what is most asked for."""
        named = [row for row in self.regions if row["own_voxels"]]
        rows = [(f"{r['name']}, mm3 (left, right)", f"{r['volume_mm3']:.2f} ({r['volume_left_mm3']:.2f}, "
                 f"{r['volume_right_mm3']:.2f})") for r in self.regions[:1]]  # fmt: skip
        rows.append(("regions found", str(len(named))))
        counted = _attributes(self.url)["done"].get("cells")
        rows += [(f"cells: {k}", str(counted[k])) for k in ("cells", "outside", "no region") if counted]
        return [*rows, ("report", self.report)]


def is_atlas_result(url: str) -> bool:
    """Whether `bigreg atlas` wrote the folder at `url`, to its end or not."""
    local = storage.local_path(url)
    node = None if local is not None and not local.is_dir() else storage.find_node(url)
    return node is not None and KEY in node.attributes


def identity_of(url: str) -> dict[str, Any]:
    """Of which brain, atlas and grid a result is. Raises InputError where `url` is none."""
    known: dict[str, Any] | None = _attributes(url)["identity"]
    if known is None:
        raise InputError(f"'{url}' is not finished: it has no registration yet; run the same `bigreg atlas` again")
    return known


def _attributes(url: str) -> dict[str, Any]:
    known = storage.read_attributes(url).get(KEY) if storage.exists(url) else None
    if known is None:
        raise InputError(f"'{url}' was not made by `bigreg atlas`; check the path")
    return known


def _text(url: str, name: str) -> str:
    files, place = storage.filesystem(storage.join(url, name))
    return files.cat_file(place).decode("utf-8")
