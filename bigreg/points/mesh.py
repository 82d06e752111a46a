"""Surfaces (.obj, .ply, .stl), by trimesh: vertices are mapped, faces stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorruptDataError, InputError
from .carrier import Carrier, Counts


def map_mesh(source: Path, target: Path, carrier: Carrier) -> Counts:
    """Map the vertices of a mesh.

    Vertices outside the frame have no place: they are left out, with the faces that they belong to, and counted. Where
    the map mirrors, the faces are turned round, so that outside stays outside.
    """
    try:
        import trimesh
    except ImportError as error:
        raise InputError(f"'{source}' needs trimesh; pip install 'bigreg[mesh]'") from error
    try:
        mesh: Any = trimesh.load(str(source), process=False, maintain_order=True, force="mesh")
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise CorruptDataError(f"'{source}' cannot be read as a mesh: {error}; write it again") from error
    if not len(mesh.vertices):
        raise InputError(f"'{source}' holds no surface: it has no vertices")
    carried = carrier(np.asarray(mesh.vertices)[:, ::-1])
    mapped = carried.points[:, ::-1]
    known = np.isfinite(mapped).all(1)
    if not known.any():
        raise InputError(f"no vertex of '{source}' is inside the frame of the map; check its units and the direction")
    mesh.vertices = np.where(known[:, None], mapped, 0.0)
    if carrier.mirrors:
        mesh.invert()
    if not known.all():
        mesh.update_faces(known[mesh.faces].all(1))
        mesh.update_vertices(known)
    mesh.export(str(target), file_type=target.suffix.lower().lstrip("."))
    return carried.counts
