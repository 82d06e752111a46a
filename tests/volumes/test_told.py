"""What was understood of an image is told in one line."""

import nibabel
import numpy as np
import pytest
import tifffile

from bigreg import open_volume
from bigreg.volumes import convert
from bigreg.volumes.told import understood


def line(known):
    return known["line"]


IMAGE = np.arange(8 * 10 * 12, dtype=np.uint16).reshape(8, 10, 12)


def test_ome_zarr(tmp_path):
    convert(IMAGE, tmp_path / "a.ome.zarr", spacing=(5.0, 2.0, 2.5), orientation="psl")
    known = open_volume(tmp_path / "a.ome.zarr").understood
    assert known["extent_um"] == [40.0, 20.0, 30.0] and known["levels"] == 1
    assert line(known) == (
        "8 x 10 x 12 voxels of 5 x 2 x 2.5 µm (from coordinateTransformations), 40 x 20 x 30 µm, orientation psl "
        "(from the file), uint16, 1 channel, 1 level, sharded blosc"
    )


def test_channels_of_an_imagej_stack(tmp_path):
    data = np.stack([IMAGE, IMAGE], 1)  # z c y x
    known = {"axes": "ZCYX", "spacing": 3.0, "unit": "um"}
    tifffile.imwrite(tmp_path / "a.tif", data, imagej=True, resolution=(0.5, 0.5), metadata=known)
    text = line(open_volume(tmp_path / "a.tif", channel=1).understood)
    assert text.startswith("8 x 10 x 12 voxels of 3 x 2 x 2 µm (from ")
    assert "2 channels" in understood(open_volume(tmp_path / "a.tif"), every=True)["line"]
    assert "channel 1 (of 2, counted from 0)" in text and "not compressed" in text and "orientation not stated" in text


def test_what_is_given_is_told_as_given(tmp_path):
    image = nibabel.Nifti1Image(IMAGE.T.astype(np.int16), np.diag([0.002, 0.002, 0.003, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "a.nii.gz")
    volume = open_volume(tmp_path / "a.nii.gz")
    assert "(from its affine)" in line(volume.understood) and line(volume.understood).endswith("1 level, gzip")
    given = open_volume(tmp_path / "a.nii.gz", spacing=(4.0, 4.0, 4.0), orientation="asr")
    assert "4 x 4 x 4 µm (given)" in line(given.understood) and "orientation asr (given)" in line(given.understood)


@pytest.mark.parametrize(("spacing", "said"), [(0.01, "80 x 100 x 120 nm"), (300.0, "2.4 x 3 x 3.6 mm")])
def test_the_extent_is_told_in_a_fitting_unit(spacing, said):
    assert said in line(open_volume(IMAGE, spacing=(spacing,) * 3).understood)
