"""Small pairs with a known answer, and clusters to run them on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from distributed import Client, LocalCluster

from bigreg import load_config, register
from bigreg.config import Config
from bigreg.phantom import make_pair
from bigreg.pipeline.run import Run

SMALL = [
    "affine.voxels=64",  # a start that convinces at once: far fewer are looked at than with copies of 32 voxels
    "affine.rotations_deg=0",
    "blocks.core=32",  # two blocks along each axis; of 24 voxels there would be twice as many, most of them halo
    "blocks.halo=8",
    "output.chunk=16",
    "output.shard=32",
    "output.report=false",
]


def _small_config(*overrides):
    """The demo preset cut to a pair of 40 x 56 x 64 voxels: several blocks on each level."""
    return load_config(preset="demo", overrides=[*SMALL, "ladder.finest=1", "ladder.coarsest=2", *overrides])


@pytest.fixture(scope="session")
def small_config():
    return _small_config


@pytest.fixture(scope="session")
def pair():
    return make_pair((40, 56, 64), (4.0, 2.6, 2.6), seed=3, max_displacement_um=7.0)


@pytest.fixture(scope="session")
def thread_client():
    """One worker in this process: quick to start, easy to look into."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster, Client(cluster, set_as_default=False) as client:  # fmt: skip
        yield client


@dataclass(frozen=True)
class Registered:
    run: Run
    fixed: tuple
    moving: tuple
    config: Config


@pytest.fixture(scope="session")
def registered(pair, thread_client, tmp_path_factory):
    """A finished run of the small pair, with its report."""
    fixed, moving = (pair.fixed, pair.spacing), (pair.moving, pair.spacing)
    out = str(tmp_path_factory.mktemp("run") / "run.zarr")
    config = _small_config("output.report=true")
    return Registered(register(fixed, moving, out=out, config=config, client=thread_client), fixed, moving, config)


RESULTS = ("transforms/fixed_to_moving/0", "transforms/moving_to_fixed/0", "warped/0", "levels/0/velocity",
           "sigma/0")  # fmt: skip


@pytest.fixture(scope="session")
def same_bits():
    """Whether two runs hold the same fields, velocities, sigma and warped image, bit for bit.

    but   those that one of them leaves out
    """

    def compare(a: Run, b: Run, but: tuple[str, ...] = ()) -> bool:
        return all(
            np.array_equal(a.store.array(name)[...], b.store.array(name)[...], equal_nan=name == "sigma/0")
            for name in RESULTS
            if name not in but
        )

    return compare
