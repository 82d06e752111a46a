"""Small images and configurations for the tests of training."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from scipy import ndimage

from bigreg.training.config import load_training


def textured(shape, seed=0, sigma=1.5):
    """A smooth random image, about 0 .. 1000, uint16."""
    image = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    image = (image - image.min()) / (image.max() - image.min())
    return (1000 * image).astype(np.uint16)


@pytest.fixture(scope="session")
def volume(tmp_path_factory):
    """A chunked image of (40, 44, 72) voxels of 3 x 2 x 2 um on disk."""
    path = tmp_path_factory.mktemp("image") / "image.zarr"
    array = zarr.create_array(str(path), shape=(40, 44, 72), chunks=(16, 16, 16), dtype="uint16")
    array[:] = textured((40, 44, 72))
    return str(path)


@pytest.fixture
def settings(volume, tmp_path):
    """The smallest training of one image, as a dict."""
    return {
        "network": {"name": "voxelmorph"},
        "data": {
            "sources": [{"image": {"path": volume, "spacing": [3.0, 2.0, 2.0]}}],
            "patch": 16,
            "held_out": 0.35,
        },
        "deformation": {"cells": [8, 16], "largest": 1.5},
        "losses": [{"name": "supervised"}],
        "schedule": {"steps": 6, "batch": 2, "rate": 1e-3, "ema": 0.9},
        "validation": {"every": 50, "patches": 2, "border": 2},
        "output": {"folder": str(tmp_path / "out"), "checkpoint": 2},
        "readers": 1,
    }


@pytest.fixture
def training(settings):
    return load_training(settings)
