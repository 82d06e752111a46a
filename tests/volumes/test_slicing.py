"""A Volume as an array: what numpy would pick, and no more is read."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from bigreg import open_volume

DATA = np.random.default_rng(0).integers(0, 60000, (7, 9, 11)).astype("u2")
KEYS = [
    np.s_[3], np.s_[-1], np.s_[1:4], np.s_[::2, 1:8:3], np.s_[..., 5], np.s_[2, ..., -3:], np.s_[2, 3, 4], np.s_[...],
    np.s_[5:2], np.s_[:, 8:99, np.int64(0)], np.s_[...,], np.s_[:, :, :],
]  # fmt: skip


@pytest.fixture(params=["array", "zarr"])
def volume(request, tmp_path):
    if request.param == "array":
        return open_volume(DATA, spacing=(4, 2, 1))
    zarr.create_array(tmp_path / "a.zarr", data=DATA, chunks=(4, 4, 4), dimension_names=["z", "y", "x"])
    return open_volume(tmp_path / "a.zarr", spacing=(4, 2, 1))


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_an_index_picks_what_numpy_picks(volume, key):
    found = volume[key]
    assert found.shape == DATA[key].shape and found.dtype == DATA.dtype and np.array_equal(found, DATA[key])


@pytest.mark.parametrize("key", [np.s_[7], np.s_[-8], np.s_[0, 0, 0, 0], np.s_[::-1], np.s_[[1, 2]], np.s_[True], None])
def test_what_is_no_box_is_refused(volume, key):
    with pytest.raises(IndexError):
        volume[key]


def test_numpy_and_dask_take_a_volume(volume):
    assert volume.spacing == (4.0, 2.0, 1.0) and volume.ndim == 3
    assert np.array_equal(np.asarray(volume), DATA) and np.asarray(volume, dtype="f4").dtype == np.float32
    lazy = volume.to_dask()
    assert lazy.shape == DATA.shape and lazy.dtype == DATA.dtype and lazy.name == volume.to_dask().name
    assert np.array_equal(lazy[1:6, ::2].compute(scheduler="sync"), DATA[1:6, ::2])
    assert lazy.mean().compute(scheduler="sync") == pytest.approx(DATA.mean())
    with pytest.raises(ValueError, match="without a copy"):
        np.array(volume, copy=False)


def test_only_what_is_asked_for_is_read(monkeypatch):
    volume, boxes = open_volume(DATA, spacing=(4, 2, 1)), []
    read = type(volume).read
    monkeypatch.setattr(type(volume), "read", lambda self, *box: boxes.append(box[:2]) or read(self, *box))
    volume[2, 3:5, -1]
    assert boxes == [((2, 3, 10), (3, 5, 11))]
