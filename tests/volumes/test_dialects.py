"""More ways in which programs name axes, units and places, in files that other libraries have written."""

from __future__ import annotations

import json
import struct
import zipfile

import h5py
import nibabel
import nrrd
import numpy as np
import pytest
import tifffile
import zarr

from bigreg.errors import CorruptDataError, InputError
from bigreg.volumes import open_volume

from .ramps import SPACING, check_ramp, sampled, write_n5
from .test_conventions import NM, SHAPE, XML, levels

DATA = sampled(SHAPE)


# ---------------------------------------------------------------- axes without names


def hdf5(folder, data):
    with h5py.File(folder / "a.h5", "w") as file:
        file["image"] = data
    return folder / "a.h5"


def plain_zarr(folder, data):
    zarr.create_array(str(folder / "a.zarr"), data=data)
    return folder / "a.zarr"


def plain_nrrd(folder, data):
    nrrd.write(str(folder / "a.nrrd"), data, {"encoding": "raw"}, index_order="C")
    return folder / "a.nrrd"


@pytest.mark.parametrize("write", [hdf5, plain_zarr, plain_nrrd])
def test_channels_that_come_last_are_channels(tmp_path, write):
    path = write(tmp_path, np.stack([DATA + 9, DATA], -1))
    with pytest.raises(InputError, match="4 axes without names .* if they are zyxc"):
        open_volume(path, spacing=SPACING)
    volume = open_volume(path, spacing=SPACING, channel=1)
    assert volume.channels == 2
    check_ramp(volume)


@pytest.mark.parametrize("place", [0, 1, 2, 3])
@pytest.mark.parametrize("write", [hdf5, plain_zarr, plain_nrrd])
def test_an_axis_of_one_element_is_none(tmp_path, write, place):
    check_ramp(open_volume(write(tmp_path, np.expand_dims(DATA, place)), spacing=SPACING))


def test_channels_that_come_last_of_an_array_in_memory(tmp_path):
    assert np.array_equal(open_volume(np.stack([DATA, DATA + 1], -1), spacing=SPACING, channel=0), DATA)


# ---------------------------------------------------------------- axes with names


@pytest.mark.parametrize("kind", ["axistags", "labels", "zarr"])
def test_a_plane_with_channels_is_no_stack(tmp_path, kind):
    data, path = np.zeros((9, 12, 3), "u1"), tmp_path / "a.h5"
    if kind == "zarr":
        path = tmp_path / "a.zarr"
        zarr.create_array(str(path), data=data, dimension_names=("y", "x", "c"))
    else:
        with h5py.File(path, "w") as file:
            file["image"] = data
            if kind == "axistags":
                file["image"].attrs["axistags"] = json.dumps({"axes": [{"key": axis} for axis in "yxc"]})
            for number, axis in enumerate("yxc" if kind == "labels" else ""):
                file["image"].dims[number].label = axis
    with pytest.raises(InputError, match="2-D .axes yxc"):
        open_volume(path, spacing=SPACING)


@pytest.mark.parametrize("axes", ["xyz", "zyx", "yxz"])
def test_n5_values_are_those_of_the_axes_that_they_are_named_with(tmp_path, axes):
    size = dict(zip("zyx", SPACING, strict=True))
    stated = {"axes": list(axes), "units": ["um"] * 3, "resolution": [size[axis] for axis in axes]}
    stated["offset"] = [{"z": 30.0, "y": 20.0, "x": 10.0}[axis] for axis in axes]
    if axes == "yxz":  # an array whose axes are in another order has them named so
        data = DATA.transpose(0, 2, 1)
        write_n5(tmp_path / "a.n5/v", data, stated)
        assert np.array_equal(open_volume(tmp_path / "a.n5"), DATA)
    else:
        write_n5(tmp_path / "a.n5/v", DATA, stated)
    volume = open_volume(tmp_path / "a.n5")
    assert np.allclose(volume.spacing, SPACING) and volume.grid().origin == (30, 20, 10)


def test_an_n5_group_may_state_ome_zarrs_transformations(tmp_path):
    datasets = []
    for number, f, data in levels():
        write_n5(tmp_path / f"a.n5/v/s{number}", data, {})
        steps = [
            {"type": "scale", "scale": list(NM * f)},
            {"type": "translation", "translation": list((f - 1) / 2 * NM)},
        ]
        datasets.append({"path": f"s{number}", "coordinateTransformations": steps})
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    attributes = {"multiscales": [{"version": "0.4", "axes": axes, "datasets": datasets}]}
    (tmp_path / "a.n5/v/attributes.json").write_text(json.dumps(attributes))
    for dataset in (None, "v", "v/s0"):
        check_ramp(open_volume(tmp_path / "a.n5", dataset=dataset))


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"pixelResolution": "0.7,1.5,3"}, "pixelResolution '0.7,1.5,3' cannot be read"),
        ({"pixelResolution": [-0.7, 1.5, 3]}, r"pixelResolution \[-0.7, 1.5, 3\]"),
        ({"resolution": [0, 0, 0]}, r"resolution \[0, 0, 0\]"),
    ],
)
def test_an_n5_size_that_cannot_be_read_is_named(tmp_path, stated, words):
    write_n5(tmp_path / "a.n5/v", DATA, stated)
    with pytest.raises(InputError, match=words):
        open_volume(tmp_path / "a.n5")


def test_time_points_of_bigdataviewers_n5_are_time_points(tmp_path):
    for setup in (1, 2):
        for time in (0, 3):
            write_n5(tmp_path / f"a.n5/setup{setup}/timepoint{time}/s0", DATA + 100 * time, {})
    (tmp_path / "a.xml").write_text(XML.format(kind="n5", file="a.n5", unit="um"))
    with pytest.raises(InputError, match="one of setup1, setup2$"):
        open_volume(tmp_path / "a.n5")
    volume = open_volume(tmp_path / "a.n5", dataset="setup1", time=1)
    assert volume.times == 2 and np.array_equal(volume, DATA + 300) and np.allclose(volume.spacing, SPACING)
    assert np.array_equal(volume.plane(0, 0), DATA)
    with pytest.raises(InputError, match="time 2 is out of range; available: 2"):
        open_volume(tmp_path / "a.n5", dataset="setup1", time=2)


def test_the_xml_of_bigdataviewer_names_its_container(tmp_path):
    (tmp_path / "a.xml").write_text(XML.format(kind="hdf5", file="b.h5", unit="um"))
    with pytest.raises(InputError, match=r"give their container '.*b\.h5'"):
        open_volume(tmp_path / "a.xml")
    (tmp_path / "b.xml").write_text("<a/>")
    with pytest.raises(InputError, match="unknown format"):
        open_volume(tmp_path / "b.xml")


def test_an_hdf5_without_images_is_said(tmp_path):
    with pytest.raises(InputError, match="holds no dataset with three axes"):
        open_volume(hdf5(tmp_path, np.zeros(4)))


# ---------------------------------------------------------------- TIFF


def ome(path, images, **stated):
    with tifffile.TiffWriter(path, ome=True) as file:
        for number, data in enumerate(images, 1):
            size = {f"PhysicalSize{axis}": number * s for axis, s in zip("ZYX", SPACING, strict=True)}
            file.write(data, photometric="minisblack", metadata={"axes": "ZYX"[-data.ndim :], **size, **stated})
    return path


def test_several_stacks_of_a_tiff_are_a_question(tmp_path):
    path = ome(tmp_path / "a.ome.tif", [DATA, DATA[:4]])
    with pytest.raises(
        InputError, match=r"2 images: 0 \(16 x 24 x 32\), 1 \(4 x 24 x 32\); pass open_volume's dataset"
    ):
        open_volume(path)
    check_ramp(open_volume(path, dataset=0))
    assert np.allclose(open_volume(path, dataset=1).spacing, 2 * SPACING)
    with pytest.raises(InputError, match="2 series"):
        open_volume(path, dataset=2)


def test_the_only_stack_of_a_tiff_is_taken(tmp_path):
    path = ome(tmp_path / "a.ome.tif", [np.zeros((7, 5), "f4"), DATA])
    volume = open_volume(path)
    assert np.array_equal(volume, DATA) and np.allclose(volume.spacing, 2 * SPACING)


@pytest.mark.parametrize(
    ("unit", "um"), [("Å", 1e-4), ("\u212b", 1e-4), ("thou", 25.4), ("pm", 1e-6), ("ft", 304800.0)]
)
def test_units_of_ome(tmp_path, unit, um):
    size = {f"PhysicalSize{axis}": s / um for axis, s in zip("ZYX", SPACING, strict=True)}
    path = ome(tmp_path / "a.ome.tif", [DATA], **size, **{f"PhysicalSize{axis}Unit": unit for axis in "ZYX"})
    check_ramp(open_volume(path))


# ---------------------------------------------------------------- NRRD, NIfTI


def raw_nrrd(path, *lines, data=DATA):
    head = ["NRRD0004", "type: float", "dimension: 3", "sizes: 32 24 16", "encoding: raw", "endian: little", *lines]
    path.write_bytes(("\n".join(head) + "\n\n").encode() + data.astype("<f4").tobytes())
    return path


@pytest.mark.parametrize("how", ["units", "space units"])
def test_each_nrrd_axis_may_have_its_unit(tmp_path, how):
    lines = ["spacings: 0.7 1.5 0.003"]
    if how == "space units":
        lines = ["space dimension: 3", "space directions: (0.7,0,0) (0,1.5,0) (0,0,0.003)"]
    check_ramp(open_volume(raw_nrrd(tmp_path / "a.nrrd", *lines, f'{how}: "um" "um" "mm"')))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("spacings: nan 1.5 3", r"spacings \[nan, 1.5, 3.0\]"),
        ("spacings: -0.7 1.5 3", r"spacings \[-0.7"),
        ("axis mins: 0 0 0", "axis mins"),
        ("thicknesses: 0.7 1.5 3", "thicknesses"),
        ("space: LPS\nspace directions: (0,0,0) (0,1.5,0) (0,0,3)", "space directions"),
    ],
)
def test_what_an_nrrd_states_in_place_of_a_voxel_size_is_named(tmp_path, line, words):
    with pytest.raises(InputError, match=f"spacing is missing: its {words}"):
        open_volume(raw_nrrd(tmp_path / "a.nrrd", line, 'units: "um" "um" "um"'))


def test_an_nrrd_that_was_broken_off_is_damaged(tmp_path):
    path = raw_nrrd(tmp_path / "a.nrrd", "spacings: 1 1 1")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptDataError, match="truncated"):
        open_volume(path)


def nifti(path, at, values, kind):
    """A file of nibabel's, without codes, with some bytes of its header set."""
    image = nibabel.Nifti1Image(DATA.T, np.diag([0.7, 1.5, 3.0, 1.0]))
    image.header.set_xyzt_units("micron")
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, path)
    content = bytearray(path.read_bytes())
    new = struct.pack(f"<{len(values)}{kind}", *values)
    content[at : at + len(new)] = new
    path.write_bytes(content)
    return path


def test_a_nifti_size_of_zero_is_no_size(tmp_path):
    with pytest.raises(InputError, match=r"pixdim \(0, 1.5, 3\)"):
        open_volume(nifti(tmp_path / "a.nii", 80, (0.0, 1.5, 3.0), "f"))
    check_ramp(open_volume(nifti(tmp_path / "b.nii", 80, (-0.7, 1.5, 3.0), "f")))


def test_a_nifti_type_that_does_not_exist_is_damage(tmp_path):
    with pytest.raises(CorruptDataError, match="9999"):
        open_volume(nifti(tmp_path / "a.nii", 70, (9999,), "h"))


# ---------------------------------------------------------------- folders and archives


def test_slices_in_numbered_folders_are_in_order(tmp_path):
    for number in range(8, 12):
        (tmp_path / f"Z{number}").mkdir()
        tifffile.imwrite(tmp_path / f"Z{number}/plane.tif", np.full((5, 6), number, "u1"))
    volume = open_volume(tmp_path / "*/plane.tif", spacing=SPACING)
    assert volume[:, 0, 0].tolist() == [8, 9, 10, 11]
    (tmp_path / "Z10/plane.tif").unlink()
    with pytest.raises(InputError, match="number 10"):
        open_volume(tmp_path / "*/plane.tif", spacing=SPACING)
    with pytest.raises(InputError, match="it holds Z10, Z11, Z8, ..."):
        open_volume(tmp_path, spacing=SPACING)


def test_a_zarr_in_an_archive_needs_no_longer_ending(tmp_path):
    path = plain_zarr(tmp_path, DATA)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in path.rglob("*"):
            archive.write(file, file.relative_to(path))
    check_ramp(open_volume(tmp_path / "a.zip", spacing=SPACING))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("slices/z_1.tif", b"")
    with pytest.raises(InputError, match="the archive holds no Zarr image"):
        open_volume(tmp_path / "b.zip")
