"""Transforms of files, and several transforms as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError, InputError
from ..transforms.files import axes_of, open_maps, unit_um
from ..transforms.itk import MM
from ..transforms.maps import Frame, Map
from ..volumes import Volume
from .pieces import Pieces, is_pieces
from .results.transform import Transform, checked
from .run import Run
from .store.inputs import INVERSE, as_volume
from .store.store import is_run


class FileTransform(Transform):
    """The map of a file: ITK's transforms and fields, a 4 x 4 or landmarks as CSV, an OME-Zarr scene.

    fixed, moving   what is known of the two frames: their grids, and how LPS lies in them
    unit            um that one of an ITK file's units is
    """

    def __init__(self, path: str, fixed: Frame | None = None, moving: Frame | None = None, unit: float = MM) -> None:
        self.path = str(path)
        self._known = (fixed, moving, unit)
        self._there, self._back = open_maps(self.path, fixed, moving, unit)

    def __repr__(self) -> str:
        return f"FileTransform('{self.path}')"

    def __reduce__(self) -> tuple[Any, ...]:
        return FileTransform, (self.path, *self._known)

    def map(self, direction: str = "fixed_to_moving") -> Map:
        if checked(direction) == "fixed_to_moving":
            return self._there
        if self._back is None:
            raise InputError(f"'{self.path}' holds displacements without their inverse; give the file of the other way")
        return self._back


class Chain(Transform):
    """Transforms one after another: the moving frame of each is the fixed frame of the next."""

    def __init__(self, parts: tuple[Transform, ...]) -> None:
        self.parts = parts

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.parts))})"

    def identity(self) -> str:
        return f"Chain({', '.join(part.identity() for part in self.parts)})"

    def frame_image(self, frame: str) -> Volume | None:
        return self.parts[0 if frame == "fixed" else -1].frame_image(frame)

    def map(self, direction: str = "fixed_to_moving") -> Map:
        parts = self.parts if checked(direction) == "fixed_to_moving" else self.parts[::-1]
        out = parts[0].map(direction)
        for part in parts[1:]:
            out = out.then(part.map(direction))
        return out


def chain(*parts: Any, fixed: Any = None, moving: Any = None, unit: str = "mm", axes: str = "lps") -> Transform:
    """Join runs and transform files into one map from the fixed frame of the first to the moving frame of the last.

    parts           runs, pieces, chains, paths of either or of a transform file; ":inverse" after a path goes backwards
    fixed, moving   images at the two ends: if a file is at that end, its grid and the orientation of its axes
    unit, axes      of ITK's files, see `Transform.export`

    A brain that was registered to an atlas (`atlas.zarr`: fixed = atlas), and a further round of imaging to the brain
    (`round.zarr`: fixed = brain): `chain("atlas.zarr", "round.zarr").warp("round.ome.zarr", out=...)` brings the round
    onto the atlas with one interpolation.
    """
    um, lie = unit_um(unit), axes_of(axes)
    if not parts:
        raise ConfigError("a chain needs at least one run or transform file")
    given = [_frame(image, which) for image, which in ((fixed, "fixed"), (moving, "moving"))]
    given_parts = [opened(part) for part in parts]
    # A file takes its frames from its neighbours, or from the images at the ends.
    last = len(given_parts) - 1
    out: list[Transform] = []
    for number, part in enumerate(given_parts):
        if isinstance(part, Transform):
            out.append(part)
            continue
        path, backwards = part
        before = given[0] if number == 0 else out[-1].map().target
        after = given[1] if number == last else Frame()
        following = given_parts[number + 1] if number < last else None
        if isinstance(following, Transform):
            after = following.map().source
        if lie == "xyz":
            before, after = Frame(before.grid), Frame(after.grid)
        sides = (after, before) if backwards else (before, after)
        one = FileTransform(path, *sides, um)
        out.append(one.inverse if backwards else one)
    return out[0] if len(out) == 1 else Chain(tuple(out))


def end_image(parts: Sequence[Any], which: str) -> Volume | None:
    """The fixed image of the first, or the moving one of the last, of what is to be a chain; None where a file is."""
    end = opened(parts[0 if which == "fixed" else -1])
    return end.frame_image(which) if isinstance(end, Transform) else None


def _frame(image: Any, which: str) -> Frame:
    if image is None:
        return Frame()
    volume = as_volume(image, which)
    return Frame(volume.grid(), volume.orientation)


def opened(part: Any) -> Transform | tuple[str, bool]:
    """A transform, or the path of a file and whether it goes backwards."""
    if isinstance(part, Transform):
        return part
    text = str(part)
    backwards = text.endswith(INVERSE)
    path = text.removesuffix(INVERSE)
    if is_run(path) or is_pieces(path):
        found = Run(path) if is_run(path) else Pieces(path)
        return found.inverse if backwards else found
    return path, backwards
