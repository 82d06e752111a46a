"""Images that are no runs: `napari annotation.ome.zarr`."""

from __future__ import annotations

import numpy as np
import pytest

from bigreg.volumes import convert

pytest.importorskip("napari", reason="needs bigreg[napari]")
from napari.layers import Image, Labels, Layer
from napari_bigreg.reader import get_reader

IDS = np.array([0, 997, 312782574], "u4")[np.random.default_rng(0).integers(0, 3, (5, 6, 7))]


def opened(path) -> list[Layer]:
    reader = get_reader(str(path))
    assert reader is not None
    return [Layer.create(*data) for data in reader(str(path))]


def test_an_annotation_is_labels_with_the_names_of_its_regions(tmp_path, make_napari_viewer):
    convert(IDS, tmp_path / "annotation.ome.zarr", spacing=(4, 2, 1), origin=(10, 20, 30), labels=True)
    (tmp_path / "regions.csv").write_text(
        "id,acronym,name,parent\n997,root,root,\n312782574,VISli,Laterointermediate,997\n"
    )
    (layer,) = opened(tmp_path / "annotation.ome.zarr")
    assert isinstance(layer, Labels) and layer.name == "annotation" and tuple(layer.scale) == (4, 2, 1)
    viewer = make_napari_viewer()
    viewer.add_layer(layer)
    for place in ((0, 0, 0), (4, 5, 6), (2, 3, 4)):
        world = np.array(place) * (4, 2, 1) + (10, 20, 30)
        viewer.dims.set_point(0, world[0])
        status = layer.get_status(world, world=True)
        value = int(IDS[place])
        wanted = {997: "root", 312782574: "Laterointermediate"}.get(value, "")
        assert wanted in status["coordinates"] and f": {value}" in status["coordinates"]


def test_every_channel_is_an_image_where_it_lies(tmp_path):
    data = np.random.default_rng(0).poisson(300, (2, 5, 6, 7)).astype("u2")
    import zarr

    zarr.create_array(tmp_path / "a.zarr", data=data, dimension_names=["c", "z", "y", "x"])
    convert(tmp_path / "a.zarr", tmp_path / "b.ome.zarr", spacing=(4, 2, 1), origin=(10, 20, 30))
    layers = opened(tmp_path / "b.ome.zarr")
    assert [layer.name for layer in layers] == ["b, channel 0", "b, channel 1"]
    for layer, channel in zip(layers, data, strict=True):
        assert isinstance(layer, Image) and tuple(layer.translate) == (10, 20, 30)
        whole = layer.data[0] if layer.multiscale else layer.data
        assert np.array_equal(np.asarray(whole), channel)
        assert layer.contrast_limits[0] >= channel.min() and layer.contrast_limits[1] <= channel.max()
