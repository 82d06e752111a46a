"""A run becomes layers: at the right place, lazily, in whatever state it is."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bigreg
from bigreg.errors import InputError
from bigreg.geometry import Grid
from bigreg.pipeline.looking.pyramids import Samples
from bigreg.quality.confidence import said
from bigreg.volumes import Volume

pytest.importorskip("napari", reason="needs bigreg[napari]")
from napari.layers import Layer
from napari_bigreg.reader import get_reader
from napari_bigreg.shared.lazy import LazyArray, levels_of
from napari_bigreg.shared.open_model import RunView, dots


def layers_of(run, tell=None) -> dict[str, Layer]:
    view = RunView(str(run), tell or pytest.fail)
    return {layer.metadata["bigreg"]["what"]: layer for layer in (Layer.create(*data) for data in view.layers())}


def samples(array: np.ndarray, grid: Grid) -> Samples:
    return Samples(grid, array.dtype, lambda a, b: array[tuple(map(slice, a, b))])


def means(array: np.ndarray, grid: Grid, count: int) -> list[Samples]:
    """A pyramid of block means, remainders left out."""
    found = [samples(array, grid)]
    for _ in range(count):
        half = [n // 2 * 2 for n in array.shape]
        array = array[tuple(map(slice, half))]
        array = array.reshape(sum(((n // 2, 2) for n in half), ())).mean((1, 3, 5))
        grid = grid.downsampled((2, 2, 2))
        found.append(samples(array, grid))
    return found


def test_a_finished_run_has_all_its_layers(finished):
    found = layers_of(finished)
    assert list(found) == [
        "affine", "fixed", "warped", "jacobian", "risk", "noncorrespondence", "displacement", "blocks",
    ]  # fmt: skip
    assert [w for w, layer in found.items() if layer.visible] == ["fixed", "warped"]
    assert all(str(unit) in ("micrometer", "um") for layer in found.values() for unit in layer.units)


def test_the_risk_names_its_threshold_in_micrometres_and_leaves_out_what_is_unknown(finished):
    risk = layers_of(finished)["risk"]
    array = bigreg.open_run(str(finished)).store.array("confidence", "0")
    assert risk.name == f"risk of an error above {said(array.attributes['large_um'])}"
    shown = np.asarray(risk.data[0] if risk.multiscale else risk.data)
    stored = array[...]
    assert np.array_equal(shown[tuple(map(slice, stored.shape))], stored, equal_nan=True)
    assert np.all(risk.colormap.map(np.array([np.nan]))[0, 3] == 0)


def test_every_voxel_lies_where_the_volume_says(finished, monkeypatch):
    monkeypatch.setattr("napari_bigreg.shared.open_model.SMALL", 1)  # all levels, however small
    run = bigreg.open_run(str(finished))
    for what, layer in layers_of(finished).items():
        if what not in ("affine", "fixed", "warped", "jacobian", "risk", "noncorrespondence"):
            continue
        for level, samples in enumerate(run.pyramid(what)):
            index = np.array([1.0, 2.0, 3.0])
            # napari places voxel i of a level at the middle of the voxels of level 0 that it stands for.
            factor = layer.downsample_factors[level] if layer.multiscale else np.ones(3)
            shown = layer.data_to_world((index + 0.5) * factor - 0.5)
            assert np.allclose(shown, samples.grid.index_to_world(index[None])[0], atol=1e-6), (what, level)


def test_a_bright_dot_is_seen_at_its_place_whatever_the_zoom(make_napari_viewer, qtbot):
    grid = Grid.from_spacing((33, 401, 439), (4.0, 2.0, 2.0), (10.0, -30.0, 5.0))
    array = np.zeros(grid.shape, np.float32)
    array[8:16, 120:152, 80:112] = 100.0  # whole voxels of every level
    world = grid.index_to_world(np.array([[12, 135.5, 95.5]]))[0]
    data = levels_of(means(array, grid, 3))
    viewer = make_napari_viewer(show=True)
    layer = viewer.add_image(data, scale=grid.spacing, translate=grid.origin, multiscale=True, contrast_limits=(0, 1))
    viewer.dims.set_point(range(3), world)
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera
    levels = set()
    for zoom in (3.0, 0.8, 0.2):
        camera.zoom = zoom
        camera.center = tuple(world + np.array([0, 3.0, -5.0]))
        qtbot.wait(200)
        picture = viewer.screenshot(canvas_only=True, flash=False)[..., 0].astype(float)
        levels.add(int(layer.data_level))
        rows, columns = np.nonzero(picture > 100)
        seen = (np.array([rows.mean(), columns.mean()]) - (np.array(picture.shape) - 1) / 2) / zoom
        assert np.abs(seen + np.array(camera.center)[1:] - world[1:]).max() < 0.8 / zoom, zoom
    assert len(levels) > 1


def test_levels_of_odd_sizes_have_whole_factors_between_them():
    grid = Grid.from_spacing((31, 46, 55), (4.0, 2.6, 2.6))
    levels = levels_of(means(np.ones(grid.shape, np.float32), grid, 3))
    for level, array in enumerate(levels):
        assert np.array_equal(np.divide(levels[0].shape, array.shape), (2**level,) * 3)
    inner = tuple(map(slice, grid.shape))
    assert (np.asarray(levels[0][inner]) == 1).all() and np.asarray(levels[0]).sum() == grid.voxels


@pytest.mark.parametrize(
    "key", [(3,), (slice(None), 4), (slice(2, 9, 3), -1, slice(None, 5)), (..., 2), (1, 2, 3), (slice(28, 40),)]
)
def test_slicing_is_numpys(key):
    array = np.random.default_rng(0).random((31, 8, 9)).astype(np.float32)
    lazy = LazyArray(samples(array, Grid.from_spacing(array.shape, (1, 1, 1))), (32, 8, 12))
    padded = np.pad(array, ((0, 1), (0, 0), (0, 3)))
    assert np.array_equal(np.asarray(lazy[key]), padded[key])
    assert np.array_equal(np.asarray(lazy), padded)


def test_cutting_out_what_is_seen_reads_nothing_and_its_plane_no_more_than_that():
    array, boxes = np.arange(20 * 30 * 40).reshape(20, 30, 40), []
    grid = Grid.from_spacing(array.shape, (1, 1, 1))

    def read(start, stop):
        boxes.append((start, stop))
        return array[tuple(map(slice, start, stop))]

    part = LazyArray(Samples(grid, array.dtype, read))[:, 5:9, 10:20][2:]
    assert not boxes and part.shape == (18, 4, 10)
    assert np.array_equal(part[1], array[3, 5:9, 10:20]) and boxes == [((3, 5, 10), (4, 9, 20))]
    assert np.array_equal(np.asarray(part), array[2:, 5:9, 10:20])


def test_opening_reads_no_voxel_of_the_full_resolution(finished, monkeypatch):
    read, levels = Volume.read, []

    def counted(self, start, stop, level=0):
        levels.append((self.name, level, np.prod(np.subtract(stop, start))))
        return read(self, start, stop, level)

    monkeypatch.setattr(Volume, "read", counted)
    RunView(str(finished)).layers()
    assert not levels


def test_nothing_is_written_into_the_run(finished):
    def state() -> dict:
        return {p: p.stat().st_mtime_ns for p in Path(finished).rglob("*")}

    before = state()
    for layer in layers_of(finished).values():
        layer.get_value(layer.extent.world.mean(0))
    assert state() == before


def test_a_run_on_an_object_store_shows_what_it_shows_here(finished, s3):
    import boto3

    client, where = boto3.client("s3", region_name="us-east-1"), "looked at/run.zarr"
    for path in sorted(Path(finished).rglob("*")):
        if path.is_file():
            client.upload_file(str(path), "bucket", f"{where}/{path.relative_to(finished).as_posix()}")
    here, there = layers_of(finished), layers_of(f"s3://bucket/{where}")
    assert list(here) == list(there)
    for name in ("fixed", "warped", "jacobian", "blocks"):
        ours, theirs = (np.asarray(found[name].data[0]) for found in (here, there))
        assert ours.any()
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="needs root and unshare")
def test_a_run_on_a_read_only_disk_opens(finished):
    code = "from napari_bigreg.shared.open_model import RunView; print([d[1]['name'] for d in RunView('{0}').layers()])"
    mount = f"mount --bind {finished} {finished} && mount -o remount,ro,bind {finished} && ! touch {finished}/x 2>&-"
    command = f'{mount} && {sys.executable} -c "{code.format(finished)}"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, text=True)
    if "mount" in done.stderr and "ermission" in done.stderr:
        pytest.skip("may not mount here")
    assert done.returncode == 0 and "'warped'" in done.stdout, done.stderr


def test_a_run_without_fields_shows_the_affine(failed_run):
    found = layers_of(failed_run)
    assert list(found) == ["affine", "fixed", "blocks"] and found["affine"].visible
    assert np.bincount(np.asarray(found["blocks"].data).ravel(), minlength=5)[4] == 2  # failed


def test_a_run_that_has_just_begun_shows_both_images_as_they_lie(run_copy):
    metadata = json.loads((run_copy / "zarr.json").read_text())
    for name in ("frames", "intensity", "stages"):
        del metadata["attributes"]["bigreg"][name]
    metadata["attributes"]["bigreg"]["state"] = "running"
    (run_copy / "zarr.json").write_text(json.dumps(metadata))
    shutil.rmtree(run_copy / "stages")
    shutil.rmtree(run_copy / "warped")
    shutil.rmtree(run_copy / "confidence")
    shutil.rmtree(run_copy / "noncorrespondence")
    assert list(layers_of(run_copy)) == ["moving", "fixed"]


@pytest.mark.parametrize(
    ("array", "missing"),
    [("transforms/fixed_to_moving/0", {"jacobian", "displacement"}), ("warped/0", {"warped"})],
)
def test_a_damaged_array_is_named_and_the_rest_is_shown(array, missing, run_copy):
    told = []
    (run_copy / array / "zarr.json").write_text("{ this is not JSON")
    found = layers_of(run_copy, told.append)
    every = {"affine", "fixed", "warped", "jacobian", "risk", "noncorrespondence", "displacement", "blocks"}
    assert set(found) == every - missing
    assert len(told) == len(missing) and all(array in message for message in told)


def test_a_damaged_chunk_is_named_once_and_the_rest_is_shown(run_copy):
    chunk = sorted(p for p in (run_copy / "warped/0/c").rglob("*") if p.is_file())[0]
    content = bytearray(chunk.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    chunk.write_bytes(content)
    told = []
    warped = layers_of(run_copy, told.append)["warped"]
    first = warped.data[0] if warped.multiscale else warped.data
    for _ in range(2):
        assert np.asarray(first).shape == first.shape
    assert "warped" in told[0] and "decoded" in told[0] and len(told) == len(set(told))


def test_a_run_of_a_newer_version_says_so(run_copy):
    metadata = json.loads((run_copy / "zarr.json").read_text())
    metadata["attributes"]["bigreg"] |= {"format": 99, "versions": {"bigreg": "7.0"}}
    (run_copy / "zarr.json").write_text(json.dumps(metadata))
    assert get_reader(str(run_copy)) is not None
    with pytest.raises(InputError, match=r"run format 99, this bigreg reads \d+; open it with bigreg 7.0"):
        RunView(str(run_copy))


def test_the_reader_claims_runs_and_images_and_nothing_else(finished, tmp_path):
    (tmp_path / "folder.zarr").mkdir()
    (tmp_path / "image.tif").write_bytes(b"II*")
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "broken.zarr/zarr.json").write_text("{")
    for other in ("folder.zarr", "image.tif", "broken.zarr", "nothing.zarr"):
        assert get_reader(str(tmp_path / other)) is None
    assert get_reader([str(finished), str(tmp_path / "folder.zarr")]) is None
    assert len(get_reader([str(finished), str(finished)])(str(finished))) == 8


def test_landmarks_of_the_run_are_points(run_copy):
    from bigreg.transforms.landmarks import landmarks

    fixed = np.array([[10.0, 20.0, 30.0], [15.0, 25.0, 60.0]])
    bigreg.open_run(str(run_copy)).save_landmarks(landmarks(fixed, fixed + 1))
    layer = layers_of(run_copy)["landmarks"]
    assert np.allclose([layer.data_to_world(point) for point in layer.data], fixed)
    size = float(layer.scale[0] * layer.size[0])
    assert size > 2 * max(bigreg.open_run(str(run_copy)).pyramid("fixed")[0].grid.spacing)


@pytest.mark.parametrize(("away", "seen"), [(-0.45, True), (0.0, True), (0.45, True), (0.55, False)])
def test_a_dot_is_seen_on_every_slice_that_cuts_it(make_napari_viewer, away, seen):
    viewer = make_napari_viewer()
    points, where = dots(np.array([[10.0, 20.0, 30.0], [150.0, 25.0, 60.0]]), 8.0)
    layer = viewer.add_points(points, **where)
    viewer.dims.set_point(0, 10.0 + 8.0 * away)
    assert list(layer._view_indices) == ([0] if seen else [])


def test_napari_opens_a_run_by_its_plugin(plugin, make_napari_viewer, finished):
    viewer = make_napari_viewer()
    viewer.open(str(finished), plugin=plugin.name)
    assert {"fixed", "warped"} <= {layer.name for layer in viewer.layers}
    assert all(command.python_name.count(":") == 1 for command in plugin.contributions.commands)


def test_every_command_of_the_manifest_exists(plugin):
    for command in plugin.contributions.commands:
        module, _, name = command.python_name.partition(":")
        assert callable(getattr(importlib.import_module(module), name)), command.id
