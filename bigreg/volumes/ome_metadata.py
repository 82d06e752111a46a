"""OME-Zarr metadata, 0.1 to 0.6: axes with their units, and where each level lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..storage import Array, Node
from .spec import ImageSpec
from .stored import label, unnamed_axes
from .units import figures, micrometres, numbers

UNFINISHED = "bigreg-unfinished"
"""The attribute under which the metadata of an image waits until all of it is written."""
_STARTS = {side: side[0] for side in ("left", "right", "anterior", "posterior", "superior", "inferior")}


def ome_attributes(node: Node) -> dict[str, Any]:
    """The OME metadata of a group: under "ome" since 0.5, at the top before."""
    own = node.attributes.get("ome")
    return own if isinstance(own, dict) and own else node.attributes


def is_image(node: Node | None) -> bool:
    return node is not None and not node.is_array and bool(ome_attributes(node).get("multiscales"))


def first_multiscale(node: Node, spec: ImageSpec, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The multiscale that is read and its datasets; InputError where it names none."""
    listed = ome_attributes(node)["multiscales"]
    multiscale = listed[0] if isinstance(listed, list) and isinstance(listed[0], dict) else {}
    datasets = multiscale.get("datasets")
    if not isinstance(datasets, list) or not datasets:
        raise InputError(f"{label(name, spec)}: its OME metadata names no datasets; correct the metadata")
    if not all(isinstance(dataset, dict) and dataset.get("path") is not None for dataset in datasets):
        raise InputError(f"{label(name, spec)}: its OME metadata has a dataset without a path; correct the metadata")
    return multiscale, datasets


@dataclass(frozen=True)
class Axes:
    """One letter an axis; um per unit along (z, y, x), None where there is no unit of length; their stated units."""

    letters: str
    factors: tuple[float | None, ...]
    units: tuple[Any, ...]
    orientation: str | None = None
    time_unit: str | None = None


def read_axes(
    multiscale: Mapping[str, Any], dataset: Mapping[str, Any], array: Array, spec: ImageSpec, name: str
) -> Axes:
    """The axes of an image; before 0.3 they are not stated and always t, c, z, y, x."""
    listed = multiscale.get("axes") or _system_axes(multiscale, dataset)
    axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in listed or []]
    names = [str(axis.get("name", "?")).lower() for axis in axes]
    if not names:
        named = "".join(array.dimension_names or ())
        unnamed = "tczyx" if len(array.shape) == 5 else unnamed_axes(name, spec, array.shape)
        names = list(named if len(named) == len(array.shape) else unnamed)
    if len(names) != len(array.shape):
        raise InputError(
            f"{label(name, spec)}: its metadata names {len(names)} axes {names}, but the shape {array.shape} has "
            f"{len(array.shape)}; correct the metadata"
        )
    if any(len(letter) != 1 for letter in names):
        raise InputError(f"{label(name, spec)} has the wrong axes {names}; only t, c, z, y, x are understood")
    by_name = dict(zip(names, axes, strict=False))
    units = tuple(by_name.get(letter, {}).get("unit") for letter in "zyx")
    starts = [_start(by_name.get(letter, {}).get("orientation")) for letter in "zyx"]
    return Axes(
        "".join(names),
        tuple(micrometres(unit) for unit in units),
        units,
        None if None in starts else "".join(start for start in starts if start is not None),
        by_name.get("t", {}).get("unit"),
    )


def _system_axes(multiscale: Mapping[str, Any], dataset: Mapping[str, Any]) -> list[Any] | None:
    """0.6: the axes of the coordinate system that the levels are placed in."""
    systems = [s for s in multiscale.get("coordinateSystems") or [] if isinstance(s, Mapping)]
    steps = dataset.get("coordinateTransformations") or [{}]
    output = steps[-1].get("output") if isinstance(steps[-1], Mapping) else None
    output = output.get("name") if isinstance(output, Mapping) else output
    found = next((system for system in systems if system.get("name") == output), systems[0] if systems else {})
    return found.get("axes")


def _start(orientation: Any) -> str | None:
    """The side at which an axis starts, by its anatomical orientation (RFC 4), such as "left-to-right"."""
    value = orientation.get("value") if isinstance(orientation, Mapping) else orientation
    return _STARTS.get(str(value).partition("-to-")[0])


def placement(steps: Any, axes: str) -> tuple[np.ndarray | None, str]:
    """The transformations in turn as a (z, y, x) affine; None and why where there is none that can be used."""
    count = len(axes)
    whole, sized = np.eye(count + 1), False
    if not isinstance(steps, list):
        return None, "" if steps is None else "its coordinateTransformations are no list"
    for step in _flat(steps):
        kind = step.get("type") if isinstance(step, Mapping) else None
        if kind == "identity":
            continue
        matrix = _matrix(kind, step, count)
        if matrix is None:
            return None, f"transformation {_short(step)} cannot be read"
        whole, sized = matrix @ whole, sized or kind != "translation"
    if not sized:
        return None, ""
    at = [axes.index(letter) for letter in "zyx"]
    other = [n for n in range(count) if n not in at]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = whole[np.ix_(at, at)], whole[at, count]
    if np.any(whole[np.ix_(at, other)]):
        return None, "its transformations mix space with time or channels"
    scale = np.diag(affine)[:3]
    if not np.any(affine[:3, :3] - np.diag(scale)) and not (scale > 0).all():
        return None, f"scale {figures(scale)} is not positive"
    if abs(np.linalg.det(affine[:3, :3])) < 1e-30:
        return None, "its transformations cannot be inverted"
    return affine, ""


def _flat(steps: Sequence[Any]) -> list[Any]:
    found = []
    for step in steps:
        inner = step.get("transformations") if isinstance(step, Mapping) and step.get("type") == "sequence" else None
        found += _flat(inner) if isinstance(inner, list) else [step]
    return found


def _matrix(kind: Any, step: Any, count: int) -> np.ndarray | None:
    matrix = np.eye(count + 1)
    if kind in ("scale", "translation"):
        values = numbers(step.get(kind), count)
        if values is None:
            return None
        if kind == "scale":
            matrix[:count, :count] = np.diag(values)
        else:
            matrix[:count, count] = values
        return matrix
    columns = {"affine": count + 1, "rotation": count}.get(kind)
    rows = step.get(kind) if columns else None
    if not isinstance(rows, list):
        return None
    lines = [line for row in rows[:count] if (line := numbers(row, columns)) is not None]
    if len(lines) != count:
        return None
    matrix[:count, :columns] = lines
    return matrix


def _short(step: Any) -> str:
    if isinstance(step, Mapping):
        step = {key: value for key, value in step.items() if key not in ("input", "output", "name")}
    text = str(step)
    return text if len(text) < 100 else f"{text[:97]}..."
