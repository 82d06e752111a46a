"""One ramp in world coordinates through every format: each voxel, at each level, must hold the ramp of its place.

A half voxel, a swapped axis or a wrong unit shows at once.
"""

from __future__ import annotations

import json
import pickle

import nibabel
import nrrd
import numpy as np
import pytest

from bigreg.volumes import ImageSpec, open_volume

from .ramps import (
    LEVELS,
    SHAPE,
    SPACING,
    WRITERS,
    check_ramp,
    dask_array,
    nifti,
    nrrd_gzip,
    numpy_array,
    ome_zarr_04,
    ome_zarr_05,
    plain_zarr,
    sampled,
)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_voxel_of_every_level_holds_the_ramp_of_its_place(tmp_path, write):
    source, keywords = write(tmp_path)
    volume = open_volume(source, **keywords)
    assert len(volume.levels) == (2 if write.__name__ in LEVELS else 1)
    check_ramp(volume)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_the_spec_opens_the_same_image_again(tmp_path, write):
    source, keywords = write(tmp_path)
    volume = open_volume(source, name="moving", **keywords)
    again = [pickle.loads(pickle.dumps(volume))]
    if volume.spec is not None:
        again.append(open_volume(ImageSpec.model_validate_json(volume.spec.model_dump_json()), name="moving"))
    for other in again:
        assert other.levels == volume.levels and other.identity() == volume.identity()
        assert json.dumps(other.identity())
        check_ramp(other)
    assert (volume.spec is None) == (write in (numpy_array, dask_array))


def test_without_a_translation_none_is_invented(tmp_path):
    source, _ = ome_zarr_05(tmp_path)
    file = source / "zarr.json"
    data = json.loads(file.read_text())
    for dataset in data["attributes"]["ome"]["multiscales"][0]["datasets"]:
        del dataset["coordinateTransformations"][1]
    file.write_text(json.dumps(data))
    volume = open_volume(source)
    assert [level.grid.origin for level in volume.levels] == [(0, 0, 0), (0, 0, 0)]
    assert volume.levels[1].factors == (2, 2, 2)


def test_a_given_spacing_scales_all_levels_along(tmp_path):
    source, keywords = ome_zarr_04(tmp_path)
    volume = open_volume(source, **keywords, spacing=SPACING * 2, origin=(0, 0, 0))
    assert np.allclose(volume.grid(0).spacing, SPACING * 2) and volume.grid(0).origin == (0, 0, 0)
    assert np.allclose(volume.grid(1).spacing, SPACING * 4) and np.allclose(volume.grid(1).origin, SPACING)


@pytest.mark.parametrize("write", [nrrd_gzip, nifti])
def test_a_given_orientation_drops_the_directions_of_the_header(tmp_path, write):
    source, keywords = write(tmp_path)
    volume = open_volume(source, **keywords)
    assert volume.orientation == "ipl" and not volume.grid().is_axis_aligned
    volume = open_volume(source, **keywords, orientation="PSL")
    assert volume.orientation == "psl" and volume.grid().is_axis_aligned
    assert np.allclose(volume.grid().spacing, SPACING) and volume.grid().origin == (0, 0, 0)


@pytest.mark.parametrize(
    ("space", "code"),
    [("left-posterior-superior", "iar"), ("RAS", "ipl"), ("LAS", "ipr"), ("scanner-xyz", None), (None, None)],
)
def test_nrrd_spaces_name_where_the_world_axes_start(tmp_path, space, code):
    header = {"spacings": list(SPACING[::-1]), "units": ["um"] * 3}
    if space:
        header = {"space": space, "space directions": np.diag(SPACING[::-1]), "space units": ["um"] * 3}
    nrrd.write(str(tmp_path / "a.nrrd"), sampled(), header, index_order="C")
    assert open_volume(tmp_path / "a.nrrd").orientation == code


@pytest.mark.parametrize(("step", "unit"), [(100.0, 1.0), (1.0, 1.0), (0.1, 1000.0), (0.025, 1000.0), (0.5, None)])
def test_nrrd_without_units_is_in_um_from_1_on_and_in_mm_up_to_a_tenth(tmp_path, step, unit):
    nrrd.write(str(tmp_path / "a.nrrd"), sampled(), {"spacings": [step] * 3}, index_order="C")
    if unit is None:
        with pytest.raises(Exception, match=r"no stated unit; pass open_volume's spacing Z Y X \(µm\)"):
            open_volume(tmp_path / "a.nrrd")
    else:
        assert np.allclose(open_volume(tmp_path / "a.nrrd").grid().spacing, step * unit)
    assert open_volume(tmp_path / "a.nrrd", spacing=(1, 2, 3)).grid().spacing == (1, 2, 3)


def test_nifti_that_scales_its_integers_is_read_as_float32(tmp_path):
    image = nibabel.Nifti1Image(np.arange(24, dtype="i2").reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nibabel.save(image, tmp_path / "a.nii")
    volume = open_volume(tmp_path / "a.nii")
    assert volume.dtype == np.float32 and volume.read((0, 0, 0), (4, 3, 2)).max() == 10 + 23 / 2


def test_the_digest_changes_with_the_metadata(tmp_path):
    first = open_volume(plain_zarr(tmp_path)[0], spacing=SPACING).identity()
    assert first["digest"] != open_volume(tmp_path / "a.zarr", spacing=SPACING * 2).identity()["digest"]
    assert first == open_volume(str(tmp_path / "a.zarr"), spacing=SPACING).identity()
    assert first["shape"] == list(SHAPE) and first["dtype"] == "float32" and len(first["digest"]) == 64


def test_a_volume_is_opened_as_it_is_and_renamed(tmp_path):
    volume = open_volume(plain_zarr(tmp_path)[0], spacing=SPACING)
    assert open_volume(volume) is volume
    moving = open_volume(volume, name="moving", spacing=(1, 1, 1))
    assert moving.name == "moving" and moving.grid().spacing == (1, 1, 1)
    array = open_volume(sampled(), spacing=SPACING)
    assert open_volume(array, name="fixed").grid() == array.grid()
