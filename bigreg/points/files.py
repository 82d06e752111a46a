"""Which format a points file has, and its way through a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import ConfigError, InputError
from ..geometry import Grid
from ..storage import new_file
from ..transforms.itk import MM, to_lps
from .carrier import DECIMALS, Carrier, Column, Counts, PointMap, units_matrix
from .elastix import kind_of, map_elastix

FORMATS = {
    "text": (".csv", ".tsv"),
    "parquet": (".parquet", ".pq"),
    "elastix": (".txt",),
    "swc": (".swc",),
    "mesh": (".obj", ".ply", ".stl"),
}


def map_points_file(
    source: str | Path,
    target: str | Path,
    map_: PointMap,
    *,
    columns: Sequence[str] | None = None,
    units: str | None = None,
    to: str | None = None,
    grids: tuple[Grid | None, Grid | None] = (None, None),
    added: Mapping[str, Column] | None = None,
) -> Counts:
    """Map the points of a file into a new file of the same format; returns how many, and how many lay outside.

    columns   names (or numbers, from 0) of a table's z, y and x; by default these letters, or napari's axis-0 to axis-2
    units     of the numbers in the file: um (default), mm or voxel
    to        units that are written, by default the same
    grids     whose voxels are meant, before and after; by default those of the images that the map joins
    added     columns that a table gets behind its own, by their names
    A points file of elastix says itself what it holds; physical points are LPS in mm, and points are written.
    Raises InputError, ConfigError, OutputError; the target appears when it is complete.
    """
    source, target = Path(source), Path(target)
    kind = _format(source)
    if _format(target) != kind:
        raise ConfigError(f"'{target}' is to be of another format than '{source}'; give both the same suffix")
    if columns is not None and (kind not in ("text", "parquet") or len(columns) != 3):
        raise ConfigError(f"columns {','.join(columns)}: a table has three, for z, y and x; '{source.name}' needs none")
    if added and kind not in ("text", "parquet"):
        raise ConfigError(f"columns {', '.join(added)} are for tables (.csv .tsv .parquet); '{source.name}' is none")
    if not source.is_file():
        raise InputError(f"points '{source}' cannot be read: no such file; check the path")
    before, after = grids[0] or map_.source.grid, grids[1] or map_.target.grid
    frame = map_.target.grid or grids[1]
    if kind == "elastix":
        if units is not None:
            raise ConfigError(f"units {units}: '{source}' states itself whether it holds points or indices")
        carrier, written = _elastix(kind_of(source), to, map_, before, after, frame)
    else:
        units = units or "um"
        to = to or units
        into, out = units_matrix(units, before, "given"), np.linalg.inv(units_matrix(to, after, "mapped"))
        carrier, written = Carrier(map_, into, out, DECIMALS[to], frame, added or {}), ""
    with new_file(target) as part:
        if kind == "elastix":
            return map_elastix(source, part, carrier, written)
        if kind == "text":
            from .text import map_text

            return map_text(source, part, carrier, columns)
        if kind == "parquet":
            from .parquet import map_parquet

            return map_parquet(source, part, carrier, columns)
        if kind == "swc":
            from .swc import map_swc

            return map_swc(source, part, carrier)
        from .mesh import map_mesh

        return map_mesh(source, part, carrier)


def _format(path: Path) -> str:
    for name, suffixes in FORMATS.items():
        if path.name.lower().endswith(suffixes):
            return name
    known = "; ".join(f"{name} ({' '.join(suffixes)})" for name, suffixes in FORMATS.items())
    raise InputError(f"points '{path}' are of unknown format; known are {known}")


def _elastix(
    kind: str, to: str | None, map_: PointMap, before: Grid | None, after: Grid | None, frame: Grid | None
) -> tuple[Carrier, str]:
    lps = [np.diag([1 / MM] * 3 + [1.0]) @ to_lps(end.orientation) for end in (map_.source, map_.target)]
    into = np.linalg.inv(lps[0]) if kind == "point" else units_matrix("voxel", before, "given")
    # elastix rounds an index to whole voxels, so what is mapped is written as points unless voxels are asked for.
    if to == "voxel":
        return Carrier(map_, into, np.linalg.inv(units_matrix("voxel", after, "mapped")), 4, frame), "index"
    if to not in (None, "mm"):
        raise ConfigError(f"to {to!r}: points of elastix are mm or voxel")
    return Carrier(map_, into, lps[1], DECIMALS["mm"], frame), "point"
