"""`bigreg view OUT` and napari's reader on what `bigreg atlas` wrote."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

import bigreg
from bigreg import storage
from bigreg.atlases.result import KEY
from bigreg.cli import app
from bigreg.volumes import convert

pytest.importorskip("napari", reason="needs bigreg[napari]")
from napari.layers import Image, Labels, Layer, Points
from napari_bigreg import window
from napari_bigreg.reader import get_reader
from napari_bigreg.shared.opened import layers_at


@pytest.fixture
def result(finished, tmp_path):
    """A folder as the workflow leaves it, of a brain whose front half is one region and whose back half is another."""
    out = tmp_path / "out.zarr"
    storage.create_group(str(out), {KEY: {"format": 1, "identity": None, "done": {}}})
    shutil.copytree(finished, out / "run.zarr")
    run = bigreg.open_run(str(out / "run.zarr"))
    grid = run.pyramid("moving")[0].grid
    labels = np.full(grid.shape, 20, "u4")
    labels[: grid.shape[0] // 2] = 10
    borders = np.zeros(grid.shape, "u1")
    borders[grid.shape[0] // 2] = 1
    place = {"spacing": grid.spacing, "origin": grid.origin}
    convert(labels, out / "annotation.ome.zarr", labels=True, **place)
    convert(borders, out / "borders.ome.zarr", labels=True, **place)
    (out / "regions.csv").write_text("id,acronym,name,parent\n10,FR,front of it,\n20,BA,back of it,\n")
    return out


def with_cells(out, points) -> np.ndarray:
    """Points in the brain, um, and one that has no place, as the workflow keeps them; those that have one."""
    run = bigreg.open_run(str(out / "run.zarr"))
    rows = ["n,X,Y,Z", *(f"{n},{x},{y},{z}" for n, (z, y, x) in enumerate(run.map("moving_to_fixed").points(points)))]
    (out / "cells_in_atlas.csv").write_text("\n".join([*rows, "far,nan,nan,nan"]) + "\n")
    state = storage.read_attributes(str(out))
    state[KEY]["done"]["cells"] = {"given": {"path": "/gone/cells.csv", "columns": ["Z", "Y", "X"]}, "cells": 3}
    storage.write_attributes(str(out), state)
    return points


def test_everything_lies_where_it_is_in_the_brain(result):
    cells = with_cells(result, np.array([[50.0, 55.0, 60.0], [70.0, 60.0, 80.0]]))
    layers = {layer.name: layer for layer in (Layer.create(*data) for data in layers_at(str(result)))}
    assert list(layers) == ["brain", "annotation", "borders", "cells"]
    kinds = {"brain": Image, "annotation": Labels, "borders": Image, "cells": Points}
    assert all(type(layers[name]) is kind for name, kind in kinds.items())
    grid = bigreg.open_run(str(result / "run.zarr")).pyramid("moving")[0].grid
    for name in ("brain", "annotation", "borders"):
        assert tuple(layers[name].scale) == pytest.approx(grid.spacing)
        assert tuple(layers[name].translate) == pytest.approx(grid.origin)
    shown = np.array([layers["cells"].data_to_world(point) for point in layers["cells"].data])
    assert np.abs(shown - cells).max() < 0.1 * min(grid.spacing)


def test_a_result_without_cells_has_none_and_one_whose_borders_are_gone_says_so(result):
    shutil.rmtree(result / "borders.ome.zarr")
    told = []
    assert [data[1]["name"] for data in layers_at(str(result), told.append)] == ["brain", "annotation"]
    assert len(told) == 1 and "borders not shown" in told[0]


def test_the_verb_shows_the_regions_under_the_cursor(make_napari_viewer, result, monkeypatch):
    monkeypatch.setattr(window.napari, "Viewer", lambda **settings: make_napari_viewer(**settings))
    viewers = []
    monkeypatch.setattr(window, "show", lambda paths, panels: viewers.append(window.open_window(paths, panels)))
    done = CliRunner().invoke(app, ["view", str(result)])
    assert done.exit_code == 0, done.output
    (viewer,) = viewers
    assert viewer.layers.selection.active is viewer.layers["annotation"] and not viewer.window.dock_widgets
    grid = bigreg.open_run(str(result / "run.zarr")).pyramid("moving")[0].grid
    for plane, name in ((1, "front of it"), (grid.shape[0] - 2, "back of it")):
        world = grid.index_to_world(np.array((plane, 5, 5)))
        viewer.dims.set_point(0, world[0])
        assert name in viewer.layers["annotation"].get_status(world, world=True)["coordinates"]


def test_the_reader_opens_it_and_a_panel_beside_it_has_no_run(make_napari_viewer, dock, result):
    reader = get_reader(str(result))
    assert reader is not None
    viewer = make_napari_viewer()
    for data in reader(str(result)):
        viewer.add_layer(Layer.create(*data))
    assert dock(viewer, "Monitor").choice.url == ""
