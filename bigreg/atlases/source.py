"""What an atlas is: a template, its annotation, the structures, and which side of it is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import storage
from ..errors import ConfigError, InputError, named
from ..volumes import Volume, convert, open_volume
from ..volumes.lookup import lookup
from .structures import Structures

LEFT, RIGHT = 1, 2
"""Values of a hemisphere image, as in BrainGlobe's atlases."""


@dataclass(frozen=True)
class Atlas:
    """An atlas.

    template     the image that a brain is registered to; its orientation code must be known
    annotation   labels in the same world, its grid may be another
    structures   what the labels are called
    hemispheres  image of 1 (left) and 2 (right) in the same world; None: the plane in the middle of the template

    Raises InputError where annotation or hemispheres lie elsewhere than the template.
    """

    name: str
    template: Volume
    annotation: Volume
    structures: Structures
    hemispheres: Volume | None = None

    def __post_init__(self) -> None:
        if self.template.orientation is None:
            raise InputError(
                f"template of atlas '{self.name}' has no orientation; pass {_orientation()}, such as 'rsa' "
                "(Allen's NRRD files): the sides at which its z, y and x axes start"
            )
        first, last = self.template.grid().bounds(faces=True)
        for name in ("annotation", "hemispheres"):
            image = getattr(self, name)
            if image is None:
                continue
            if image.orientation not in (None, self.template.orientation):
                raise InputError(
                    f"{name} of atlas '{self.name}' has orientation {image.orientation} and the template "
                    f"{self.template.orientation}; pass {_orientation()}, which holds for both"
                )
            low, high = image.grid().bounds(faces=True)
            spacing = named("--atlas-spacing", "local_atlas's spacing")
            slack = np.maximum(image.grid().spacing, self.template.grid().spacing)
            if (np.abs(low - first) > slack).any() or (np.abs(high - last) > slack).any():
                raise InputError(
                    f"{name} of atlas '{self.name}' spans {low} to {high} µm and the template {first} to {last}; they "
                    f"must lie in one world: check the files' spacing, or pass {spacing}"
                )

    def identity(self) -> dict[str, Any]:
        """What the atlas is, as JSON."""
        return {
            "name": self.name,
            "template": self.template.identity(),
            "annotation": self.annotation.identity(),
            "hemispheres": None if self.hemispheres is None else self.hemispheres.identity(),
            "structures": self.structures.digest,
        }

    def sides_of(self, points: np.ndarray) -> np.ndarray:
        """(N,) uint8: LEFT and RIGHT of points (N, 3) um in the template's world, 0 where a point is NaN.

        By the hemisphere image, or by the plane in the middle of the template, on which is left.
        """
        return sides_of(self.template, self.hemispheres, points)


def sides_of(template: Volume, hemispheres: Volume | None, points: np.ndarray) -> np.ndarray:
    """See `Atlas.sides_of`."""
    if hemispheres is not None:
        return lookup(hemispheres, points).astype(np.uint8)
    orientation = template.orientation
    assert orientation is not None, "the template of an atlas has an orientation"
    axis = next(i for i, side in enumerate(orientation) if side in "lr")
    low, high = template.grid().bounds(faces=True)
    beyond = points[:, axis] - (low + high)[axis] / 2
    if orientation[axis] == "r":
        beyond = -beyond
    found = np.where(beyond <= 1e-6 * (high - low)[axis], LEFT, RIGHT)
    return np.where(np.isfinite(points).all(1), found, 0).astype(np.uint8)


def local_atlas(
    template: Any,
    annotation: Any,
    structures: Structures | str | Path,
    *,
    hemispheres: Any = None,
    orientation: str | None = None,
    spacing: Sequence[float] | None = None,
    name: str | None = None,
) -> Atlas:
    """An atlas from files: images as `open_volume` takes them, and the structures' .csv or .json.

    orientation, spacing   of all three images, if their files do not state it or state it wrongly
    Raises InputError as Atlas does.
    """

    def opened(source: Any, what: str) -> Volume:
        if isinstance(source, tuple) and len(source) == 2 and hasattr(source[0], "shape"):
            return open_volume(source[0], spacing=source[1], orientation=orientation, name=what)
        return open_volume(source, spacing=spacing, orientation=orientation, name=what)

    images = opened(template, "template"), opened(annotation, "annotation")
    if images[1].dtype.kind not in "iu":
        raise InputError(f"annotation holds {images[1].dtype}; labels are whole numbers")
    known = structures if isinstance(structures, Structures) else Structures.read(structures)
    sides = None if hemispheres is None else opened(hemispheres, "hemispheres")
    return Atlas(name or _named(images[0]), *images, known, sides)


def _orientation() -> str:
    return named("--atlas-orientation", "local_atlas's orientation")


def _files() -> str:
    return named("--template, --annotation and --structures", "files (bigreg.local_atlas)")


def _named(volume: Volume) -> str:
    return "local" if volume.spec is None else volume.spec.path.rstrip("/").rsplit("/", 1)[-1].split(".")[0]


def chosen_atlas(
    name: str | None, template: Any, annotation: Any, structures: Structures | str | Path | None, **files: Any
) -> Atlas | str:
    """The atlas of BrainGlobe that is named, or that of files (see `local_atlas`); exactly one of them is to be given.

    Raises ConfigError where both are given, or neither wholly.
    """
    dashes = named("--", "")
    parts = {f"{dashes}template": template, f"{dashes}annotation": annotation, f"{dashes}structures": structures}
    given = [k for k, value in {**parts, **{dashes + k: v for k, v in files.items()}}.items() if value is not None]
    if name is not None:
        if given:
            raise ConfigError(f"atlas '{name}' brings its own files; leave out {', '.join(given)}, or its name")
        return name
    missing = [key for key, value in parts.items() if value is None]
    if structures is None or missing:
        raise ConfigError(
            f"no atlas: {', '.join(missing)} is missing; give these files, or " + named("--atlas NAME", "a name")
        )
    return local_atlas(template, annotation, structures, **files)


def brainglobe_atlas(name: str, folder: str, *, brainglobe_dir: str | Path | None = None) -> Atlas:
    """An atlas of BrainGlobe by its name, such as allen_mouse_25um; downloaded where it is not on this machine.

    folder           where its images are kept as OME-Zarr, so that they need not be in memory
    brainglobe_dir   where atlases of BrainGlobe lie; by default as BrainGlobe is configured
    Raises InputError where brainglobe-atlasapi is missing, the name is unknown, or its server cannot be reached.
    """
    try:
        from brainglobe_atlasapi import BrainGlobeAtlas
    except ImportError as error:
        raise InputError(
            f"atlas '{name}' needs brainglobe-atlasapi ({error}); pip install 'bigreg[atlas]', or give {_files()}"
        ) from error
    try:
        found = BrainGlobeAtlas(name, brainglobe_dir=brainglobe_dir, check_latest=False)
        kept = {
            part: _kept(lambda part=part: getattr(found, part), found, folder, part)
            for part in ("template", "annotation", "hemispheres")
        }
    except InputError:
        raise
    except Exception as error:  # of requests, s3fs, botocore, zarr: BrainGlobe wraps none of them
        raise InputError(
            f"atlas '{name}' cannot be fetched from BrainGlobe: {type(error).__name__}: {error}; check the name "
            f"(`brainglobe list`) and the connection, or give {_files()}"
        ) from error
    structures = Structures.of_records(found.structures_list, f"structures of '{name}'")
    return Atlas(name, kept["template"], kept["annotation"], structures, kept["hemispheres"])


def _kept(load: Any, found: Any, folder: str, part: str) -> Volume:
    """An image of a BrainGlobe atlas as OME-Zarr, written once."""
    url = storage.join(folder, f"{part}.ome.zarr")
    if not storage.exists(url):
        array = np.asarray(load())
        spacing = tuple(float(r) for r in found.resolution)
        labels = part != "template"
        convert(array, url, spacing=spacing, orientation=found.orientation, labels=labels, levels=1)
    return open_volume(url, name=part)
