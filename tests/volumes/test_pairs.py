"""NIfTI and Analyze in two files, and sizes that are stated in part, as other libraries write them."""

from __future__ import annotations

import logging

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from bigreg.errors import InputError
from bigreg.volumes import open_volume

from .ramps import ORIGIN, SPACING, check_ramp, sampled

MM = np.diag([*SPACING[::-1] / 1000, 1.0])
MM[:3, 3] = ORIGIN[::-1] / 1000
DATA = sampled(origin=ORIGIN)


@pytest.mark.parametrize("given", [".hdr", ".img"])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_nifti_pair_is_read_by_either_of_its_files(tmp_path, given, packed):
    nibabel.save(nibabel.Nifti1Pair(DATA.T, MM), tmp_path / f"a.img{packed}")
    volume = open_volume(tmp_path / f"a{given}{packed}")
    assert volume.orientation == "ipl"
    check_ramp(volume)


def test_a_pair_of_simpleitk_has_its_place(tmp_path):
    image = sitk.GetImageFromArray(DATA)
    image.SetSpacing((SPACING[::-1] / 1000).tolist())
    image.SetOrigin((ORIGIN[::-1] / 1000).tolist())
    sitk.WriteImage(image, str(tmp_path / "a.hdr"))
    volume = open_volume(tmp_path / "a.img")
    # ITK's x and y point to left and posterior, NIfTI's to right and anterior.
    assert np.allclose(volume.grid().origin, ORIGIN * [1, -1, -1], atol=1e-3)
    assert np.allclose(volume.grid().spacing, SPACING) and np.array_equal(volume[:, :, :], DATA)


@pytest.mark.parametrize("kind", [nibabel.AnalyzeImage, nibabel.Spm99AnalyzeImage])
def test_analyze_states_a_size_and_no_orientation(tmp_path, kind):
    data = sampled().astype("int16")
    nibabel.save(kind(data.T, np.diag([*SPACING[::-1] / 1000, 1.0])), tmp_path / "a.img")
    volume = open_volume(tmp_path / "a.hdr")
    assert volume.orientation is None and "taken as mm" in volume.understood["line"]
    assert np.allclose(volume.grid().spacing, SPACING) and np.array_equal(volume[:, :, :], data)


def test_half_a_pair_and_the_header_of_another_format_are_named(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(DATA.T, MM), tmp_path / "a.img")
    (tmp_path / "a.img").unlink()
    with pytest.raises(InputError, match=r"'a.img' is not beside it"):
        open_volume(tmp_path / "a.hdr")
    (tmp_path / "e.hdr").write_text("ENVI\nsamples = 31\n")
    with pytest.raises(InputError, match="no header of NIfTI or Analyze"):
        open_volume(tmp_path / "e.hdr")


def test_a_resolution_in_centimetres_is_told_where_the_z_step_is_missing(tmp_path):
    per_cm = (1e4 / SPACING[2], 1e4 / SPACING[1])
    tifffile.imwrite(tmp_path / "a.tif", DATA, resolution=per_cm, resolutionunit="CENTIMETER")
    with pytest.raises(InputError, match=r"states 1.5 x 0.7 µm \(y, x\), but nothing states the step in z"):
        open_volume(tmp_path / "a.tif")


def test_itks_hdf5_says_its_spacing_and_that_its_unit_is_not_known(tmp_path):
    image = sitk.GetImageFromArray(DATA)
    image.SetSpacing((SPACING[::-1] / 1000).tolist())
    sitk.WriteImage(image, str(tmp_path / "a.h5"))
    with pytest.raises(
        InputError, match=r"ITK's Spacing \(0.003, 0.0015, 0.0007\).* if it is in mm, pass .* 3 1.5 0.7"
    ):
        open_volume(tmp_path / "a.h5")


def test_ome_xml_that_is_not_well_formed_is_told_by_bigreg_and_not_by_tifffile(tmp_path, caplog):
    tifffile.imwrite(tmp_path / "a.ome.tif", DATA, metadata={"axes": "ZYX", "Name": "XXNAMEXX"})
    content = (tmp_path / "a.ome.tif").read_bytes()
    (tmp_path / "a.ome.tif").write_bytes(content.replace(b"XXNAMEXX", b"A & B xx"))
    with caplog.at_level(logging.WARNING):
        volume = open_volume(tmp_path / "a.ome.tif", spacing=SPACING)
    assert np.array_equal(volume[:, :, :], DATA)
    assert {record.name for record in caplog.records} == {"bigreg.volumes.volume"}
    assert "OME-XML is not well formed" in caplog.text
