"""OME-Zarr 0.1 to 0.6 (Zarr v2 and v3, sharded too): multiscale images with named axes and units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import CorruptDataError, InputError
from ..storage import Array, Node, children, find_node, join, open_array
from .ome_metadata import UNFINISHED, Axes, first_multiscale, is_image, ome_attributes, placement, read_axes
from .spec import ImageSpec
from .stored import BoxReader, StoredImage, StoredLevel, counts, label, option, packed, pick
from .units import figures, number


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
    if node is None or not is_image(node):
        raise InputError(f"{label(name, spec)} is not an OME-Zarr image; pass {option(name, 'dataset')}")

    multiscale, datasets = first_multiscale(node, spec, name)
    paths = [str(dataset["path"]) for dataset in datasets]
    if first is not None and first not in paths:
        raise InputError(f"{label(name, spec)} does not exist; available: {', '.join(paths)}")
    start = paths.index(first) if first is not None else 0
    arrays, notes = _arrays(url, paths[start:], spec, name)
    if len(ome_attributes(node)["multiscales"]) > 1:
        notes.append(f"it holds {len(ome_attributes(node)['multiscales'])} multiscale images; the first is read")
    by_path = dict(zip(paths, datasets, strict=True))
    base = next(iter(arrays.values()))
    axes = read_axes(multiscale, by_path[next(iter(arrays))], base, spec, name)
    picked = pick(name, spec, axes.letters, base.shape)

    # 0.6 keeps the ways to other coordinate systems there; the levels lie in the one that they name.
    more = [] if multiscale.get("coordinateSystems") else multiscale.get("coordinateTransformations") or []
    placed = {}
    for path in [*arrays, paths[0]]:
        own_steps = by_path[path].get("coordinateTransformations")
        steps = [*own_steps, *more] if isinstance(own_steps, list) and isinstance(more, list) else own_steps or more
        placed[path] = placement(steps or None, axes.letters)
    known, unstated, likely = _spacing(axes, *placed[next(iter(arrays))])
    units = np.diag([*axes.factors, 1.0]) if known else np.eye(4)
    affines = {path: None if affine is None else units @ affine for path, (affine, _) in placed.items()}
    own = node.attributes.get("bigreg") or {}
    if "matrix" in own:
        # An affine that OME-Zarr 0.5 cannot say: it takes the place of level 0's scale and translation.
        first_place = affines[paths[0]]
        if first_place is None:
            raise CorruptDataError(
                f"{label(name, spec)} has the matrix of bigreg, but level '{paths[0]}' no scale that can be read; "
                "restore its metadata"
            )
        matrix = np.vstack([own["matrix"], [0, 0, 0, 1]]) @ np.linalg.inv(first_place)
        affines = {path: None if affine is None else matrix @ affine for path, affine in affines.items()}
    levels = []
    for path, array in arrays.items():
        read = BoxReader(array, axes.letters, picked)
        levels.append(StoredLevel(read.per_axis(array.shape), affines[path], read.per_axis(array.chunks), read))
    return StoredImage(
        levels=tuple(levels),
        dtype=base.dtype,
        metadata={"multiscale": multiscale, "bigreg": own},
        **counts(axes.letters, base.shape),
        spacing_known=known,
        has_directions="matrix" in own,
        orientation=own.get("orientation") or axes.orientation,
        display=_display(ome_attributes(node), multiscale, datasets[0], axes),
        notes=tuple(notes),
        spacing_from="coordinateTransformations",
        unstated=unstated,
        likely=likely,
        confirmed=bool(own.get("confirmed")),
        compression=packed(base),
    )


def _arrays(url: str, paths: Sequence[str], spec: ImageSpec, name: str) -> tuple[dict[str, Array], list[str]]:
    """The levels that are stored and have the channels and time points of the first, by path; and what is told."""
    found: dict[str, Array] = {}
    missing, other = [], []
    for path in paths:
        try:
            array = open_array(join(url, path), constant=True)
        except InputError:
            if find_node(join(url, path)) is not None:
                raise
            missing.append(path)
            continue
        first = next(iter(found.values()), array)
        if array.ndim != first.ndim or array.shape[:-3] != first.shape[:-3]:
            other.append(path)
        else:
            found[path] = array
    if not found or paths[0] in missing:
        remedy = f"pass {option(name, 'dataset')} {next(iter(found))} to read from there on" if found else "copy them"
        raise InputError(f"{label(name, spec)}: level {', '.join(missing)} is not stored there; {remedy}")
    notes = [f"level {', '.join(missing)} is not stored there; it is left out"] if missing else []
    if other:
        notes.append(f"level {', '.join(other)} has other channels or time points than the first; it is left out")
    return found, notes


def _spacing(axes: Axes, affine: np.ndarray | None, why: str) -> tuple[bool, str, tuple[float, ...] | None]:
    """Whether the spacing is known in um; else what was found, and the spacing if that is in um."""
    if affine is None:
        return False, why, None
    if None not in axes.factors:
        return True, "", None
    scale = tuple(float(v) for v in np.linalg.norm(affine[:3, :3], axis=0))
    stated = [str(unit) for unit in axes.units if unit]
    if stated:
        return (
            False,
            f"scale {figures(scale)} is in {', '.join(stated)}, no unit of length",
            None,
        )
    return False, f"scale {figures(scale)} (z, y, x) has no unit", None if scale == (1, 1, 1) else scale


def _display(
    attributes: dict[str, Any], multiscale: dict[str, Any], dataset: dict[str, Any], axes: Axes
) -> dict[str, Any]:
    """What a copy of the image takes over: names and colours, and the step between time points."""
    found = {key: attributes[key] for key in ("omero", "image-label") if isinstance(attributes.get(key), dict)}
    if "t" in axes.letters:
        place, step = axes.letters.index("t"), 1.0
        for listed in (dataset, multiscale):
            for part in listed.get("coordinateTransformations") or []:
                scale = part.get("scale") if isinstance(part, Mapping) and part.get("type") == "scale" else None
                value = number(scale[place]) if isinstance(scale, list) and len(scale) == len(axes.letters) else 1.0
                step *= value if value else 1.0
        found["time"] = {"step": float(step), "unit": axes.time_unit}
    return found


def _only_series(url: str, spec: ImageSpec, name: str) -> tuple[str, Node | None]:
    inside = find_node(join(url, "OME"))
    listed = ome_attributes(inside).get("series") if inside is not None else None
    candidates = [str(path) for path in listed] if isinstance(listed, list) else children(url) or ["0", "1"]
    series = [path for path in candidates if is_image(find_node(join(url, path)))]
    if len(series) != 1:
        found = f"{len(series)} images" if series else "no image"
        raise InputError(
            f"{label(name, spec)} holds {found}{f': {short(series)}' if series else ''}; "
            f"pass {option(name, 'dataset')} with one of them"
        )
    return join(url, series[0]), find_node(join(url, series[0]))


def no_image(url: str, node: Node, spec: ImageSpec, name: str) -> InputError:
    """What a group that is no image is: a plate, a well, or a folder of images; and what to pass."""
    attributes, pass_it = ome_attributes(node), f"pass {option(name, 'dataset')}"
    if UNFINISHED in node.attributes:
        return InputError(
            f"{label(name, spec)} is not an image yet: writing has not ended; run the same command again to resume"
        )
    plate, well = attributes.get("plate"), attributes.get("well")
    if isinstance(plate, dict):
        wells = [str(w["path"]) for w in plate.get("wells") or [] if isinstance(w, dict) and "path" in w]
        images = [join(w, image).strip("/") for w in wells[:3] for image in _fields(join(url, w))[:2]] or wells
        return InputError(
            f"{label(name, spec)} is a plate (wells: {len(wells)}), not an image; {pass_it} {short(images)}"
        )
    if isinstance(well, dict):
        return InputError(f"{label(name, spec)} is a well, not one image; {pass_it} {short(_fields(url))}")
    inner = [
        path for path in children(url) if (n := find_node(join(url, path))) is not None and (n.is_array or is_image(n))
    ]
    if inner:
        return InputError(f"{label(name, spec)} is a group, not an image; {pass_it} with one of {short(inner)}")
    return InputError(
        f"{label(name, spec)} is not an image: a group is stored there, not an image; {pass_it} or check the path"
    )


def _fields(url: str) -> list[str]:
    node = find_node(url)
    well = ome_attributes(node).get("well") if node is not None else None
    images = well.get("images") if isinstance(well, dict) else None
    named = [str(i["path"]) for i in images or [] if isinstance(i, dict) and "path" in i]
    return named or [path for path in children(url) if is_image(find_node(join(url, path)))]


def short(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
