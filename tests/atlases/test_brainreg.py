"""An atlas result as brainreg's folder, against what is known of the phantom, and read by BrainGlobe's own packages."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from bigreg.atlases import export_brainreg
from bigreg.atlases.brainreg import inner_boundaries
from bigreg.cli import app
from bigreg.errors import InputError, OutputError

from .test_workflow import SHAPE, SHIFT, known, made, scene, thread_client_module  # noqa: F401

FILES = {
    "boundaries.tiff", "brainreg.json", "deformation_field_0.tiff", "deformation_field_1.tiff",
    "deformation_field_2.tiff", "downsampled.tiff", "downsampled_standard.tiff", "registered_atlas.tiff",
    "registered_hemispheres.tiff", "volumes.csv",
}  # fmt: skip
BACK = np.array([SHIFT[0], -SHIFT[1], SHIFT[2]])
"""Voxels from a place in the brain, on the atlas's axes, to where it is in the atlas."""


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):  # noqa: F811
    target = tmp_path_factory.mktemp("brainreg") / "out"
    found = CliRunner().invoke(app, ["export", made[0].url, "--brainreg", str(target)])
    assert found.exit_code == 0, found.output
    return target


@pytest.fixture(scope="module")
def truth(scene):  # noqa: F811
    """(brain, labels) on the axes of the atlas."""
    return [data[::-1, :, ::-1] for data in scene[2:]]


def image(folder, name):
    return tifffile.imread(folder / f"{name}.tiff")


def test_all_files_are_there_and_what_it_was_made_of(folder):
    assert {path.name for path in folder.iterdir()} == FILES
    kept = json.loads((folder / "brainreg.json").read_text())
    assert kept["atlas"] == "phantom" and kept["orientation"] == "psl" and kept["voxel_sizes"] == ["20", "20", "20"]


def test_images_lie_on_the_axes_of_the_atlas(folder, truth):
    assert np.corrcoef(image(folder, "downsampled").ravel(), truth[0].ravel())[0, 1] > 0.999
    found = image(folder, "registered_atlas")
    assert found.dtype == np.uint32 and found.shape == SHAPE
    for label in (10, 20, 21):
        both = ((found == label) & (truth[1] == label)).sum()
        assert 2 * both / ((found == label).sum() + (truth[1] == label).sum()) > 0.93
    assert image(folder, "downsampled_standard").shape == SHAPE
    borders = image(folder, "boundaries")
    assert np.array_equal(borders, inner_boundaries(found)) and borders.dtype == np.int8


def test_left_is_1_and_right_is_2(folder):
    sides = image(folder, "registered_hemispheres")
    x = np.arange(SHAPE[2]) + BACK[2]  # the atlas starts on the right
    assert (sides[:, :, x < 19] == 2).mean() > 0.99 and (sides[:, :, x > 21] == 1).mean() > 0.99


def test_the_field_holds_the_place_in_the_atlas_in_mm(folder, truth):
    inside = truth[1] > 0
    for axis, index in enumerate(np.indices(SHAPE)):
        field = image(folder, f"deformation_field_{axis}")
        assert field.dtype == np.float32
        assert np.median(np.abs(field - (index + BACK[axis]) * 0.02)[inside]) < 0.01


def test_volumes_are_those_of_each_label(folder, truth):
    with open(folder / "volumes.csv", newline="") as file:
        rows = {row["structure_name"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"front", "back", "b"}
    for name, label in (("front", 10), ("back", 20), ("b", 21)):
        row = {key: float(value) for key, value in rows[name].items() if key != "structure_name"}
        assert row["total_volume_mm3"] == pytest.approx((truth[1] == label).sum() * 8e-6, rel=0.08)
        assert row["left_volume_mm3"] + row["right_volume_mm3"] == pytest.approx(row["total_volume_mm3"])


def test_brainglobes_points_go_into_the_atlas(folder):
    transform = pytest.importorskip("brainglobe_utils.brainreg.transform")
    fields = [folder / f"deformation_field_{axis}.tiff" for axis in range(3)]
    points = np.array([[18, 16, 20], [15, 12, 24]])
    found, outside = transform.transform_points_from_downsampled_to_atlas_space(
        points, SimpleNamespace(resolution=(20.0, 20.0, 20.0)), fields
    )
    assert np.abs(found - (points + BACK)).max() <= 1 and not outside


def test_brainglobes_napari_reader_opens_it(folder, monkeypatch):
    reader = pytest.importorskip("brainglobe_napari_io.brainreg.reader_dir")
    monkeypatch.setattr(reader, "BrainGlobeAtlas", lambda name: SimpleNamespace(atlas_name=name))
    layers = reader.brainreg_read_dir(str(folder))(str(folder))
    assert [(kind, data.shape) for data, _, kind in layers] == [
        (k, SHAPE) for k in ("image", "labels", "labels", "image")
    ]


def test_what_is_missing_is_named(made, tmp_path, folder):  # noqa: F811
    with pytest.raises(InputError, match="not made by `bigreg atlas`"):
        export_brainreg(made[0].url + "/run.zarr", tmp_path / "a")
    with pytest.raises(OutputError, match="exists already"):
        export_brainreg(made[0].url, folder)
    part = tmp_path / "part"
    part.mkdir()
    shutil.copy(Path(made[0].url) / "zarr.json", part)
    with pytest.raises(InputError, match="run.zarr, annotation.ome.zarr, regions.csv is missing"):
        export_brainreg(part, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    for more in ([], [str(tmp_path / "a.h5"), "--brainreg", str(tmp_path / "a")]):
        found = CliRunner().invoke(app, ["export", made[0].url, *more])
        assert found.exit_code != 0 and not (tmp_path / "a").exists()
