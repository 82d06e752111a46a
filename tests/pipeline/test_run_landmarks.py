"""Landmarks that a run keeps."""

from __future__ import annotations

import numpy as np
import pytest

import bigreg
from bigreg.pipeline.store.store import RunStore
from bigreg.transforms.landmarks import landmarks, read_landmarks


@pytest.mark.parametrize("place", ["memory://landmarks/run.zarr", None])
def test_pairs_are_kept_in_the_run_as_bigwarp_reads_them(tmp_path, place):
    url = place or str(tmp_path / "run.zarr")
    RunStore(url).create({"state": "planned", "images": {"fixed": None, "moving": None}})
    run = bigreg.open_run(url)
    assert len(run.landmarks()) == 0
    fixed = np.array([(1.0, 2.0, 3.0), (4.0, 5.0, 6.0)])
    path = run.save_landmarks(landmarks(fixed, fixed + 0.5, ["here", "there"], [True, False]))
    kept = bigreg.open_run(url).landmarks()
    assert kept.names == ("here", "there") and kept.active.tolist() == [True, False]
    np.testing.assert_allclose(kept.moving, fixed + 0.5)
    if place is None:
        assert read_landmarks(path).names == kept.names
    run.save_landmarks(landmarks(fixed[:0], fixed[:0]))
    assert len(run.landmarks()) == 0
