"""OME-Zarr 0.4 (Zarr v2) and 0.5 (Zarr v3, sharded too): multiscale images with named axes and units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..storage import Array, Node, find_node, join, open_array
from .spec import ImageSpec
from .stored import BoxReader, StoredImage, StoredLevel, counts, label, option, pick
from .units import micrometres


def ome_attributes(node: Node) -> dict[str, Any]:
    """The OME metadata of a group: under "ome" since 0.5, at the top before."""
    return node.attributes.get("ome") or node.attributes


def is_image(node: Node | None) -> bool:
    return node is not None and not node.is_array and bool(ome_attributes(node).get("multiscales"))


def open_ome_zarr(spec: ImageSpec, name: str) -> StoredImage:
    """Opens the image at spec.path; spec.dataset names a group inside, or one of the levels (read from that one on)."""
    url, first = spec.path, None
    node = find_node(url)
    if spec.dataset and is_image(inner := find_node(join(url, spec.dataset))):
        url, node = join(url, spec.dataset), inner
    elif spec.dataset:
        first = spec.dataset
    elif not is_image(node) and node is not None and "bioformats2raw.layout" in ome_attributes(node):
        url, node = _only_series(url, spec, name)
    if not is_image(node):
        raise InputError(f"{label(name, spec)} is no OME-Zarr image; pass {option(name, 'dataset')}")

    multiscale = ome_attributes(node)["multiscales"][0]
    datasets = list(multiscale.get("datasets") or [])
    paths = [str(dataset["path"]) for dataset in datasets]
    if first is not None and first not in paths:
        raise InputError(f"{label(name, spec)} does not exist; there are {', '.join(paths)}")
    start = paths.index(first) if first is not None else 0
    arrays = [open_array(join(url, path), constant=True) for path in paths[start:]]
    axes, factors = _axes(multiscale, arrays[0], spec, name)
    picked = pick(name, spec, axes, arrays[0].shape)

    steps = multiscale.get("coordinateTransformations") or []
    placements = [
        _affine([*(dataset.get("coordinateTransformations") or []), *steps], axes, spec, name)
        for dataset in datasets[start:]
    ]
    if any(placement is None for placement in placements):
        # Without a scale nothing is known about any level but the first.
        arrays, placements, factors = arrays[:1], [np.eye(4)], None
    units = np.diag([*(factors or (1, 1, 1)), 1.0])
    affines = [units @ placement for placement in placements]
    own = node.attributes.get("bigreg") or {}
    if "matrix" in own:
        # An affine that OME-Zarr 0.5 cannot say: it takes the place of level 0's scale and translation.
        first_placement = _affine([*datasets[0]["coordinateTransformations"], *steps], axes, spec, name)
        base = np.vstack([own["matrix"], [0, 0, 0, 1]]) @ np.linalg.inv(units @ first_placement)
        affines = [base @ affine for affine in affines]
    levels = []
    for array, affine in zip(arrays, affines, strict=True):
        read = BoxReader(array, axes, picked)
        levels.append(StoredLevel(read.per_axis(array.shape), affine, read.per_axis(array.chunks), read))
    return StoredImage(
        levels=tuple(levels),
        dtype=arrays[0].dtype,
        metadata={"multiscale": multiscale, "bigreg": own},
        **counts(axes, arrays[0].shape),
        spacing_known=factors is not None,
        has_directions="matrix" in own,
        orientation=own.get("orientation"),
        display=_display(ome_attributes(node), multiscale, axes),
    )


def _display(attributes: dict, multiscale: dict, axes: str) -> dict[str, Any]:
    """What a copy of the image takes over: names and colours, and the step between time points."""
    found = {key: attributes[key] for key in ("omero", "image-label") if isinstance(attributes.get(key), dict)}
    if "t" in axes:
        place = axes.index("t")
        named = multiscale["axes"][place]
        steps = [*(multiscale["datasets"][0].get("coordinateTransformations") or [])]
        steps += multiscale.get("coordinateTransformations") or []
        scale = np.prod([float(step["scale"][place]) for step in steps if step.get("type") == "scale"])
        found["time"] = {"step": float(scale), "unit": named.get("unit") if isinstance(named, dict) else None}
    return found


def _only_series(url: str, spec: ImageSpec, name: str) -> tuple[str, Node]:
    series = [key for key in ("0", "1") if is_image(find_node(join(url, key)))]
    if series != ["0"]:
        raise InputError(f"{label(name, spec)} holds several images; pass {option(name, 'dataset')} 0, 1, ...")
    return join(url, "0"), find_node(join(url, "0"))


def _axes(multiscale: dict, array: Array, spec: ImageSpec, name: str) -> tuple[str, tuple[float, ...] | None]:
    """One letter an axis, and um per unit along (z, y, x), None where a unit is missing."""
    axes = [{"name": axis} if isinstance(axis, str) else axis for axis in multiscale.get("axes") or []]
    names = [str(axis.get("name", "?")).lower() for axis in axes]
    if len(names) != len(array.shape):
        raise InputError(
            f"{label(name, spec)}: axes {names} do not fit the stored shape {array.shape}; mend the metadata"
        )
    if any(len(letter) != 1 for letter in names):
        raise InputError(f"{label(name, spec)} has the wrong axes {names}; only t, c, z, y, x are understood")
    units = {letter: micrometres(axis.get("unit")) for letter, axis in zip(names, axes, strict=True)}
    factors = tuple(units.get(letter) for letter in "zyx")
    return "".join(names), None if None in factors else factors


def _affine(steps: Sequence[dict], axes: str, spec: ImageSpec, name: str) -> np.ndarray | None:
    """The scales and translations in turn, as a (z, y, x) affine; None where there is no scale."""
    scale, shift, found = np.ones(len(axes)), np.zeros(len(axes)), False
    for step in steps:
        kind = step.get("type")
        values = step.get(kind) if kind in ("scale", "translation") else None
        if kind == "identity":
            continue
        if values is None or len(values) != len(axes):
            raise InputError(
                f"{label(name, spec)}: transformation {step} is not understood; pass {option(name, 'spacing')} Z Y X "
                "(um) with a plain Zarr dataset"
            )
        values = np.asarray(values, dtype=float)
        if kind == "scale":
            scale, shift, found = scale * values, shift * values, True
        else:
            shift = shift + values
    if not found:
        return None
    at = [axes.index(letter) for letter in "zyx"]
    if not (np.isfinite(scale[at]).all() and (scale[at] > 0).all()):
        raise InputError(f"{label(name, spec)}: scale {tuple(scale[at])} must be positive; mend the metadata")
    affine = np.diag([*scale[at], 1.0])
    affine[:3, 3] = shift[at]
    return affine
