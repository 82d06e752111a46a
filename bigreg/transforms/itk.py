"""ITK's transform files: .txt, .tfm and .mat for matrices, .h5 for anything; what ANTs, SimpleITK and elastix read.

ITK's world is (x, y, z) with x to the left, y to posterior, z to superior (LPS), in millimetres for images that are
NIfTI, else in whatever number the file says: a `unit` (um) is handed along. In between, here, a map lives in the *LPS
world*: the same axes in the order z, y, x and in micrometres. `to_lps` leads there from the world of an image.

A file's list of transforms is a queue: points go through the last one first. So a field that is followed by an affine
is stored as affine, field, as antsRegistration stores its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from ..errors import CorruptDataError, InputError
from ..geometry import Grid, Integers, Shape, triple
from .maps import Affine, Field, Map, Step

MM = 1000.0
PIECE = 1 << 21  # samples of a field that are written at once
_FLIP = np.eye(4)[[2, 1, 0, 3]]
_LPS = {"r": (2, 1), "l": (2, -1), "a": (1, 1), "p": (1, -1), "i": (0, 1), "s": (0, -1)}

Values = Callable[[tuple[int, int, int], tuple[int, int, int]], np.ndarray]
"""(start, stop) to (z, y, x, 3) float32: displacements as ITK has them, x y z, in its unit."""


def to_lps(orientation: str | None) -> np.ndarray:
    """4 x 4 from an image's world to the LPS world; the identity where it is not known how the image lies."""
    out = np.eye(4)
    if orientation is not None:
        out[:3, :3] = 0.0
        for axis, side in enumerate(orientation):
            row, sign = _LPS[side]
            out[row, axis] = sign
    return out


def in_lps(map_: Map) -> Map:
    """A map between the worlds of two images as one of the LPS world; it begins with its field where it did before."""
    first, last = (to_lps(end.orientation) for end in (map_.source, map_.target))
    steps = list(map_.steps)
    back = np.linalg.inv(first)
    if steps and isinstance(steps[0], Field):
        steps = [steps[0].after(back), Affine(back), *steps[1:]]
    else:
        steps = [Affine(back), *steps]
    return Map((*steps, Affine(last)))


def from_lps(steps: Sequence[Step], map_ends: Map) -> Map:
    """The reverse: steps of the LPS world as a map between the two frames of `map_ends`."""
    first, last = (to_lps(end.orientation) for end in (map_ends.source, map_ends.target))
    return Map((Affine(first), *steps, Affine(np.linalg.inv(last))), map_ends.source, map_ends.target)


def itk_matrix(matrix: np.ndarray, unit: float) -> np.ndarray:
    """A 4 x 4 of the LPS world (z, y, x, um) as ITK has it (x, y, z, its unit)."""
    out: np.ndarray = _FLIP @ matrix @ _FLIP
    out[:3, 3] /= unit
    return out


def lps_matrix(matrix: np.ndarray, unit: float) -> np.ndarray:
    """The reverse of `itk_matrix`."""
    out: np.ndarray = _FLIP @ matrix @ _FLIP
    out[:3, 3] *= unit
    return out


def itk_grid(grid: Grid, unit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A grid of the LPS world as ITK's size, origin, spacing (x, y, z) and direction (3 x 3)."""
    affine = _FLIP @ grid.affine @ _FLIP
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return np.array(grid.shape[::-1]), affine[:3, 3] / unit, spacing / unit, affine[:3, :3] / spacing


def lps_grid(size: Integers, affine: np.ndarray, unit: float) -> Grid:
    """The grid of the LPS world from ITK's size (x, y, z) and index-to-point 4 x 4."""
    scale = np.diag([unit, unit, unit, 1.0])
    return Grid(triple(int(n) for n in size)[::-1], tuple(map(tuple, (_FLIP @ scale @ affine @ _FLIP)[:3])))


def index_to_point(origin: np.ndarray, spacing: np.ndarray, direction: np.ndarray) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = np.asarray(direction, float).reshape(3, 3) * np.asarray(spacing, float)
    out[:3, 3] = origin
    return out


def pieces(shape: Sequence[int]) -> Iterator[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Boxes of at most PIECE samples that follow one another in C order: planes, or rows where a plane is larger."""
    depth, height, width = shape
    planes = max(1, PIECE // (height * width))
    rows = height if planes > 1 or height * width <= PIECE else max(1, PIECE // width)
    for z in range(0, depth, planes):
        for y in range(0, height, rows):
            yield (z, y, 0), (min(z + planes, depth), min(y + rows, height), width)


def displacements(step: Field | Map, grid: Grid, unit: float) -> Values:
    """What ITK is to be given of a field of the LPS world, or of a whole map that is sampled on `grid`."""
    from .positions import Positions

    if isinstance(step, Field):
        read_field = step.read

        def of_field(start: Shape, stop: Shape) -> np.ndarray:
            return np.moveaxis(read_field(start, stop)[::-1], 0, -1) / np.float32(unit)

        return of_field

    def of_map(start: Shape, stop: Shape) -> np.ndarray:
        here = Positions.of_grid(grid.cropped(start, stop))
        moved = step.follow(here)[0].points() - here.points()
        shape = tuple(b - a for a, b in zip(start, stop, strict=True))
        values: np.ndarray = (moved[:, ::-1] / unit).astype(np.float32).reshape(*shape, 3)
        return values

    return of_map


# ---------------------------------------------------------------------------------------------------- writing


def write_affine(path: Path, matrix: np.ndarray, unit: float) -> None:
    """One AffineTransform (LPS world, 4 x 4) as .txt, .tfm, .mat or .h5, by the suffix of `path`."""
    name = "AffineTransform_double_3_3"
    parameters, centre = _parameters(matrix, unit), np.zeros(3)
    suffix = path.suffix.lower()
    if suffix == ".mat":
        values = {name: parameters.reshape(-1, 1), "fixed": centre.reshape(-1, 1)}
        with open(path, "wb") as file:
            scipy.io.savemat(file, values, format="4")
    elif suffix in (".h5", ".hdf5"):
        with h5py.File(path, "w") as file:
            _versions(file)
            _dataset(file, 0, name, centre, parameters)
    else:
        words = (" ".join(f"{v:.17g}" for v in values) for values in (parameters, centre))
        text = "#Insight Transform File V1.0\n#Transform 0\nTransform: {}\nParameters: {}\nFixedParameters: {}\n"
        path.write_text(text.format(name, *words))


def write_composite(path: Path, map_: Map, unit: float) -> None:
    """The steps of a map of the LPS world as a CompositeTransform in HDF5; fields are written piece by piece."""
    with h5py.File(path, "w") as file:
        _versions(file)
        _dataset(file, 0, "CompositeTransform_double_3_3")
        # The last of the queue is applied first.
        for number, step in enumerate(reversed(map_.steps or (Affine(np.eye(4)),)), start=1):
            if isinstance(step, Affine):
                _dataset(file, number, "AffineTransform_double_3_3", np.zeros(3), _parameters(step.matrix, unit))
                continue
            assert isinstance(step, Field), "a map is made of affines and fields"
            size, origin, spacing, direction = itk_grid(step.grid, unit)
            fixed = np.concatenate([size, origin, spacing, direction.ravel()]).astype(float)
            samples = 3 * step.grid.voxels
            stored = file.require_group(f"TransformGroup/{number}").create_dataset(
                "TransformParameters", (samples,), "float32", chunks=(min(samples, 3 << 16),), compression="gzip",
                compression_opts=1, shuffle=True,
            )  # fmt: skip
            values, place = displacements(step, step.grid, unit), 0
            for start, stop in pieces(step.grid.shape):
                piece = values(start, stop).ravel()
                stored[place : place + piece.size] = piece
                place += piece.size
            _dataset(file, number, "DisplacementFieldTransform_float_3_3", fixed)


def _parameters(matrix: np.ndarray, unit: float) -> np.ndarray:
    matrix = itk_matrix(matrix, unit)
    return np.concatenate([matrix[:3, :3].ravel(), matrix[:3, 3]])


def _versions(file: h5py.File) -> None:
    for name, text in (("ITKVersion", "5.4.0"), ("HDFVersion", h5py.version.hdf5_version), ("OSName", "")):
        file.create_dataset(name, data=[text], dtype=h5py.string_dtype("ascii"))


def _dataset(
    file: h5py.File, number: int, name: str, fixed: np.ndarray | None = None, parameters: np.ndarray | None = None
) -> None:
    group = file.require_group(f"TransformGroup/{number}")
    group.create_dataset("TransformType", data=[name], dtype=h5py.string_dtype("ascii"))
    if fixed is not None:
        group.create_dataset("TransformFixedParameters", data=fixed)
    if parameters is not None:
        group.create_dataset("TransformParameters", data=parameters)


# ---------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Stored:
    """One transform of a file, as ITK says it; `parameters` may be a dataset that is still on disk."""

    name: str
    fixed: np.ndarray
    parameters: np.ndarray | h5py.Dataset


def read_transforms(path: str | Path, unit: float) -> tuple[Step, ...]:
    """The transforms of a .txt, .tfm, .mat, .h5 or .xfm file as steps of the LPS world, first to last.

    Raises InputError for a kind of transform that is neither a matrix nor a displacement field, CorruptDataError where
    the file is not one of ITK's.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    try:
        read = {".mat": _read_mat, ".h5": _read_hdf5, ".hdf5": _read_hdf5}.get(suffix, _read_text)
        stored = read(path)
        if stored and stored[0].name.startswith("CompositeTransform"):
            stored = stored[1:]
        return tuple(_step(path, one, unit) for one in reversed(stored))
    except FileNotFoundError as error:
        raise InputError(f"transform '{path}' does not exist; check the path") from error
    except (OSError, ValueError, KeyError, IndexError, scipy.io.matlab.MatReadError) as error:
        raise CorruptDataError(f"'{path}' cannot be read as an ITK transform: {error}; write it again") from error


def _read_mat(path: Path) -> list[_Stored]:
    data = scipy.io.loadmat(path)
    fixed = np.ravel(data.pop("fixed"))
    return [_Stored(name, fixed, np.ravel(v)) for name, v in data.items() if not name.startswith("__")]


def _read_hdf5(path: Path) -> list[_Stored]:
    file = h5py.File(path, "r")  # kept open by the datasets of fields
    groups = file["TransformGroup"]
    out = []
    for number in sorted(groups, key=int):
        group = groups[number]
        name = group["TransformType"][0].decode()
        if name.startswith("CompositeTransform"):
            out.append(_Stored(name, np.zeros(0), np.zeros(0)))
            continue
        # Before ITK 5 the names were misspelt.
        fixed, parameters = (
            group[f"Transform{what}"] if f"Transform{what}" in group else group[f"Tranform{what}"]
            for what in ("FixedParameters", "Parameters")
        )
        lazy = name.startswith("DisplacementField")
        out.append(_Stored(name, fixed[...], parameters if lazy else parameters[...]))
    return out


def _read_text(path: Path) -> list[_Stored]:
    lines = path.read_text().splitlines()
    if not lines or not lines[0].startswith("#Insight Transform File"):
        raise ValueError("it does not begin with '#Insight Transform File'")
    out: list[_Stored] = []
    words: dict[str, str] = {}
    for line in (*lines, "Transform: end"):
        key, mark, value = line.partition(":")
        if line.startswith("#") or not mark:
            continue
        if key == "Transform" and "Transform" in words:
            fixed, parameters = (
                np.array(words.get(k, "").split(), np.float64) for k in ("FixedParameters", "Parameters")
            )
            out.append(_Stored(words["Transform"], fixed, parameters))
            words = {}
        words[key.strip()] = value.strip()
    return out


def _step(path: Path, stored: _Stored, unit: float) -> Step:
    kind, _, rest = stored.name.partition("_")
    if rest and not rest.endswith("_3_3"):
        raise InputError(f"'{path}': {stored.name} is not three-dimensional; give a 3-D transform")
    if kind == "DisplacementFieldTransform":
        return _field(stored, unit)
    if kind not in _MATRICES:
        known = ", ".join(sorted(_MATRICES))
        raise InputError(f"'{path}': {kind} cannot be read; known are DisplacementFieldTransform, {known}")
    linear, translation = _MATRICES[kind](stored.parameters, stored.fixed)
    centre = stored.fixed[:3] if len(stored.fixed) >= 3 else np.zeros(3)
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre + translation - linear @ centre
    return Affine(lps_matrix(matrix, unit))


def _field(stored: _Stored, unit: float) -> Field:
    fixed = stored.fixed
    size = fixed[:3].astype(int)
    grid = lps_grid(size, index_to_point(fixed[3:6], fixed[6:9], fixed[9:18]), unit)
    width, height = int(size[0]), int(size[1])
    data = stored.parameters
    if data.shape != (3 * grid.voxels,):
        raise ValueError(f"a field of {size} samples has {data.shape} parameters")

    def read(start: Shape, stop: Shape) -> np.ndarray:
        rows = stop[1] - start[1]
        out = np.empty((3, stop[0] - start[0], rows, stop[2] - start[2]), np.float32)
        for z in range(start[0], stop[0]):
            first = (z * height + start[1]) * width * 3
            plane = data[first : first + rows * width * 3].reshape(rows, width, 3)
            out[:, z - start[0]] = np.moveaxis(plane[:, start[2] : stop[2], ::-1], -1, 0)
        return out * np.float32(unit)

    return Field(read, grid)


def _versor(v: np.ndarray) -> np.ndarray:
    x, y, z = v
    w = np.sqrt(max(0.0, 1.0 - float(np.dot(v, v))))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _euler(p: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    (cx, cy, cz), (sx, sy, sz) = np.cos(p[:3]), np.sin(p[:3])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    zyx = len(fixed) > 3 and fixed[3] != 0
    return (about_z @ about_y @ about_x if zyx else about_z @ about_x @ about_y), p[3:6]


def _general(p: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return p[:9].reshape(3, 3), p[9:12]


_MATRICES: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "AffineTransform": _general,
    "MatrixOffsetTransformBase": _general,
    "Rigid3DTransform": _general,
    "IdentityTransform": lambda p, fixed: (np.eye(3), np.zeros(3)),
    "TranslationTransform": lambda p, fixed: (np.eye(3), p[:3]),
    "Euler3DTransform": _euler,
    "VersorRigid3DTransform": lambda p, fixed: (_versor(p[:3]), p[3:6]),
    "Similarity3DTransform": lambda p, fixed: (p[6] * _versor(p[:3]), p[3:6]),
}
"""For each kind of matrix: its parameters and fixed parameters to linear part and translation about its centre."""
