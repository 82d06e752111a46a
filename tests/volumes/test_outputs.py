"""Where `convert` writes: links are followed, and what cannot be put in place is found before anything is written."""

from __future__ import annotations

import os

import numpy as np
import pytest

from bigreg.errors import OutputError
from bigreg.storage import check_replaceable, new_file
from bigreg.volumes import convert, open_volume

from .ramps import SPACING, sampled

DATA = sampled((6, 8, 10))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_is_followed_and_stays(tmp_path, overwrite):
    (tmp_path / "scratch").mkdir()
    link = tmp_path / "home.ome.zarr"
    link.symlink_to(tmp_path / "scratch")
    if overwrite:
        (tmp_path / "scratch/old").write_text("old")
    convert(DATA, link, spacing=SPACING, overwrite=overwrite)
    assert link.is_symlink() and sorted(os.listdir(tmp_path)) == ["home.ome.zarr", "scratch"]
    assert not (tmp_path / "scratch/old").exists()
    np.testing.assert_array_equal(open_volume(link).read((0, 0, 0), DATA.shape), DATA)


def test_a_link_to_nothing_makes_what_it_names(tmp_path):
    link = tmp_path / "home.ome.zarr"
    link.symlink_to(tmp_path / "scratch" / "a.ome.zarr")
    (tmp_path / "scratch").mkdir()
    convert(DATA, link, spacing=SPACING)
    assert link.is_symlink() and open_volume(tmp_path / "scratch" / "a.ome.zarr").shape == DATA.shape


def test_what_cannot_be_renamed_is_found_before_the_first_voxel(tmp_path, monkeypatch):
    """A folder that is a mount point cannot be renamed: EBUSY, as the system says it."""
    target = tmp_path / "mount.ome.zarr"
    target.mkdir()
    rename = type(target).rename

    def busy(path, other):
        if path == target:
            raise OSError(16, "Device or resource busy")
        return rename(path, other)

    monkeypatch.setattr(type(target), "rename", busy)
    written = []
    with pytest.raises(OutputError, match="busy; choose a new folder inside it"):
        convert(DATA, target, spacing=SPACING, progress=lambda *step: written.append(step))
    assert not written and os.listdir(tmp_path) == ["mount.ome.zarr"]


def test_asking_leaves_everything_as_it_was(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a").write_text("a")
    (tmp_path / "empty").mkdir()
    for name in ("full", "empty", "new"):
        check_replaceable(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["empty", "full"] and (tmp_path / "full/a").read_text() == "a"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/a"):
        check_replaceable(tmp_path / "file" / "a")


def test_a_new_file_behind_a_link_is_written_where_the_link_points(tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    with new_file(tmp_path / "link.csv") as part:
        part.write_text("z,y,x")
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "real.csv").read_text() == "z,y,x"
