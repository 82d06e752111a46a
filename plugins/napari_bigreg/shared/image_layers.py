"""What an image that is no run looks like in napari: a layer a channel, or labels with the names of their regions."""

from __future__ import annotations

import csv
import io
from functools import partial
from typing import Any

import numpy as np

import bigreg
from bigreg import storage
from bigreg.errors import BigregError
from bigreg.pipeline.looking.pyramids import Samples
from bigreg.volumes.labelled import looks_like_labels

from .lazy import Tell, levels_of, warn
from .open_model import LOOK_VOXELS, LayerData, placed

REGIONS = "regions.csv"
"""The table beside the annotation that `bigreg atlas` makes."""


def is_image(path: str) -> bool:
    """Whether an image is there; reads its metadata alone."""
    try:
        bigreg.open_volume(path)
    except BigregError:
        return False
    return True


def image_layers(path: str, tell: Tell = warn, labels: bool | None = None) -> list[LayerData]:
    """The layers of an image at its first time point, or at the one that it has. Raises InputError where none is.

    labels   whether it holds labels; None: as it looks
    """
    volume = bigreg.open_volume(path)
    name = _name(path)
    planes = [volume.plane(0, channel) for channel in range(volume.channels)]
    if looks_like_labels(volume) if labels is None else labels:
        return [_labels(plane, path, name, tell) for plane in planes]
    return [
        _image(plane, path, name if len(planes) == 1 else f"{name}, channel {c}", tell)
        for c, plane in enumerate(planes)
    ]


def labels_layer(path: str, tell: Tell = warn, **settings: Any) -> LayerData:
    """The layer of an image of labels, with the names of their regions. Raises InputError where none is."""
    data, known, kind = _labels(bigreg.open_volume(path).plane(0, 0), path, _name(path), tell)
    return data, {**known, **settings}, kind


def _name(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1].removesuffix(".zarr").removesuffix(".ome")


def _pyramid(volume: bigreg.Volume) -> list[Samples]:
    return [Samples(volume.grid(n), volume.dtype, partial(volume.read, level=n)) for n in range(len(volume.levels))]


def _settings(volume: bigreg.Volume, path: str, name: str) -> dict[str, Any]:
    return {"name": name, "metadata": {"bigreg": {"image": path}}, **placed(volume.grid())}


def _image(volume: bigreg.Volume, path: str, name: str, tell: Tell) -> LayerData:
    pyramid = _pyramid(volume)
    settings = {**_settings(volume, path, name), "blending": "additive"}
    last = pyramid[-1]
    if last.grid.voxels <= LOOK_VOXELS:
        values = last.read((0, 0, 0), last.grid.shape)
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, (0.5, 99.8)) if values.size else (0.0, 1.0)
        settings["contrast_limits"] = (float(low), float(max(high, low + 1e-6)))
    return levels_of(pyramid, tell), settings, "image"


def _labels(volume: bigreg.Volume, path: str, name: str, tell: Tell) -> LayerData:
    return levels_of(_pyramid(volume), tell), {**_settings(volume, path, name), "features": _regions(path)}, "labels"


def _regions(path: str) -> dict[str, list[Any]]:
    """Label, acronym and name of each region, which napari shows under the cursor; empty where no table says them."""
    folder = path.rstrip("/").rpartition("/")[0] or "."
    content = storage.read_file(folder, REGIONS)
    if not content:
        return {}
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"))))
    if not rows or not {"id", "acronym", "name"} <= set(rows[0]):
        return {}
    known = {int(row["id"]): row for row in rows}
    return {
        "index": [0, *known],
        "acronym": ["", *(row["acronym"] for row in known.values())],
        "region": ["", *(row["name"] for row in known.values())],
    }
