"""What ImageJ itself says of the TIFF that bigreg writes, and bigreg of the one that ImageJ writes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bigreg.geometry import Grid
from bigreg.volumes import convert, create_image, open_volume

JAR = Path("/usr/share/java/ij.jar")  # of Debian's package imagej
SPACING = (1.84, 1.04, 0.65)
DATA = np.random.default_rng(0).integers(0, 60000, (2, 2, 5, 40, 48)).astype(np.uint16)  # t, c, z, y, x

pytestmark = pytest.mark.skipif(
    not (JAR.exists() and shutil.which("java") and shutil.which("xvfb-run")),
    reason="needs ImageJ and a screen: apt-get install imagej xvfb",
)

MACRO = """
files = split(getArgument(), ",");
open(files[0]);
getDimensions(width, height, channels, slices, frames);
getVoxelSize(dx, dy, dz, unit);
print("{\\"shape\\": [" + frames + "," + channels + "," + slices + "," + height + "," + width + "],");
print("\\"spacing\\": [" + d2s(dz, 6) + "," + d2s(dy, 6) + "," + d2s(dx, 6) + "], \\"unit\\": \\"" + unit + "\\",");
print("\\"bits\\": " + bitDepth() + ", \\"interval\\": " + Stack.getFrameInterval() + ",");
Stack.setPosition(2, 4, 1);
getStatistics(area, mean, min, max);
print("\\"value\\": " + getPixel(7, 11) + ", \\"label\\": \\"" + getInfo("slice.label") + "\\",");
print("\\"min\\": " + min + ", \\"max\\": " + max + "}");
saveAs("Tiff", files[1]);
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """(what ImageJ says of two channels at two times, the TIFF that it saved)."""
    folder = tmp_path_factory.mktemp("imagej")
    tiff, back = folder / "a.tif", folder / "back.tif"
    display = {"omero": {"channels": [{"label": "DAPI"}, {"label": "GFP"}]}, "time": {"step": 30.0, "unit": "second"}}
    writer = create_image(
        str(folder / "a.ome.zarr"), [Grid.from_spacing(DATA.shape[2:], SPACING)], "u2", name="a", channels=2, times=2,
        display=display,
    )  # fmt: skip
    writer.array(0).write((0,) * 5, DATA, partial=True)
    convert(folder / "a.ome.zarr", tiff)
    (folder / "ask.ijm").write_text(MACRO)
    command = ["xvfb-run", "-a", "java", "-jar", str(JAR), "-batch", "ask.ijm", f"{tiff},{back}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), back


def test_imagej_sees_the_axes_and_the_voxel_size(seen):
    said, _ = seen
    assert tuple(said["shape"]) == DATA.shape and said["bits"] == 16
    np.testing.assert_allclose(said["spacing"], SPACING, rtol=1e-5)
    assert said["unit"] == "µm" and said["interval"] == 30


def test_imagej_sees_each_voxel_in_its_channel_and_plane(seen):
    said, _ = seen
    plane = DATA[0, 1, 3]
    assert (said["value"], said["min"], said["max"]) == (plane[11, 7], plane.min(), plane.max())
    assert said["label"] == "GFP"


def test_what_imagej_saves_is_read_with_the_same_numbers(seen):
    _, back = seen
    for time in range(2):
        for channel in range(2):
            volume = open_volume(back, channel=channel, time=time)
            np.testing.assert_allclose(volume.grid().spacing, SPACING, rtol=1e-5)
            np.testing.assert_array_equal(volume.read((0, 0, 0), DATA.shape[2:]), DATA[time, channel])
