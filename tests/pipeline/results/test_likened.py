"""Images that are warped beside those that were registered: what they lack, and what differs."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import tifffile

from bigreg.errors import ConfigError, InputError, SpacingError
from bigreg.geometry import Grid
from bigreg.pipeline.chains import chain


def test_an_image_without_a_voxel_size_lies_as_the_one_of_its_shape(registered, tmp_path, caplog):
    plain = tmp_path / "other.tif"
    tifffile.imwrite(plain, registered.moving[0].astype("u2"))
    caplog.set_level(logging.WARNING)
    found = registered.run.warp(str(plain), out=str(tmp_path / "a"))
    said = registered.run.warp((registered.moving[0].astype("u2"), registered.moving[1]), out=str(tmp_path / "b"))
    assert np.array_equal(found.read((0, 0, 0), found.shape), said.read((0, 0, 0), said.shape))
    assert not caplog.records
    tifffile.imwrite(tmp_path / "less.tif", registered.moving[0][1:].astype("u2"))
    with pytest.raises(SpacingError, match="spacing is missing"):
        registered.run.warp(str(tmp_path / "less.tif"), out=str(tmp_path / "c"))


@pytest.mark.parametrize(
    ("spacing", "message"), [((2.6, 2.6, 4.0), "though both have the same shape"), ((4.0, 2.6, 2.65), None)]
)
def test_an_image_of_another_extent_is_warned_of(registered, tmp_path, caplog, spacing, message):
    registered.run.warp((registered.moving[0], spacing), out=str(tmp_path / "a"))
    told = [record.getMessage() for record in caplog.records]
    assert (told == []) if message is None else ("104 x 145.6 x 256 µm" in told[0] and message in told[0])


def test_an_image_that_lies_elsewhere_is_warned_of(registered, tmp_path, caplog):
    from bigreg import open_volume

    far = open_volume(registered.moving[0], spacing=registered.moving[1], origin=(0, 5000, 0))
    registered.run.warp(far, out=str(tmp_path / "a"))
    assert "outside the moving image" in caplog.records[0].getMessage()


def test_risk_is_that_of_the_tile_a_point_lies_in(registered, tmp_path):
    run = registered.run
    tiles = run.pyramid("risk")[0]
    values = tiles.read((0, 0, 0), tiles.grid.shape)
    index = np.array([[1, 2, 3], [0, 0, 0], [2, 1, 1]])
    points = tiles.grid.index_to_world(index + 0.3)
    np.testing.assert_array_equal(run.risk_at(points), values[tuple(index.T)])
    assert np.isnan(run.risk_at(np.array([[-1e4, 0, 0], [np.nan] * 3]))).all()
    np.savetxt(tmp_path / "in.csv", points, header="z,y,x", comments="", delimiter=",", fmt="%.6f")
    counts = run.map_file(tmp_path / "in.csv", tmp_path / "out.csv", inside=True, risk=True)
    table = np.genfromtxt(tmp_path / "out.csv", delimiter=",", names=True)
    np.testing.assert_allclose(table["risk"], values[tuple(index.T)], atol=1e-4)
    assert counts.beyond == int((table["inside"] == 0).sum()) - counts.outside
    back = run.inverse
    back.map_file(tmp_path / "in.csv", tmp_path / "same.csv", direction="moving_to_fixed", risk=True)
    same = np.genfromtxt(tmp_path / "same.csv", delimiter=",", names=True)
    np.testing.assert_array_equal(same["risk"], table["risk"])


def test_what_keeps_no_risk_says_so(registered, tmp_path):
    registered.run.export(str(tmp_path / "a.mat"))
    (tmp_path / "in.csv").write_text("z,y,x\n1,2,3\n")
    for other in (chain(str(tmp_path / "a.mat")), chain(registered.run, registered.run.inverse)):
        with pytest.raises(InputError, match="keeps no map of its risk"):
            other.map_file(tmp_path / "in.csv", tmp_path / "out.csv", risk=True)
    with pytest.raises(InputError, match="give it as onto"):
        chain(str(tmp_path / "a.mat")).map_file(tmp_path / "in.csv", tmp_path / "out.csv", inside=True)


def test_units_of_itk_are_checked_where_no_file_of_itk_is_read_too(registered, tmp_path):
    for wrong in ({"unit": "voxel"}, {"axes": "ras"}):
        with pytest.raises(ConfigError, match=next(iter(wrong.values()))):
            chain(registered.run, **wrong)
        with pytest.raises(ConfigError, match=next(iter(wrong.values()))):
            registered.run.export(str(tmp_path / "a.csv"), format="matrix", **wrong)
    assert isinstance(registered.run.map().source.grid, Grid)


def test_a_run_hands_out_its_images(registered):
    run = registered.run
    assert np.array_equal(np.asarray(run.fixed), registered.fixed[0])
    assert np.array_equal(run.moving[3], registered.moving[0][3])
    assert run.warped.grid() == run.fixed.grid() and run.warped[:].any()
    found = run.confidence[:]
    assert ((found >= 0) & (found <= 1) | np.isnan(found)).all()
