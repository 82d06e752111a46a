"""Whole runs with the regularisers of `optimise`: the known map is found, and nothing folds after blending."""

from __future__ import annotations

import numpy as np
import pytest

from bigreg import register
from bigreg.quality.metrics import min_jacobian, target_registration_error
from bigreg.transforms import ngff

SETTINGS = [
    ("regulariser=elastic", "elastic_volume=4.0"),
    ("regulariser=bending",),
]


@pytest.mark.parametrize("settings", SETTINGS, ids="-".join)
def test_a_run_finds_the_known_map_and_does_not_fold(settings, pair, small_config, thread_client, tmp_path):
    config = small_config(*(f"engine_options.optimise.{setting}" for setting in settings))
    fixed, moving = (pair.fixed, pair.spacing), (pair.moving, pair.spacing)
    run = register(fixed, moving, out=str(tmp_path / "run.zarr"), config=config, client=thread_client)
    index = np.argwhere(pair.mask)[::3]
    points, truth = index * np.asarray(pair.spacing), pair.truth[:, *index.T].T.astype(float)
    error, before = (target_registration_error(places, truth) for places in (run.map_points(points), points))
    assert error.missing == 0
    assert error.mean < 0.5 * min(pair.spacing) < before.mean
    for direction in ("fixed_to_moving", "moving_to_fixed"):
        reader = ngff.FieldReader(run.store.path("transforms", direction))
        grid = reader.grids[0]
        assert min_jacobian(reader.read(0, (0, 0, 0), grid.shape), grid.spacing).min() > 0
