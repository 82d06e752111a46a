"""Units, implausible voxels, values that cannot be read, and orientations that are not stated."""

from __future__ import annotations

import json
import shutil

import h5py
import nibabel
import nrrd
import numpy as np
import pytest
import tifffile
import zarr

from bigreg.errors import CorruptDataError, InputError
from bigreg.volumes import convert, open_volume
from bigreg.volumes.units import implausible, micrometres, numbers

from .ramps import SPACING, check_ramp, sampled, write_n5

DATA = (np.arange(9 * 12 * 15).reshape(9, 12, 15) % 251).astype("u2")


def write_nrrd(path, how, encoding="utf-8", more="encoding: raw"):
    header = f"NRRD0004\ntype: uint16\ndimension: 3\nsizes: 15 12 9\nendian: little\n{more}\n{how}\n\n"
    path.write_bytes(header.encode(encoding) + DATA.tobytes())
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("unit", ["µm", "microns", "um"])
@pytest.mark.parametrize(
    "how",
    [
        'space: left-posterior-superior\nspace directions: (0.7,0,0) (0,1.5,0) (0,0,3)\nspace units: "U" "U" "U"',
        'spacings: 0.7 1.5 3\nunits: "U" "U" "U"',
    ],
)
def test_an_nrrd_unit_is_read_from_the_bytes_of_the_header(tmp_path, how, unit, encoding):
    volume = open_volume(write_nrrd(tmp_path / "a.nrrd", how.replace("U", unit), encoding))
    assert np.allclose(volume.grid().spacing, SPACING)
    np.testing.assert_array_equal(volume.read((0, 0, 0), (9, 12, 15)), DATA)


def test_a_data_file_with_an_accent_is_found_and_a_missing_one_is_named(tmp_path):
    (tmp_path / "größe.raw").write_bytes(DATA.tobytes())
    how = 'spacings: 0.7 1.5 3\nunits: "um" "um" "um"\ndata file: größe.raw'
    path = write_nrrd(tmp_path / "a.nhdr", how)
    np.testing.assert_array_equal(open_volume(path).read((0, 0, 0), (9, 12, 15)), DATA)
    (tmp_path / "größe.raw").unlink()
    with pytest.raises(InputError, match="größe.raw"):
        open_volume(path)


@pytest.mark.parametrize(
    ("unit", "um"),
    [
        ("µm", 1), ("μm", 1), (b"\xb5m", 1), ("Âµm", 1), ("\\u00B5m", 1), ("microns", 1), ("Micrometre", 1),
        ("nm", 1e-3), ("mm", 1e3), ("cm", 1e4), ("inches", 25400), ("pixel", None), ("", None), (None, None),
    ],
)  # fmt: skip
def test_units_are_understood_in_every_spelling(unit, um):
    assert micrometres(unit) == um


def test_numbers_that_are_none_are_not_stated():
    assert numbers([1, "2.5", np.float64(3)], 3) == [1, 2.5, 3]
    for values in (["3,25", 1, 1], [float("nan"), 1, 1], [1, 1], "111", None, [0, 1, 1], [-1, 1, 1]):
        assert numbers(values, 3, positive=True) is None


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1000, 1000, 1000), (50, 1, 1), (0.001, 0.001, 0.001)])
def test_voxels_up_to_the_limits_are_plausible(spacing):
    assert not implausible(spacing)


@pytest.mark.parametrize(
    ("spacing", "why"),
    [((3e6, 1.5e6, 7e5), "above 1 mm"), ((1e-4, 1e-4, 1e-4), "below 1 nm"), ((51, 1, 1), "50 times")],
)
def test_an_implausible_voxel_is_a_question(tmp_path, spacing, why):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", data=DATA).attrs["element_size_um"] = spacing
    with pytest.raises(InputError, match=f"{why}.*open_volume's spacing.*to confirm"):
        open_volume(tmp_path / "a.h5")
    assert np.allclose(open_volume(tmp_path / "a.h5", spacing=spacing).grid().spacing, spacing)


def test_a_confirmed_voxel_is_not_asked_for_again_in_what_was_written(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = DATA
    written = convert(tmp_path / "a.h5", tmp_path / "a.ome.zarr", spacing=(2000, 2000, 2000))
    assert open_volume(tmp_path / "a.ome.zarr").grid() == written.grid()


def ome_tiff(path, old, new):
    sizes = {"PhysicalSizeX": 0.7, "PhysicalSizeY": 1.5, "PhysicalSizeZ": 3.25}
    tifffile.imwrite(path, DATA, metadata={"axes": "ZYX", **sizes, "Name": "XXNAMEXX"}, photometric="minisblack")
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


def imagej_tiff(path, text):
    description = f"ImageJ=1.54f\nimages=9\nslices=9\n{text}\n"
    resolution = {"resolution": (1 / 0.7, 1 / 1.5)}
    tifffile.imwrite(path, DATA, description=description, metadata=None, photometric="minisblack", **resolution)
    return path


def ome_zarr(path, **multiscale):
    root = zarr.create_group(path, zarr_format=2)
    root.create_array("0", shape=DATA.shape, chunks=DATA.shape, dtype="u2")[:] = DATA
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    root.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [{"path": "0"}]} | multiscale]
    return path


def scaled(scale, kind="scale"):
    return {"datasets": [{"path": "0", "coordinateTransformations": [{"type": kind, kind: scale}]}]}


def hdf5(path, element):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=DATA).attrs["element_size_um"] = element
    return path


def n5(path, attributes):
    write_n5(path / "a", DATA.astype("f4"), attributes)
    return path


UNREADABLE = {
    "OME decimal comma": (lambda d: ome_tiff(d / "a.ome.tif", b'"3.25"', b'"3,25"'), "'3,25'"),
    "OME text": (lambda d: ome_tiff(d / "a.ome.tif", b'"3.25"', b'"thin"'), "'thin'"),
    "OME zero": (lambda d: ome_tiff(d / "a.ome.tif", b'"3.25"', b'"0.00"'), "'0.00'"),
    "OME not well formed": (lambda d: ome_tiff(d / "a.ome.tif", b"XXNAMEXX", b"A & B xx"), "well formed"),
    "ImageJ decimal comma": (lambda d: imagej_tiff(d / "a.tif", "unit=micron\nspacing=3,0"), "'3,0'"),
    "ImageJ unit": (lambda d: imagej_tiff(d / "a.tif", "unit=furlong\nspacing=3.0"), "furlong"),
    "OME-Zarr text": (lambda d: ome_zarr(d / "a.ome.zarr", **scaled(["a", 1, 1])), "'a'"),
    "OME-Zarr two numbers": (lambda d: ome_zarr(d / "a.ome.zarr", **scaled([1, 1])), "cannot be read"),
    "OME-Zarr negative": (lambda d: ome_zarr(d / "a.ome.zarr", **scaled([3, -1.5, 0.7])), r"\(3, -1.5, 0.7\)"),
    "OME-Zarr unknown": (lambda d: ome_zarr(d / "a.ome.zarr", **scaled([1, 1, 1], "spline")), "spline"),
    "OME-Zarr null": (lambda d: ome_zarr(d / "a.ome.zarr", **scaled(None)), "cannot be read"),
    "NRRD decimal comma": (lambda d: write_nrrd(d / "a.nrrd", 'spacings: 0,7 1,5 3\nunits: "um" "um" "um"'), "0,7 1,5"),
    "NRRD directions": (lambda d: write_nrrd(d / "a.nrrd", "space: LPS\nspace directions: (1,0) x y"), "directions"),
    "NRRD unit": (lambda d: write_nrrd(d / "a.nrrd", 'spacings: 1 1 1\nunits: "ell" "ell" "ell"'), "ell"),
    "HDF5 text": (lambda d: hdf5(d / "a.h5", "3 1.5 0.7"), "element_size_um"),
    "HDF5 NaN": (lambda d: hdf5(d / "a.h5", [3, np.nan, 0.7]), "nan"),
    "N5 text": (lambda d: n5(d / "a.n5", {"pixelResolution": ["a", 1, 1]}), "spacing is missing"),
    "N5 two numbers": (lambda d: n5(d / "a.n5", {"pixelResolution": [1, 1]}), "spacing is missing"),
    "N5 factors": (lambda d: n5(d / "a.n5", {"downsamplingFactors": "two"}), "spacing is missing"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_is_not_stated(tmp_path, case):
    """Without --spacing what was found is named, in plain numbers; with it the image opens."""
    write, found = UNREADABLE[case]
    path = write(tmp_path)
    with pytest.raises(InputError, match=found) as caught:
        open_volume(path)
    assert "open_volume's spacing" in str(caught.value) and "np.float" not in str(caught.value)
    volume = open_volume(path, spacing=SPACING)
    assert np.allclose(volume.grid().spacing, SPACING)
    np.testing.assert_array_equal(volume.read((0, 0, 0), (9, 12, 15)), DATA)


@pytest.mark.parametrize("multiscale", [{"datasets": []}, {"datasets": [{}]}, {"datasets": None}, {"datasets": "0"}])
def test_ome_metadata_without_datasets_is_said(tmp_path, multiscale):
    with pytest.raises(InputError, match="dataset"):
        open_volume(ome_zarr(tmp_path / "a.ome.zarr", **multiscale), spacing=SPACING)


def test_a_first_level_that_was_not_copied_names_the_next(tmp_path):
    path = ome_zarr(tmp_path / "a.ome.zarr", datasets=[{"path": "0"}, {"path": "1"}])
    (path / "0").rename(path / "1")
    with pytest.raises(InputError, match="level 0 is not stored there; pass open_volume's dataset 1"):
        open_volume(path, spacing=SPACING)
    shutil.rmtree(path / "1")
    with pytest.raises(InputError, match="not stored"):
        open_volume(path, spacing=SPACING)


@pytest.mark.parametrize(("sform", "qform", "code"), [(1, 0, "ipl"), (0, 1, "ipl"), (0, 0, None)])
def test_nifti_claims_an_orientation_only_where_a_code_states_one(tmp_path, sform, qform, code):
    affine = np.diag([0.7, 1.5, 3.0, 1.0])
    affine[:3, 3] = 5, -20, 10
    image = nibabel.Nifti1Image(sampled((17, 23, 31)).transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("micron", "sec")
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    nibabel.save(image, tmp_path / "a.nii")
    volume = open_volume(tmp_path / "a.nii")
    assert volume.orientation == code and np.allclose(volume.grid().spacing, SPACING)
    assert np.allclose(volume.grid().origin, (10, -20, 5) if code else 0)
    if code is None:
        check_ramp(volume)


def test_nrrd_claims_no_orientation_without_directions(tmp_path):
    how = 'space: left-posterior-superior\nspacings: 0.7 1.5 3\nunits: "um" "um" "um"'
    assert open_volume(write_nrrd(tmp_path / "a.nrrd", how)).orientation is None


def test_ome_zarr_axes_that_state_anatomy_give_the_orientation(tmp_path):
    sides = {"z": "superior-to-inferior", "y": "anterior-to-posterior", "x": "left-to-right"}
    axes = [
        {"name": n, "type": "space", "unit": "micrometer", "orientation": {"type": "anatomical", "value": sides[n]}}
        for n in "zyx"
    ]
    path = ome_zarr(tmp_path / "a.ome.zarr", axes=axes, **scaled([3, 1.5, 0.7]))
    assert open_volume(path).orientation == "sal"


def test_an_encoding_of_nrrd_that_is_not_supported_is_named(tmp_path):
    path = write_nrrd(tmp_path / "a.nrrd", "spacings: 1 1 1", more="encoding: hex")
    with pytest.raises(InputError, match="'hex' is not supported"):
        open_volume(path)


def test_what_is_no_nrrd_is_called_damaged(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(b"<html>not found</html>")
    with pytest.raises(CorruptDataError, match="NRRD"):
        open_volume(tmp_path / "a.nrrd")


def test_nrrd_headers_of_pynrrd_are_read_as_before(tmp_path):
    header = {"spacings": [0.7, 1.5, 3.0], "units": ["um"] * 3, "encoding": "gzip"}
    nrrd.write(str(tmp_path / "a.nrrd"), sampled(), header, index_order="C")
    check_ramp(open_volume(tmp_path / "a.nrrd"))


def test_a_second_multiscale_image_in_a_group_is_told(tmp_path):
    path = ome_zarr(tmp_path / "a.ome.zarr", **scaled([3, 1.5, 0.7]))
    text = json.loads((path / ".zattrs").read_text())
    text["multiscales"].append(text["multiscales"][0])
    (path / ".zattrs").write_text(json.dumps(text))
    assert "2 multiscale" in open_volume(path).notes[0]
