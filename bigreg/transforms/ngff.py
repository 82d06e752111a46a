"""Displacement fields on disk, as OME-Zarr says it (coordinate transformations, RFC-5).

A field is a multiscale group of float32 arrays (3, z, y, x), finest first, named "0", "1", ...; component i is the
displacement along axis i in micrometres, sampled in the frame of the transformation's input:

    x_out = x_in + d(x_in)

Between samples a field is linear; in the half voxel around the outer samples it keeps their value (as ITK does).
A pair of fields and an affine A make a registration. A scene joins them, as a bijection of two sequences:

    fixed_to_moving(x) = A (x + d_f(x))         d_f sampled in the fixed frame
    moving_to_fixed(y) = A^-1 (y + d_m(y))      d_m sampled in the moving frame

The levels of a group may carry a scale and a translation but no rotation, so a field's grid runs along the world axes
even where its image does not: `field_grid` makes such a grid. Everything that the format names is in this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import storage
from ..errors import InputError, OutputError
from ..geometry import Grid, Numbers

VERSION = "0.6"
READABLE = ("0.6",)  # what a version may begin with: 0.6 and its release candidates
AXES = ("z", "y", "x")
UNIT = "micrometer"
UNITS_UM = {"angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}
SPACE_AXES = [{"name": name, "type": "space", "unit": UNIT} for name in AXES]
VECTOR_AXIS: dict[str, Any] = {"name": "c", "type": "displacement", "discrete": True}
FRAMES = "bigreg"  # our own key beside "ome": the images' grids, which a scene has no words for


@dataclass(frozen=True, eq=False)
class Scene:
    """A registration on disk: two field locations, the 4 x 4 world affine (fixed to moving, um), both image grids."""

    fixed_to_moving: str
    moving_to_fixed: str
    affine: np.ndarray
    fixed: Grid
    moving: Grid


def level_url(url: str, level: int) -> str:
    """Where the array of one level of a field (0 = finest) lies."""
    return storage.join(url, str(level))


def field_grid(frame: Grid, spacing: Numbers) -> Grid:
    """The grid, along the world axes, of a field of about `spacing` um (z, y, x) over the whole of an image's grid."""
    low, high = frame.bounds(faces=True)
    # A hair less than the quotient, so that an extent which is a whole number of voxels stays one after rounding.
    shape = np.maximum(np.ceil((high - low) / np.asarray(spacing, dtype=float) - 1e-6), 1).astype(int)
    step = (high - low) / shape
    return Grid.from_spacing(tuple(shape), step, low + step / 2)


# ---------------------------------------------------------------------------------------------------- writing


def create_field(
    url: str,
    grids: Sequence[Grid],
    *,
    input_name: str,
    output_name: str,
    chunks: Sequence[int],
    shards: Sequence[int] | None = None,
    codec: storage.Codec = "zstd",
    exist_ok: bool = False,
) -> None:
    """Create an empty multiscale field of zeros: one array a grid, finest first, to be written at `level_url`.

    chunks, shards: voxels (z, y, x); the three components of a voxel share a chunk. `codec`: see create_array.
    With `exist_ok` a field of the same make that is there keeps its values. Raises ValueError for a grid that does
    not run along the world axes, OutputError where the place is taken or cannot be written.
    """
    if not grids:
        raise ValueError("a field needs at least one grid")
    for grid in grids:
        if not grid.is_axis_aligned:
            raise ValueError(f"field '{url}': a level cannot carry the rotation of {grid.matrix}; use field_grid()")
    if not exist_ok and storage.exists(url):
        raise OutputError(f"'{url}' exists already; choose another output or remove it")
    for level, grid in enumerate(grids):
        storage.create_array(
            level_url(url, level),
            shape=(3, *grid.shape),
            dtype="float32",
            chunks=(3, *chunks),
            shards=None if shards is None else (3, *shards),
            codec=codec,
            dimension_names=(VECTOR_AXIS["name"], *AXES),
            exist_ok=exist_ok,
        )
    multiscale = {
        "name": f"displacements, {input_name} to {output_name}",
        "coordinateSystems": [{"name": input_name, "axes": [VECTOR_AXIS, *SPACE_AXES]}],
        "datasets": [_dataset(level, grid, input_name) for level, grid in enumerate(grids)],
    }
    # Last, so that a group which says what it holds does hold it.
    storage.create_group(url, {"ome": {"version": VERSION, "multiscales": [multiscale]}}, exist_ok=exist_ok)


def _dataset(level: int, grid: Grid, system: str) -> dict[str, Any]:
    steps = [
        {"type": "scale", "scale": [1.0, *np.diag(grid.affine)[:3].tolist()]},
        {"type": "translation", "translation": [0.0, *grid.origin]},
    ]
    place = {"input": {"path": str(level)}, "output": {"name": system}}
    return {
        "path": str(level),
        "coordinateTransformations": [{"type": "sequence", **place, "transformations": steps}],
    }


def write_scene(
    url: str,
    *,
    fixed: Grid,
    moving: Grid,
    affine: np.ndarray,
    fixed_to_moving: str = "fixed_to_moving",
    moving_to_fixed: str = "moving_to_fixed",
) -> None:
    """Write the scene of two fields into the group `url`; the fields are named by their paths below it.

    affine: 4 x 4, fixed world to moving world, um. What the group's attributes held before is replaced.
    """
    affine = np.asarray(affine, dtype=float)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise ValueError(f"affine must be a finite 4 x 4 matrix, got {affine}")
    bijection = {
        "type": "bijection",
        "name": "fixed_to_moving",
        "input": {"name": "fixed"},
        "output": {"name": "moving"},
        "forward": _sequence(fixed_to_moving, affine),
        "inverse": _sequence(moving_to_fixed, np.linalg.inv(affine)),
    }
    systems = [{"name": name, "axes": SPACE_AXES} for name in ("fixed", "moving")]
    scene = {"coordinateSystems": systems, "coordinateTransformations": [bijection]}
    attributes = {
        "ome": {"version": VERSION, "scene": scene},
        FRAMES: {"fixed": fixed.to_json(), "moving": moving.to_json()},
    }
    storage.create_group(url, attributes, exist_ok=True)


def _sequence(path: str, affine: np.ndarray) -> dict[str, Any]:
    steps = [
        {"type": "displacements", "path": path, "interpolation": "linear"},
        {"type": "affine", "affine": affine[:3].tolist()},
    ]
    return {"type": "sequence", "transformations": steps}


# ---------------------------------------------------------------------------------------------------- reading


class FieldReader:
    """An open displacement field, ours or another program's: `grids`, one a level, finest first, in micrometres.

    The vector axis is found by its type, spatial axes by their names (z, y, x in any order), and lengths are turned
    into micrometres. Raises InputError where the metadata says no such thing.
    """

    def __init__(self, url: str) -> None:
        self.url = str(url)
        multiscale = _entry(self.url, "multiscales", list)[0]
        try:
            datasets = multiscale["datasets"]
            place = [_only(d["coordinateTransformations"]) for d in datasets]
            names = {p["output"]["name"] for p in place}
            systems = {s["name"]: s["axes"] for s in multiscale["coordinateSystems"]}
            axes = systems[_only(names)]
            self._arrays = [storage.open_array(storage.join(self.url, d["path"])) for d in datasets]
            steps = [_scale_translation(p, len(axes)) for p in place]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"'{url}': its multiscale metadata is incomplete or malformed ({error!r})") from error
        vector = [i for i, axis in enumerate(axes) if axis.get("type") == VECTOR_AXIS["type"]]
        space = {axis["name"]: i for i, axis in enumerate(axes) if i not in vector}
        if len(vector) != 1 or set(space) != set(AXES):
            found = [(axis.get("name"), axis.get("type")) for axis in axes]
            raise InputError(
                f"'{url}': axes {found} are no 3-D displacement field; it needs z, y, x and one of type displacement"
            )
        units = [_unit_um(self.url, axes[space[name]]) for name in AXES]
        self._order = (vector[0], *(space[name] for name in AXES))
        # Component i belongs to the i-th spatial axis as the array has them.
        self._components = [sorted(space.values()).index(space[name]) for name in AXES]
        self._units = np.asarray(units, dtype=np.float32)
        self.grids: list[Grid] = []
        for array, (scale, translation) in zip(self._arrays, steps, strict=True):
            shape = [array.shape[i] for i in self._order] if array.ndim == 4 else []
            if shape[:1] != [3]:
                raise InputError(f"'{array.url}': shape {array.shape} is no 3-D displacement field")
            spacing, origin = (np.array([v[space[n]] for n in AXES]) * units for v in (scale, translation))
            self.grids.append(Grid.from_spacing(shape[1:], spacing, origin))

    def read(self, level: int, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        """Displacements (3, z, y, x), float32, um, of the voxels `start` up to `stop` (z, y, x) of a level."""
        low, high = [0] * 4, [3] * 4
        for axis, a, b in zip(self._order[1:], start, stop, strict=True):
            low[axis], high[axis] = a, b
        values = self._arrays[level].read(low, high).transpose(self._order)
        if self._components != [0, 1, 2]:
            values = values[self._components]
        values = values.astype(np.float32, copy=False)
        if (self._units != 1.0).any():
            values = values * self._units[:, None, None, None]
        return np.ascontiguousarray(values)


def read_scene(url: str) -> Scene:
    """The registration in the group `url`: a scene with one bijection of displacements followed by an affine.

    Raises InputError where the scene is another one; the message says what was found.
    """
    url = str(url)
    scene = _entry(url, "scene", dict)
    try:
        bijection = _only(scene["coordinateTransformations"])
        if bijection["type"] != "bijection":
            raise InputError(f"'{url}': its transformation is of type {bijection['type']}; bigreg reads a bijection")
        systems = {s["name"]: s["axes"] for s in scene.get("coordinateSystems", [])}
        for end in ("input", "output"):
            axes = systems.get(bijection[end]["name"], [])
            if [(a.get("name"), a.get("unit")) for a in axes] != [(name, UNIT) for name in AXES]:
                raise InputError(f"'{url}': {end} {bijection[end]} must be z, y, x in {UNIT}, declared in the scene")
        there, affine = _field_and_affine(url, bijection["forward"])
        back, inverse = _field_and_affine(url, bijection["inverse"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"'{url}': its scene metadata is incomplete or malformed ({error!r})") from error
    if not np.allclose(inverse @ affine, np.eye(4), atol=1e-6 * max(1.0, np.abs(affine).max())):
        raise InputError(f"'{url}': the affines of its two directions are not each other's inverse")
    frames = storage.read_attributes(url).get(FRAMES)
    if frames is None:  # another program's scene: a field is all it says about its frame
        fixed, moving = FieldReader(there).grids[0], FieldReader(back).grids[0]
    else:
        fixed, moving = Grid.from_json(frames["fixed"]), Grid.from_json(frames["moving"])
    return Scene(there, back, affine, fixed, moving)


def _field_and_affine(url: str, transform: dict[str, Any]) -> tuple[str, np.ndarray]:
    steps = transform["transformations"] if transform["type"] == "sequence" else [transform]
    kinds = [step["type"] for step in steps]
    if kinds not in (["displacements"], ["displacements", "affine"]):
        raise InputError(f"'{url}': a direction is {kinds}; bigreg reads displacements followed by an affine")
    matrix = np.eye(4)
    if len(steps) == 2:
        matrix[:3] = np.asarray(steps[1]["affine"], dtype=float)
    return storage.join(url, steps[0]["path"]), matrix


def _entry(url: str, key: str, kind: type) -> Any:
    ome = storage.read_attributes(url).get("ome")
    if not isinstance(ome, dict) or not isinstance(ome.get(key), kind) or not ome[key]:
        raise InputError(f"'{url}' holds no OME-Zarr {key}; check the path")
    version = str(ome.get("version"))
    if not version.startswith(READABLE):
        raise InputError(f"'{url}' is OME-Zarr {version}; its transformations are read in version {VERSION} only")
    return ome[key]


def _only(values: Any) -> Any:
    (value,) = values
    return value


def _scale_translation(transform: dict[str, Any], axes: int) -> tuple[list[float], list[float]]:
    scale, translation = [1.0] * axes, [0.0] * axes
    for step in transform["transformations"] if transform["type"] == "sequence" else [transform]:
        if step["type"] == "scale":
            scale = step["scale"]
        elif step["type"] == "translation":
            translation = step["translation"]
        elif step["type"] != "identity":
            raise ValueError(f"a level may be placed by scale and translation, not by {step['type']}")
    if len(scale) != axes or len(translation) != axes:
        raise ValueError(f"scale {scale} and translation {translation} for {axes} axes")
    return scale, translation


def _unit_um(url: str, axis: dict[str, Any]) -> float:
    if axis.get("unit") not in UNITS_UM:
        raise InputError(f"'{url}': axis {axis['name']} has unit {axis.get('unit')}; it must be one of {[*UNITS_UM]}")
    return UNITS_UM[axis["unit"]]
