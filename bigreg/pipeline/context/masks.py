"""Masks: where an image shows what is to be compared. Given as an image, or found.

A given mask, and the voxels of a float image that are finite, are kept as weights at every resolution that is compared
(see `weights`). Found tissue is kept on the grid of the small image that the affine sees: its border is as fine as that
grid (about 1/128 of the longest axis), and nothing beyond it has to be kept out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from ... import storage
from ...config import Config
from ...errors import InputError
from ...geometry import Grid, Numbers, Shape
from ...transforms.positions import Positions, Read
from ...volumes import ImageSpec, Volume, open_volume
from ...volumes.convert import boxes
from ..store.store import RunStore
from .padding import padding_of

IMAGES = ("fixed", "moving")
AUTO, NONE, TISSUE, FINITE, PADDING = "auto", "none", "tissue", "finite", "padding"
OWN = (AUTO, NONE, TISSUE, FINITE, PADDING)
"""What the image itself says; anything else is the path of a mask, or of a label image with the labels: PATH:1,3."""
SEEN = 0.499
"""A point is compared where more than this share of what is around it is inside the mask: half, but for rounding."""
LEAST = 0.01
"""Of an image that a mask must leave; less is taken for a mistake."""
APART = 0.02
"""By how much of the image's extent a mask's faces may lie elsewhere, or by one of its voxels."""
DIGESTED = 2**27
"""Voxels of a mask up to which its contents tell it from another; a larger one is known by its metadata alone."""
SMALLEST_PIECE = 0.02  # of the largest piece of tissue; less is dirt
KNEE = 0.002  # share of the range from which on ratios count and not differences
MARGIN = 2  # voxels around what is found: the border itself is structure
PIECE = 128  # voxels along an axis of a mask that are read at once


@dataclass(frozen=True)
class GivenMask:
    """A mask that a run begins with, and where it lies.

    volume     None: what the image's own voxels say: those that are finite, or, where `padding` is given, are none
    labels     the values that are inside; empty: all but 0 and what is no number
    """

    volume: Volume | None = None
    grid: Grid | None = None
    padding: float | None = None
    labels: tuple[int, ...] = ()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What tells it from another. Reads a mask that is not too large for it."""
        if self.volume is None:
            return {"finite": True} if self.padding is None else {"padding": self.padding}
        chosen = {"labels": list(self.labels)} if self.labels else {}
        return {"mask": self.volume.identity(), "content": _content(self.volume, self.labels), **chosen}

    def to_json(self, base: Shape) -> dict[str, Any]:
        """What the run keeps. base: the finest resolution that is compared (block means of the image, z y x)."""
        spec = None if self.volume is None else self.volume.spec
        return {
            "image": None if spec is None else spec.model_dump(mode="json"),
            "grid": None if self.grid is None else self.grid.to_json(),
            "identity": self.identity,
            "base": list(base),
        }


def given_masks(
    config: Config, volumes: Mapping[str, Volume], begun: Mapping[str, Any] | None = None
) -> tuple[Config, dict[str, GivenMask]]:
    """The masks to begin with, by image, and the configuration with their paths made absolute.

    begun   the attributes of the run that is gone on with: padding is not looked for a second time
    Found tissue is none of them. Raises InputError where a mask cannot be read or does not fit its image.
    """
    found, settled = {}, {}
    for which in IMAGES:
        choice = getattr(config.masks, which)
        if choice in (AUTO, PADDING):
            if choice == AUTO and begun and begun["config"].get("masks", {}).get(which, NONE) in (NONE, PADDING):
                padding = begun.get("masks", {}).get(which, {}).get("identity", {}).get("padding")
            else:
                padding = padding_of(volumes[which], always=choice == PADDING)
            settled[which] = NONE if padding is None else PADDING
            if padding is not None:
                found[which] = GivenMask(padding=padding)
            elif choice == PADDING:
                raise InputError(
                    f"masks.{which}={PADDING}: {which} has no padding, one value beyond flat faces of the data that "
                    f"hardly any of the data has; give a mask image, or {NONE}"
                )
        elif choice == FINITE and volumes[which].dtype.kind == "f":
            found[which] = GivenMask()
        elif choice not in OWN:
            found[which] = given_mask(choice, which, volumes[which])
            path = labels_of(choice)[0]
            local = storage.local_path(path)
            settled[which] = choice if local is None else f"{local}{choice[len(path) :]}"
    return config.model_copy(update={"masks": config.masks.model_copy(update=settled)}), found


def given_mask(choice: str, which: str, image: Volume) -> GivenMask:
    """A mask in a file, checked against its image. Raises InputError where it is missing or lies elsewhere."""
    path, labels = labels_of(choice)
    if not path:
        raise InputError(f"{which} mask has no path; give one, or one of {', '.join(OWN)}")
    mask, grid = lying(path, f"{which} mask", image)
    require_fit(f"{which} mask '{choice}'", grid, image)
    return GivenMask(mask, grid, labels=labels)


def labels_of(choice: str) -> tuple[str, tuple[int, ...]]:
    """PATH:1,3 as the path and the labels that are meant; a path alone, and no labels, where nothing follows it."""
    found = re.fullmatch(r"(.*[^:/]):(\d+(?:,\d+)*)", choice, re.DOTALL)
    local = None if found is None else storage.local_path(choice)
    if found is None or (local is not None and local.exists()):
        return choice, ()
    return found[1], tuple(sorted({int(label) for label in found[2].split(",")}))


def lying(path: str, name: str, image: Volume) -> tuple[Volume, Grid]:
    """A mask or a label image in a file, and its grid in the world of `image`, whose frame it has.

    As its own spacing and origin say; where it states none, voxel on voxel of the image or of a whole number of them.
    Raises InputError where it is missing or of neither.
    """
    spec = _spec(path, image)
    mask = open_volume(spec.model_copy(update={"spacing": (1.0, 1.0, 1.0)}), name=name)
    stated = _as_stated(spec, name) if mask.spacing_known else None
    if stated is None:
        return mask, _placed(f"{name} '{path}'", mask.shape, image)
    grid = stated.grid()
    # Its file may say it wrongly, as the image's does, which was overruled.
    return stated, image.grid() if _as_in_file(image) == grid else grid


def require_overlap(name: str, grid: Grid, image: Volume) -> None:
    """Raise InputError where a label image, which may be a part of its image, has no place in common with it."""
    low, high = grid.bounds(faces=True)
    first, last = image.grid().bounds(faces=True)
    if (low >= last).any() or (high <= first).any():
        raise InputError(
            f"{name} spans {_corner(low)} to {_corner(high)} µm and the {image.name} image {_corner(first)} to "
            f"{_corner(last)} µm: they do not overlap; write them with the spacing and origin of that image, or on its "
            "voxels without a spacing"
        )


def _corner(values: np.ndarray) -> str:
    return f"({', '.join(f'{v:.6g}' for v in values)})"


def _spec(choice: str, image: Volume) -> ImageSpec:
    """A path; of a dataset in HDF5 or N5, CONTAINER/DATASET. Directions are dropped where those of the image were."""
    spec = ImageSpec(path=choice, orientation=image.settings.orientation)
    local = storage.local_path(spec.path)
    container, n5, dataset = spec.path.partition(".n5/")
    if n5:
        return spec.model_copy(update={"path": f"{container}.n5", "dataset": dataset.strip("/")})
    file = None if local is None or local.exists() else next((p for p in local.parents if p.is_file()), None)
    if local is None or file is None:
        return spec
    return spec.model_copy(update={"path": str(file), "dataset": local.relative_to(file).as_posix()})


def _as_stated(spec: ImageSpec, name: str) -> Volume | None:
    """An image that can be read, with the spacing of its file; None where this has no length in um."""
    try:
        return open_volume(spec, name=name)
    except InputError:
        return None


def _as_in_file(image: Volume) -> Grid | None:
    """The grid that an image's file states where spacing or origin were overruled; None where they were not."""
    said = image.settings
    if image.spec is None or not image.spacing_known or (said.spacing is None and said.origin is None):
        return None
    stated = _as_stated(image.spec.model_copy(update={"spacing": None, "origin": None}), image.name)
    return None if stated is None else stated.grid()


def _placed(what: str, shape: Shape, volume: Volume) -> Grid:
    """The grid of a mask whose file states no spacing: voxels of the image, or of a whole number of them."""
    image, which = volume.grid(), volume.name
    factors = np.maximum(np.rint(np.divide(image.shape, shape)), 1).astype(int)
    if all(n in (a // f, -(-a // f)) for n, a, f in zip(shape, image.shape, factors, strict=True)):
        return Grid(shape, image.downsampled(np.minimum(factors, image.shape)).matrix)
    raise InputError(
        f"{what} states no spacing, and its shape {shape} is neither that of {which}, {image.shape}, "
        f"nor an integer part of it; write it on the voxels of {which}, or with its spacing and origin "
        "(bigreg convert --spacing Z Y X --origin Z Y X)"
    )


def require_fit(what: str, mask: Grid, volume: Volume) -> None:
    """Raise InputError where the faces of a mask do not lie about where those of its image do."""
    image, which = volume.grid(), volume.name
    low, high = mask.bounds(faces=True)
    first, last = image.bounds(faces=True)
    text = (
        f"{what} spans {_um(low)} to {_um(high)} µm (shape {mask.shape}, spacing {_um(mask.spacing)}) "
        f"and {which} {_um(first)} to {_um(last)} µm (shape {image.shape}, spacing {_um(image.spacing)}): "
    )
    remedy = f"write the mask with the spacing and origin of {which}, or on the same voxels without a spacing"
    if (np.minimum(high, last) <= np.maximum(low, first)).any():
        raise InputError(f"{text}they do not overlap; {remedy}")
    voxel = np.abs(mask.affine[:3, :3]).sum(1)
    off = np.maximum(np.abs(low - first), np.abs(high - last))
    if (off > np.maximum(voxel, APART * (last - first)) * (1 + 1e-6)).any():
        raise InputError(f"{text}they differ by up to {_um(off)} µm; {remedy}")


def _um(values: Numbers) -> str:
    return f"({', '.join(f'{v:.6g}' for v in values)})"


def _content(mask: Volume, labels: Sequence[int]) -> str | None:
    if int(np.prod(mask.shape, dtype=np.int64)) > DIGESTED:
        return None
    digest = hashlib.sha256()
    for start, stop in boxes(mask.shape, (PIECE,) * 3):
        digest.update(inside_of(mask.read(start, stop), labels).tobytes())
    return digest.hexdigest()


def inside_of(values: np.ndarray, labels: Sequence[int] = ()) -> np.ndarray:
    """Whether stored values of a mask are to be compared: those labels, or all but 0 and what is no number."""
    if labels:
        return np.isin(values, labels)
    return (values != 0) & np.isfinite(values) if values.dtype.kind == "f" else values != 0


class SourceMask:
    """A given mask as a task sees it. base: the finest resolution that is compared; coarser ones the run makes."""

    def __init__(self, which: str, known: Mapping[str, Any]) -> None:
        self.which = which
        self.base: Shape = tuple(known["base"])
        self.finite = known["image"] is None and "padding" not in known["identity"]
        self.padding: float | None = known["identity"].get("padding")
        self.labels: Sequence[int] = known["identity"].get("labels", ())
        self._known = known

    @cached_property
    def _volume(self) -> Volume:
        return open_volume(ImageSpec.model_validate(self._known["image"]), name=f"{self.which} mask")

    @cached_property
    def _grid(self) -> Grid:
        return Grid.from_json(self._known["grid"])

    def covers(self, part: Grid) -> np.ndarray:
        """(z, y, x) bool: which voxels of a grid lie inside the mask as a whole; beyond its faces its border counts.

        A voxel is looked at in as many places as voxels of the mask fit into it. Memory does not grow with these.
        """
        along = np.abs((self._grid.inverse @ part.affine)[:3, :3])
        parts = np.maximum(np.ceil(along.max(0) - 1e-3), 1).astype(int)
        out = np.empty(part.shape, bool)
        steps = [max(1, PIECE // int(p)) for p in parts]
        for start, stop in boxes(part.shape, steps):
            piece = part.cropped(start, stop)
            shape = np.multiply(piece.shape, parts)
            fine = piece if (parts == 1).all() else piece.resampled(np.divide(piece.spacing, parts))
            values = inside_of(self._nearest(fine), self.labels).reshape(
                [n for size, p in zip(shape, parts, strict=True) for n in (size // p, p)]
            )
            out[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = values.all((1, 3, 5))
        return out

    def _nearest(self, fine: Grid) -> np.ndarray:
        """The mask's values at the samples of a grid: each that of the voxel around it."""
        to_mask, last = self._grid.inverse @ fine.affine, np.subtract(self._grid.shape, 1)
        linear = to_mask[:3, :3]
        if np.abs(linear - np.diag(np.diag(linear))).max() * max(fine.shape) < 1e-3:
            lines = [linear[a, a] * np.arange(fine.shape[a]) + to_mask[a, 3] for a in range(3)]
            index = [np.clip(np.rint(line), 0, end).astype(int) for line, end in zip(lines, last, strict=True)]
            low, high = [int(i.min()) for i in index], [int(i.max()) + 1 for i in index]
            return self._volume.read(low, high)[np.ix_(*(i - a for i, a in zip(index, low, strict=True)))]
        points = np.tensordot(linear, np.indices(fine.shape, dtype=float), 1) + to_mask[:3, 3].reshape(3, 1, 1, 1)
        index = np.clip(np.rint(points), 0, last.reshape(3, 1, 1, 1)).astype(int)
        low, high = index.reshape(3, -1).min(1), index.reshape(3, -1).max(1) + 1
        return self._volume.read(low, high)[tuple(index - low.reshape(3, 1, 1, 1))]


def source_mask(attributes: Mapping[str, Any], which: str) -> SourceMask | None:
    """The given mask of a run's image. Raises InputError where the run was begun before masks were kept so."""
    known = attributes.get("masks", {}).get(which)
    choice = attributes["config"].get("masks", {}).get(which, NONE)
    if known is None and choice not in OWN and attributes.get("state") != "finished":
        raise InputError(
            f"the run was begun with {which} mask '{choice}' by a bigreg that stored masks differently; start it again"
        )
    return None if known is None else SourceMask(which, known)


def find_tissue(image: np.ndarray) -> np.ndarray:
    """(z, y, x) bool: what is brighter than background, without dirt and holes, and a small margin.

    image (z, y, x) of intensities about 0..1. The threshold is Otsu's (1979) on the logarithm of the smoothed
    intensities: light falls off within cleared tissue, and the dimmest of it is much nearer to the background than to
    the brightest. All true where there is no background.
    """
    smooth = np.log1p(ndimage.gaussian_filter(np.clip(image, 0.0, 1.0), 1.0) / KNEE)
    counts, edges = np.histogram(smooth, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    total, mass = below[-1], np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mass[-1] * below / total - mass) ** 2 / (below * (total - below))
    # The means of the two sides must lie apart, or there is but one kind of voxel.
    cut = int(np.nanargmax(between[:-1]))
    dark, bright = mass[cut] / below[cut], (mass[-1] - mass[cut]) / (total - below[cut])
    if bright - dark < 3.0 * smooth[smooth <= centres[cut]].std():
        return np.ones(image.shape, bool)
    found = ndimage.binary_opening(smooth > centres[cut])
    pieces, number = ndimage.label(found)
    if number == 0:
        return np.ones(image.shape, bool)
    sizes = np.bincount(pieces.ravel())[1:]
    found = np.isin(pieces, 1 + np.flatnonzero(sizes >= SMALLEST_PIECE * sizes.max()))
    return ndimage.binary_dilation(ndimage.binary_fill_holes(found), iterations=MARGIN)


def keep_tissue(store: RunStore, which: str, found: np.ndarray, grid: Grid) -> None:
    """Store the found tissue of an image, (z, y, x) bool on the grid of its small copy."""
    store.groups("masks")
    url = store.path("masks", which)
    storage.create_array(url, shape=found.shape, dtype="uint8", chunks=found.shape, exist_ok=True).write(
        (0, 0, 0), found.astype(np.uint8)
    )
    storage.write_attributes(url, {"bigreg": {"grid": grid.to_json()}})


def require_some(which: str, choice: str, share: float) -> None:
    """Raise InputError where a mask leaves (next to) nothing of its image to compare."""
    if share < LEAST:
        raise InputError(
            f"{which} mask is empty on its image, or nearly so: '{choice}' leaves {share:.2%} of {which} to compare, "
            f"and {LEAST:.0%} is the least; check its values (0: not compared), its spacing and its origin"
        )


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask that can be asked anywhere. read: boxes of values 0 .. 1 on `grid`, in the image's own world."""

    grid: Grid
    read: Read

    @classmethod
    def tissue(cls, store: RunStore, which: str) -> Mask:
        url = store.path("masks", which)
        values = storage.open_array(url)[...].astype(np.float32)
        grid = Grid.from_json(storage.read_attributes(url)["bigreg"]["grid"])
        return cls(grid, lambda a, b: values[tuple(slice(x, y) for x, y in zip(a, b, strict=True))])

    def at(self, positions: Positions) -> torch.Tensor:
        """(...) bool: whether points are to be compared. Beyond the grid its border counts."""
        return positions.sample(self.read, self.grid)[0] > SEEN
