"""Folders of slices: their order by number, and no stack that is not one. Written by tifffile."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from bigreg.errors import CorruptDataError, InputError
from bigreg.volumes import open_volume

SPACING = (3.0, 1.5, 0.7)


def write(folder, names, shape=(5, 6)):
    """One slice a name, filled with its position in the list from 1 on."""
    folder.mkdir(exist_ok=True)
    for value, name in enumerate(names, 1):
        tifffile.imwrite(folder / name, np.full(shape, value, "u1"))
    return folder


def order(path, **keywords):
    volume = open_volume(path, spacing=SPACING, **keywords)
    return volume.read((0, 0, 0), volume.shape)[:, 0, 0].tolist()


@pytest.mark.parametrize(
    "names",
    [
        [f"s_{n}.tif" for n in range(8, 12)],
        [f"z_{n}.tif" for n in (-10, -9, -8)][::1] + [f"z_{n}.tif" for n in range(-7, 3)],
        ["z_-1.tif", "z_+0.tif", "z_+1.tif"],
        [f"img_-{n}.tif" for n in (10, 9, 8)],
        [f"brain 2 z=-{n:03}.tif" for n in (3, 2, 1)],
        ["s-1.tif", "s-2.tif", "s-3.tif"],
        ["p_0.5.tif", "p_1.0.tif", "p_1.5.tif", "p_2.0.tif"],
        ["scan1.9.tif", "scan1.10.tif", "scan1.11.tif"],
        ["img_001_20230105.tif", "img_002_20230107.tif", "img_003_20230108.tif"],
        ["100.tif", "105.tif", "110.tif"],
        ["S_1.TIF", "s_2.tif", "s_3.tiff"],
        ["a.tif", "b.tif", "c.tif"],
    ],
    ids=lambda names: names[0],
)
def test_slices_are_in_the_order_of_their_numbers(tmp_path, names):
    assert order(write(tmp_path / "a", names)) == list(range(1, len(names) + 1))


def test_hidden_files_are_no_slices(tmp_path):
    folder = write(tmp_path / "a", ["s_1.tif", "s_2.tif"])
    (folder / "._s_1.tif").write_bytes(b"\x00\x05\x16\x07" + bytes(4000))
    (folder / ".s_3.tif").write_bytes(b"")
    assert order(folder) == [1, 2]
    assert order(f"{folder}/*.tif") == [1, 2]


CHANNELS = [f"brain_c{c}_z{z:03}.tif" for c in (1, 3) for z in range(4)]


def test_channels_in_the_names_are_asked_for(tmp_path):
    folder = write(tmp_path / "a", CHANNELS)
    with pytest.raises(InputError, match=r"two|2 running numbers") as caught:
        open_volume(folder, spacing=SPACING)
    assert "open_volume's channel" in str(caught.value) and str(folder / "brain_c1_z*.tif") in str(caught.value)
    volume = open_volume(folder, spacing=SPACING, channel=1)
    assert volume.channels == 2 and volume.shape == (4, 5, 6)
    assert order(folder, channel=1) == [5, 6, 7, 8] and order(folder, channel=0) == [1, 2, 3, 4]
    with pytest.raises(InputError, match="out of range"):
        open_volume(folder, spacing=SPACING, channel=2)
    assert order(str(folder / "brain_c3_z*.tif")) == [5, 6, 7, 8]


def test_other_running_numbers_are_refused_with_the_glob_to_type(tmp_path):
    folder = write(tmp_path / "a", [f"tile_{t:02}_{z:04}.tif" for t in (1, 2) for z in range(3)])
    with pytest.raises(InputError, match="running numbers") as caught:
        open_volume(folder, spacing=SPACING)
    assert str(folder / "tile_01_*.tif") in str(caught.value) and "open_volume's channel" not in str(caught.value)
    assert order(str(folder / "tile_01_*.tif")) == [1, 2, 3]


def test_channels_by_words_are_refused_with_the_glob_to_type(tmp_path):
    folder = write(tmp_path / "a", [f"{word}_{z}.tif" for word in ("red", "green") for z in range(3)])
    with pytest.raises(InputError, match=r"'red_\*.tif' \(3\)"):
        open_volume(folder, spacing=SPACING)


@pytest.mark.parametrize(
    ("numbers", "named"), [((1, 2, 4, 5), "number 3;"), ((0, 10, 40, 50), "20 to 30"), ((-1, 0, 2), "number 1;")]
)
def test_gaps_are_named(tmp_path, numbers, named):
    folder = write(tmp_path / "a", [f"s_{n}.tif" for n in numbers])
    with pytest.raises(InputError, match=named):
        open_volume(folder, spacing=SPACING)


def test_a_number_that_is_there_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="twice"):
        open_volume(write(tmp_path / "a", ["s_1.tif", "s_01.tif", "s_2.tif"]), spacing=SPACING)


def test_slices_of_mixed_sizes_are_refused(tmp_path):
    folder = write(tmp_path / "a", ["s_1.tif", "s_2.tif"])
    tifffile.imwrite(folder / "s_3.tif", np.zeros((5, 7), "u1"))
    with pytest.raises(InputError, match=r"s_3.tif' has shape \(5, 7\)"):
        open_volume(folder, spacing=SPACING)


def test_a_slice_that_is_no_tiff_is_called_damaged(tmp_path):
    folder = write(tmp_path / "a", ["s_1.tif", "s_2.tif"])
    (folder / "s_3.tif").write_bytes(b"not a TIFF at all")
    with pytest.raises(CorruptDataError, match="s_3.tif"):
        open_volume(folder, spacing=SPACING)


@pytest.mark.parametrize("name", ["slices [488]", "what?", "a*b", "two  words", "Größe µm", "100% [1-3] {a,b}"])
def test_what_exists_is_taken_as_it_is(tmp_path, name):
    folder = write(tmp_path / name, ["s_1.tif", "s_2.tif", "s_3.tif"])
    assert order(folder) == order(f"{folder}/s_*.tif") == [1, 2, 3]
    stack = np.arange(24, dtype="u1").reshape(2, 3, 4)
    tifffile.imwrite(folder / f"{name}.tif", stack, photometric="minisblack")
    volume = open_volume(folder / f"{name}.tif", spacing=SPACING)
    np.testing.assert_array_equal(volume.read((0, 0, 0), (2, 3, 4)), stack)


def test_accents_are_found_composed_or_decomposed(tmp_path):
    composed, decomposed = "Gr\u00f6\u00dfe.tif", "Gro\u0308\u00dfe.tif"
    tifffile.imwrite(tmp_path / decomposed, np.zeros((2, 3, 4), "u1"), photometric="minisblack")
    assert open_volume(tmp_path / composed, spacing=SPACING).shape == (2, 3, 4)
