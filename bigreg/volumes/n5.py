"""N5: one dataset, or the datasets s0, s1, ... that are the levels of one image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..geometry import triple
from ..storage import Array, Node, children, find_node, join, open_array
from .bdv import bdv_size
from .levels import block_means, factors_by_shape
from .n5_metadata import Stated, cosem_affine, cosem_of, describe, named_axes, stated_size, unread_size
from .spec import ImageSpec
from .stored import BoxReader, StoredImage, StoredLevel, counts, label, option, packed, pick, scaling, unnamed_axes
from .units import figures, numbers

DEPTH = 5


def open_n5(spec: ImageSpec, name: str) -> StoredImage:
    """Opens spec.dataset (a dataset, or a group of levels); without it, the only image of the container."""
    top = join(spec.path, spec.dataset or "")
    node, times = find_node(top), 1
    if node is not None and node.is_array:
        group, found = "", {"": node}
    else:
        found = find_datasets(top)
        if not found:
            raise InputError(
                f"{label(name, spec)} holds no N5 dataset that can be found; check the path or pass "
                f"{option(name, 'dataset')} (folders behind http cannot be listed)"
            )
        found, times = _one_time(found, spec, name)
        groups = {path.rpartition("/")[0] if _scale_number(path) is not None else path for path in found}
        if len(groups) > 1:
            listed = sorted({re.sub(r"/timepoint\d+$", "", group) for group in groups})
            raise InputError(
                f"{label(name, spec)} holds several images; pass {option(name, 'dataset')} with one of "
                f"{', '.join(listed)}"
            )
        group = groups.pop()
    if times > 1:
        spec = spec.model_copy(update={"time": None})  # it is a group, not an axis
    # Attributes that a dataset lacks are looked for in the groups around it, up to the container.
    inside = "/".join(part for part in (spec.dataset or "", group) if part)
    around = _around(spec.path, inside)
    ordered = sorted(found, key=lambda path: _scale_number(path) or 0)
    arrays = {path: open_array(join(top, path), constant=True) for path in ordered}
    first = arrays[ordered[0]]
    axes = next((a for a in (named_axes(at, first.shape) for at in (found[ordered[0]].attributes, *around)) if a), None)
    axes = axes or unnamed_axes(name, spec, first.shape)
    picked = pick(name, spec, axes, first.shape)
    alike = [path for path in ordered if _lead(arrays[path]) == _lead(first)]
    notes = [f"{path} has other axes than {ordered[0]}; it is left out" for path in ordered if path not in alike]
    ordered = alike

    places = {path: join(spec.path, spec.dataset or "", path) for path in ordered}
    placed = _cosem(found, places, around) or _sized(spec.path, found, arrays, places, around)
    levels = []
    for path in ordered:
        read = BoxReader(arrays[path], axes, picked)
        chunks = read.per_axis(arrays[path].chunks)
        levels.append(StoredLevel(read.per_axis(arrays[path].shape), placed.affines[path], chunks, read))
    return StoredImage(
        levels=tuple(levels),
        dtype=first.dtype,
        metadata={"around": around, "datasets": [found[path].metadata for path in ordered]},
        **(counts(axes, first.shape) | ({"times": times} if times > 1 else {})),
        spacing_known=placed.known,
        notes=tuple(notes),
        spacing_from=placed.by,
        unstated=placed.unstated,
        likely=placed.likely,
        likely_in="nm" if placed.by == "resolution" else "µm",
        compression=packed(first),
    )


def _one_time(found: dict[str, Node], spec: ImageSpec, name: str) -> tuple[dict[str, Node], int]:
    """BigDataViewer's time points are groups: the datasets of the one that is read, and how many there are."""
    at = {path: re.search(r"(?:^|/)timepoint(\d+)(?:/|$)", path) for path in found}
    times = sorted({int(match[1]) for match in at.values() if match})
    if len(times) < 2:
        return found, 1
    chosen = times[pick(name, spec, "tczyx", (len(times), (spec.channel or 0) + 1, 2, 2, 2))["t"]]
    return {path: node for path, node in found.items() if (m := at[path]) is None or int(m[1]) == chosen}, len(times)


def _lead(array: Array) -> tuple[int, ...]:
    """Sizes of what comes before z, and how many axes there are."""
    return (array.ndim, *array.shape[:-3])


@dataclass(frozen=True)
class _Placed:
    """Where the datasets lie (in um where `known`), by which attribute, and what was found where it is not known."""

    affines: dict[str, np.ndarray | None]
    known: bool
    by: str = ""
    unstated: str = ""
    likely: tuple[float, ...] | None = None


def _cosem(found: Mapping[str, Node], places: Mapping[str, str], around: list[dict[str, Any]]) -> _Placed | None:
    """COSEM: each dataset says itself where it lies, or its group says it for all."""
    affines, known = {}, True
    for path, place in places.items():
        groups = [cosem_of(place, attributes) for attributes in around[:2]]
        stated = next((s for s in map(cosem_affine, (found[path].attributes, *groups)) if s is not None), None)
        affines[path] = None if stated is None else stated[0]
        known = known and (stated is None or stated[1])
    first = next(iter(affines.values()))
    if first is None:
        return None
    scale = tuple(float(v) for v in np.diag(first)[:3])
    words = "" if known else f"transform scale {figures(scale)} (z, y, x) has no unit of length"
    return _Placed(affines, known, "transform", words)


def _sized(
    container: str,
    found: Mapping[str, Node],
    arrays: Mapping[str, Array],
    places: Mapping[str, str],
    around: list[dict[str, Any]],
) -> _Placed:
    """All others: the voxel size of full resolution, and factors of each dataset."""
    bdv = re.search(r"(?:^|/)setup(\d+)/timepoint\d+(?:/|$)", next(iter(places.values()))[len(container) :])
    full: Stated | None = None
    unstated, likely = "", None
    if bdv:
        size = bdv_size(container, int(bdv[1]))
        full = Stated(list(size.spacing[::-1]), True, "the XML beside") if size.spacing else None
        unstated, likely = size.unstated, size.likely
    factors: dict[str, list[float] | None] = {}
    for path, place in places.items():
        own = found[path].attributes
        stated = None if bdv else stated_size(own)
        other = None if stated is None or full is None or stated.size == full.size else (stated.size, full.size)
        if stated is None and full is None and not bdv:
            stated = next((s for s in map(stated_size, around) if s is not None), None)
        factors[path] = _factors(own, place, [] if other else around, arrays[path])
        if factors[path] is None and other is not None:
            factors[path] = [r / f for r, f in zip(*other, strict=True)]
        full = full or stated
    if full is not None and not full.known:
        unstated, likely = describe(full)
    elif full is None and not unstated:
        every = [*(found[path].attributes for path in places), *around]
        unstated = next((words for words in map(unread_size, every) if words), "")
    base = np.eye(4) if full is None else scaling(full.size[::-1], full.offset[::-1])
    affines = {path: None if f is None else base @ block_means(f[::-1]) for path, f in factors.items()}
    return _Placed(affines, full is not None and full.known, full.by if full else "", unstated, likely)


def _factors(own: Mapping[str, Any], place: str, around: list[dict[str, Any]], array: Array) -> list[float] | None:
    """Downsampling factors of a dataset, x first: its own, its group's list, or by the shape of the s0 beside it."""
    stated = numbers((own.get("downsamplingFactors") or [])[:3], 3, positive=True)
    number = _scale_number(place)
    if stated is not None or number is None:
        return stated or [1.0, 1.0, 1.0]
    for attributes in around:
        listed = attributes.get("downsamplingFactors") or attributes.get("scales")
        if isinstance(listed, list) and len(listed) > number and isinstance(listed[number], list):
            return numbers(listed[number][:3], 3, positive=True)
    if number == 0:
        return [1.0, 1.0, 1.0]
    node = find_node(join(place.rpartition("/")[0], "s0"))
    dimensions = node.metadata.get("dimensions") if node is not None else None
    if "pixelResolution" in own or not isinstance(dimensions, list) or len(dimensions) != array.ndim:
        return None
    found = factors_by_shape(triple(dimensions[:3]), triple(array.shape[::-1][:3]))
    return None if found is None else [float(f) for f in found]


def _scale_number(path: str) -> int | None:
    match = re.fullmatch(r"s(\d+)", path.rstrip("/").rpartition("/")[2])
    return int(match.group(1)) if match else None


def find_datasets(top: str, prefix: str = "", depth: int = DEPTH) -> dict[str, Node]:
    """The N5 datasets below a folder, by their paths."""
    found = {}
    for child in children(join(top, prefix)) if depth else []:
        path = f"{prefix}/{child}" if prefix else child
        node = None if "." in child else find_node(join(top, path))
        if node is not None and node.is_array:
            found[path] = node
        elif "." not in child:
            found |= find_datasets(top, path, depth - 1)
    return {path: node for path, node in found.items() if node.format == "n5"}


def _around(container: str, group: str) -> list[dict[str, Any]]:
    """Attributes of the group and of all above it, nearest first."""
    places = [join(container, group)] if group else []
    while "/" in group:
        group = group.rpartition("/")[0]
        places.append(join(container, group))
    nodes = [find_node(place) for place in [*places, container]]
    return [node.attributes for node in nodes if node is not None]
