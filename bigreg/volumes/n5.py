"""N5: datasets with pixelResolution and downsamplingFactors (x first); s0, s1, ... are the levels of one image.

A downsampled N5 dataset holds block means, so its first voxel's centre lies (factor - 1) / 2 full-resolution voxels in.
A pixelResolution without a unit is in micrometres, as the N5 viewers have it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..storage import Node, children, find_node, join, open_array
from .spec import ImageSpec
from .stored import BoxReader, StoredImage, StoredLevel, counts, label, option, pick, scaling, unnamed_axes
from .units import micrometres

DEPTH = 5


def open_n5(spec: ImageSpec, name: str) -> StoredImage:
    """Opens spec.dataset (a dataset, or a group of levels); without it, the only image of the container."""
    top = join(spec.path, spec.dataset or "")
    node = find_node(top)
    if node is not None and node.is_array:
        group, found = "", {"": node}
    else:
        found = _datasets(top)
        if not found:
            raise InputError(
                f"{label(name, spec)} holds no N5 dataset that can be found; check the path or pass "
                f"{option(name, 'dataset')} (folders behind http cannot be listed)"
            )
        groups = {path.rpartition("/")[0] if _scale_number(path) is not None else path for path in found}
        if len(groups) > 1:
            raise InputError(
                f"{label(name, spec)} holds several images; pass {option(name, 'dataset')} with one of "
                f"{', '.join(sorted(groups))}"
            )
        group = groups.pop()
    # Attributes that a dataset lacks are looked for in the groups around it, up to the container.
    around = _around(spec.path, "/".join(part for part in (spec.dataset or "", group) if part))
    resolution, levels = None, []
    for path in sorted(found, key=lambda path: _scale_number(path) or 0):
        number = _scale_number(join(spec.path, spec.dataset or "", path))
        own, factors = _resolution(found[path].attributes, number, around, resolution)
        resolution = resolution if resolution is not None else own
        levels.append((join(top, path), factors, found[path]))
    levels.sort(key=lambda level: float(np.prod(level[1])))
    known = resolution is not None
    stored, arrays = [], []
    for url, factors, _ in levels:
        array = open_array(url, constant=True)
        axes = unnamed_axes(name, spec, array.shape)
        read = BoxReader(array, axes, pick(name, spec, axes, array.shape))
        full = np.asarray(resolution[::-1] if known else (1.0, 1.0, 1.0))
        zyx = np.asarray(factors[::-1], dtype=float)
        affine = scaling(full * zyx, full * (zyx - 1) / 2)
        stored.append(StoredLevel(read.per_axis(array.shape), affine, read.per_axis(array.chunks), read))
        arrays.append((array, axes))
    array, axes = arrays[0]
    return StoredImage(
        levels=tuple(stored),
        dtype=array.dtype,
        metadata={"around": around, "datasets": [node.metadata for _, _, node in levels]},
        **counts(axes, array.shape),
        spacing_known=known,
    )


def _scale_number(path: str) -> int | None:
    match = re.fullmatch(r"s(\d+)", path.rstrip("/").rpartition("/")[2])
    return int(match.group(1)) if match else None


def _datasets(top: str, prefix: str = "", depth: int = DEPTH) -> dict[str, Node]:
    found = {}
    for child in children(join(top, prefix)) if depth else []:
        path = f"{prefix}/{child}" if prefix else child
        node = None if "." in child else find_node(join(top, path))
        if node is not None and node.is_array:
            found[path] = node
        elif "." not in child:
            found |= _datasets(top, path, depth - 1)
    return found


def _around(container: str, group: str) -> list[dict]:
    """Attributes of the group and of all above it, nearest first."""
    places = [join(container, group)] if group else []
    while "/" in group:
        group = group.rpartition("/")[0]
        places.append(join(container, group))
    nodes = [find_node(place) for place in [*places, container]]
    return [node.attributes for node in nodes if node is not None]


def _numbers(value: Any) -> list[float] | None:
    """A pixelResolution (um, x first), as a plain list or {"dimensions", "unit"}."""
    if isinstance(value, dict):
        factor = micrometres(value.get("unit", "um"))
        value = value.get("dimensions")
        return None if factor is None or value is None else [float(v) * factor for v in value[:3]]
    return [float(v) for v in value[:3]] if isinstance(value, Sequence) and len(value) >= 3 else None


def _resolution(
    own: dict, number: int | None, around: list[dict], full: list[float] | None
) -> tuple[list[float] | None, list[float]]:
    """Full resolution (um) and factors of one dataset, x first.

    A dataset's own pixelResolution is that of full resolution if it names its downsamplingFactors beside it, or if
    it is the same as that of s0; otherwise it is its own.
    """
    resolution = _numbers(own.get("pixelResolution"))
    if resolution is None:
        resolution = next((r for r in (_numbers(a.get("pixelResolution")) for a in around) if r is not None), None)
        shared = True
    else:
        shared = full is None or resolution == full
    factors = own.get("downsamplingFactors")
    if factors is None and number is not None and shared:
        lists = [a.get("downsamplingFactors") or a.get("scales") for a in around]
        factors = next((a[number] for a in lists if a and len(a) > number and isinstance(a[number], list)), None)
    if factors is None and resolution is not None and full is not None and not shared:
        factors = [r / f for r, f in zip(resolution, full, strict=True)]
        resolution = full
    return resolution, [float(f) for f in (factors or (1, 1, 1))[:3]]
