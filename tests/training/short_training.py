"""A training of minutes on a CPU, and what must have come of it."""

from __future__ import annotations

import time

import pytest
import torch

from bigreg.models import card_of, load
from bigreg.training.config import load_training
from bigreg.training.log import read
from bigreg.training.trainer import train

NETWORKS = {
    "sitreg": {"encoder": [8, 16, 16], "update": [12, 16, 16], "convs": 1, "finest": 1, "correlation": True},
    "invgan": {"width": 24, "correlation": True},
    "voxelmorph": {"correlation": True},
}


def settings(data_folder, out, name, more, steps):
    image = {"path": str(data_folder / "easifish" / "fix.n5"), "dataset": "lowres"}
    return {
        "network": {"name": name, "settings": NETWORKS[name]},
        "data": {"sources": [{"image": image}], "patch": 32},
        # Half-way: whole maps move up to three voxels, and 1.3 in the mean.
        "deformation": {"cells": [32], "largest": 1.5, "least": 0.3},
        "augment": {"both_orders": name != "sitreg"},
        "losses": [{"name": "supervised"}, {"name": "lncc", "weight": 0.5}, *more],
        "schedule": {"steps": steps, "batch": 1, "rate": 2e-3, "warmup": 10, "ema": 0.97},
        "validation": {"every": 1000, "patches": 6},
        "output": {"folder": str(out), "checkpoint": 1000, "licence": "BSD-3-Clause"},
        "seed": 1,
    }


def check_that_it_learns(data_folder, tmp_path, name, more, steps):
    """The error on what was held out is halved, nothing folds, and the weights are those of the last step."""
    begin = time.perf_counter()
    torch.set_num_threads(1)  # other tests have the other cores, and threads that wait for each other take longer
    path = train(load_training(settings(data_folder, tmp_path, name, more, steps)))
    first, last = (read(tmp_path / "validation.csv")[i] for i in (0, -1))
    print(
        f"{name}: {time.perf_counter() - begin:.0f} s, {first['error_voxels']:.2f} to {last['error_voxels']:.2f} voxels"
    )
    assert first["error_voxels"] == pytest.approx(first["start_voxels"], rel=0.02)
    assert last["error_voxels"] < 0.5 * last["start_voxels"]
    assert last["folds"] == 0
    network, card = load(path, name)
    assert card == card_of(path)
    assert card.figures["held_out_error_voxels"] == pytest.approx(last["error_voxels"])
    assert card.spacing.low == pytest.approx((1.68, 1.84, 1.84), rel=0.01)
    with torch.inference_mode():
        assert torch.isfinite(network(*torch.rand(2, 1, 1, 32, 32, 32)).to_fixed).all()
