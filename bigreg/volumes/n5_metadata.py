"""How N5 datasets state voxel size, place and axes: the dialects of the N5 viewers, COSEM, Paintera, ImageJ, BDV.

N5 counts axes x first. A downsampled dataset holds block means, so its first voxel's centre lies (factor - 1) / 2
full-resolution voxels in. A pixelResolution without a unit is in micrometres, as the N5 viewers have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .units import figures, micrometres, numbers

IMAGEJ_COUNTS = (("c", "numChannels"), ("z", "numSlices"), ("t", "numFrames"))  # in the order of ImageJ's axes
IMAGEJ = ("pixelWidth", "pixelHeight", "pixelDepth")


@dataclass(frozen=True)
class Stated:
    """A voxel size (x, y, z), um where `unit` is known else in whatever unit; where the first voxel is; by what."""

    size: list[float]
    known: bool
    by: str
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)


def stated_size(attributes: Mapping[str, Any]) -> Stated | None:
    """The voxel size of full resolution that the attributes of one group or dataset state; None where they do not."""
    value = attributes.get("pixelResolution")
    if value is not None:
        unit = value.get("unit", "um") if isinstance(value, Mapping) else "um"
        return _stated(value.get("dimensions") if isinstance(value, Mapping) else value, unit, "pixelResolution")
    if all(key in attributes for key in IMAGEJ[:2]):
        size = [attributes[key] for key in IMAGEJ if key in attributes] + [1.0] * ("pixelDepth" not in attributes)
        return _stated(size, attributes.get("pixelUnit"), "pixelWidth, pixelHeight, pixelDepth")
    value = _by_axes(attributes, attributes.get("resolution"))
    if value is None:
        return None
    units = _by_axes(attributes, attributes.get("units", attributes.get("unit")))
    units = units[:3] if isinstance(units, list) else [units]
    found = _stated(value, units[0] if len({str(unit) for unit in units}) == 1 else None, "resolution")
    offset = numbers(_by_axes(attributes, attributes.get("offset")), 3)
    if found is None or offset is None:
        return found
    factor = (micrometres(units[0]) if found.known else None) or 1.0
    return replace(found, offset=tuple(factor * v for v in offset))


def _by_axes(attributes: Mapping[str, Any], values: Any) -> Any:
    """Values that are listed one an axis, as those of x, y, z where `axes` names them; as they are elsewhere."""
    axes = attributes.get("axes")
    if not isinstance(axes, list) or not isinstance(values, list) or len(axes) != len(values):
        return values
    letters = [str(axis).lower()[:1] for axis in axes]
    return [values[letters.index(axis)] for axis in "xyz"] if set("xyz") <= set(letters) else values


def unread_size(attributes: Mapping[str, Any]) -> str:
    """Words for what states a voxel size that cannot be read; empty where nothing does."""
    keys = [key for key in ("pixelResolution", IMAGEJ[0], "resolution") if attributes.get(key) is not None]
    return f"{keys[0]} {attributes[keys[0]]!r} cannot be read" if keys else ""


def _stated(size: Any, unit: Any, by: str) -> Stated | None:
    size = numbers(size[:3] if isinstance(size, Sequence) and not isinstance(size, str) else None, 3, positive=True)
    factor = micrometres(unit)
    return None if size is None else Stated([v * (factor or 1.0) for v in size], factor is not None, by)


def cosem_affine(attributes: Mapping[str, Any]) -> tuple[np.ndarray, bool] | None:
    """The (z, y, x) affine of a COSEM `transform`, whether it is in um; None where there is none that can be read."""
    transform = attributes.get("transform")
    if not isinstance(transform, Mapping):
        return None
    axes = [str(axis).lower() for axis in transform.get("axes") or []]
    scale = numbers(transform.get("scale"), len(axes), positive=True)
    shift = numbers(transform.get("translate", [0] * len(axes)), len(axes))
    units = transform.get("units") or []
    if scale is None or shift is None or not set("zyx") <= set(axes):
        return None
    affine, known = np.eye(4), True
    for place, letter in enumerate("zyx"):
        at = axes.index(letter)
        factor = micrometres(units[at]) if isinstance(units, list) and len(units) == len(axes) else None
        known = known and factor is not None
        affine[place, place], affine[place, 3] = scale[at] * (factor or 1), shift[at] * (factor or 1)
    return affine, known


def cosem_of(path: str, group: Mapping[str, Any]) -> Mapping[str, Any]:
    """The attributes that a group's multiscales keep for one of its datasets, by the last part of its path."""
    listed = group.get("multiscales")
    first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], Mapping) else {}
    for dataset in first.get("datasets") or []:
        if isinstance(dataset, Mapping) and dataset.get("path") == path.rpartition("/")[2]:
            return dataset if "transform" in dataset else _of_ngff(first, dataset)
    return {}


def _of_ngff(multiscale: Mapping[str, Any], dataset: Mapping[str, Any]) -> Mapping[str, Any]:
    """OME-NGFF's multiscales in an N5 group, as COSEM states the same."""
    axes = [axis for axis in multiscale.get("axes") or [] if isinstance(axis, Mapping)]
    steps = {
        step.get("type"): step for step in dataset.get("coordinateTransformations") or [] if isinstance(step, dict)
    }
    if not axes or not set(steps) <= {"scale", "translation"} or "scale" not in steps:
        return {}
    transform = {
        "axes": [axis.get("name") for axis in axes],
        "units": [axis.get("unit") for axis in axes],
        "scale": steps["scale"].get("scale"),
    }
    if "translation" in steps:
        transform["translate"] = steps["translation"].get("translation")
    return {"transform": transform}


def named_axes(attributes: Mapping[str, Any], shape: Sequence[int]) -> str | None:
    """One letter an axis of the array as numpy has it, where the attributes name them."""
    transform = attributes.get("transform")
    listed = transform.get("axes") if isinstance(transform, Mapping) else attributes.get("axes")
    if isinstance(listed, list) and len(listed) == len(shape) and all(isinstance(axis, str) for axis in listed):
        letters = "".join(axis.lower()[:1] for axis in listed)
        if set("yx") <= set(letters) <= set("tczyx") and len(set(letters)) == len(letters):
            # N5 counts x first; who lists z before it lists them as numpy does.
            spatial = "".join(letter for letter in letters if letter in "zyx")
            return letters if spatial in ("zyx", "yx") else letters[::-1]
    counts = [(letter, count) for letter, key in IMAGEJ_COUNTS if isinstance(count := attributes.get(key), int)]
    if len(counts) == len(IMAGEJ_COUNTS):
        more = [(axis, count) for axis, count in counts if count > 1]
        if [count for _, count in more] == list(reversed(shape))[2:]:
            return "".join(axis for axis, _ in reversed(more)) + "yx"
    return None


def describe(stated: Stated) -> tuple[str, tuple[float, ...] | None]:
    """Words for a size without a usable unit, and the spacing (z, y, x) in um if it is in nm, Paintera's custom."""
    size = stated.size[::-1]
    if stated.by == "resolution":
        return f"resolution {figures(size)} (z, y, x) has no unit", tuple(v / 1000 for v in size)
    return f"{stated.by} {figures(size)} (z, y, x) has no unit of length", None
