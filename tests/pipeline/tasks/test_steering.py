"""Pairs of landmarks put right what the images alone get wrong, and wrong ones do no harm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from bigreg import load_config, register
from bigreg.errors import ConfigError, InputError, OutputError
from bigreg.geometry import Lattice
from bigreg.pipeline.run import Run
from bigreg.pipeline.tasks.steering import Pulls
from bigreg.transforms.bspline import soft_bound
from bigreg.transforms.landmarks import write_bigwarp

SHAPE, SPACING = (27, 43, 45), np.array([16.0, 10.0, 10.0])
CONFIG = [
    "affine.kind=none", "blocks.core=24", "blocks.halo=8", "output.chunk=16", "output.shard=32", "output.warped=false",
    "ladder.finest=1", "ladder.coarsest=2", "ladder.iterations=[15,30]",
    "ladder.repeats=[1,2]",
]  # fmt: skip


def displaced(points):
    """Where points of fixed lie in moving: waves of 6 um, and a half that has slid by 60 um along the other."""
    slid = 60 / (1 + np.exp(-(points[:, 2] - 220) / 15))
    return points + 6 * np.sin(points[:, [1, 2, 0]] / 110) + slid[:, None] * (0, 1, 0)


@dataclass(frozen=True)
class Steered:
    """Errors (um) of every fixed voxel without and with the pairs, of which the last two are wrong by 200 um."""

    plain: np.ndarray
    steered: np.ndarray
    run: Run
    places: np.ndarray
    wrong: np.ndarray
    images: tuple
    config: list[str]


def phantom():
    """Fixed and moving: fine texture, which in the half that slid repeats itself after just as far."""
    rng = np.random.default_rng(5)
    once = ndimage.gaussian_filter(rng.standard_normal(SHAPE), (1.3, 2, 2))
    period = rng.standard_normal((SHAPE[0], 6, SHAPE[2]))
    period = ndimage.gaussian_filter(period, (1.3, 1.2, 2), mode=("reflect", "wrap", "reflect"))
    again = np.tile(period, (1, 8, 1))[:, : SHAPE[1]]
    places = np.indices(SHAPE).reshape(3, -1).T * SPACING
    slid = np.arange(SHAPE[2]) * SPACING[2] > 220
    moving = np.where(slid, again / again.std(), once / once.std())
    fixed = ndimage.map_coordinates(moving, (displaced(places) / SPACING).T, order=3, mode="nearest").reshape(SHAPE)
    scaled = [((image + 6) * 1000).clip(0, 60000).astype(np.uint16) for image in (fixed, moving)]
    return *((image, tuple(SPACING)) for image in scaled), places


def pairs():
    """20 right ones, set to within half a voxel, and two that are wrong by 200 um."""
    rng = np.random.default_rng(1)
    right = np.vstack(
        [rng.uniform((40, 40, 40), (380, 270, 400), (12, 3)), rng.uniform((40, 40, 260), (380, 270, 400), (8, 3))]
    )
    wrong = np.array([[300.0, 300.0, 100.0], [120.0, 100.0, 350.0]])
    off = np.array([[-120.0, -120.0, 105.0], [110.0, 130.0, -105.0]])
    moving = np.vstack([displaced(right) + rng.normal(0, 4, right.shape), displaced(wrong) + off])
    return np.vstack([right, wrong]), moving


@pytest.fixture(scope="module")
def steered(thread_client, tmp_path_factory):
    folder = tmp_path_factory.mktemp("steered")
    fixed, moving, places = phantom()
    inner = ((places > 40) & (places < SPACING * SHAPE - 50)).all(1) & (displaced(places)[:, 1] < 380)
    given = pairs()
    write_bigwarp(folder / "pairs.csv", *given)
    errors, config = [], [*CONFIG, f"landmarks.path={folder / 'pairs.csv'}"]
    for name, overrides in (("plain", CONFIG), ("steered", config)):
        run = register(
            fixed, moving, out=str(folder / f"{name}.zarr"), client=thread_client,
            config=load_config(preset="demo", overrides=overrides),
        )  # fmt: skip
        errors.append(np.linalg.norm(run.map_points(places[inner]) - displaced(places[inner]), axis=1))
    return Steered(*errors, run, places[inner], given[0][-2:], (fixed, moving), config)


def test_pairs_put_right_what_was_wrong(steered):
    near = steered.places[:, 2] > 280
    assert steered.plain[near].mean() > 20
    assert steered.steered[near].mean() < 0.3 * steered.plain[near].mean()


def test_two_wrong_pairs_among_twenty_make_nothing_worse(steered):
    worse = steered.steered - steered.plain
    voxel = SPACING.max()
    assert worse.max() < voxel and np.percentile(worse, 99) < 0.25 * voxel
    for place in steered.wrong:
        around = np.linalg.norm(steered.places - place, axis=1) < 60
        assert worse[around].max() < 0.5 * voxel


def test_wrong_pairs_lose_their_weight_on_every_level(steered):
    for level in steered.run._context().levels:
        weights = steered.run.store.array("levels", level, "landmarks", "pulls")[...][:, 6]
        assert weights[-2:].max() < 0.1
    assert steered.run.metrics()["levels/0/landmarks"]["used"][0, 0, 0] >= 16


def test_a_run_is_gone_on_with_only_by_the_same_pairs(steered, thread_client):
    again = {"out": steered.run.url, "client": thread_client}
    config = load_config(preset="demo", overrides=steered.config)
    assert register(*steered.images, config=config, **again).url == steered.run.url
    fixed, moving = pairs()
    path = Path(config.landmarks.path)
    kept = path.read_text()
    try:
        write_bigwarp(path, fixed, moving + 1)
        with pytest.raises(OutputError, match="other landmarks"):
            register(*steered.images, config=config, **again)
    finally:
        path.write_text(kept)


@pytest.mark.parametrize(
    ("fixed", "moving", "error"),
    [
        (pairs()[0] / 1000, pairs()[1] / 1000 - 50, "lie outside"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "no pairs"),
    ],
)  # fmt: skip
def test_pairs_that_cannot_be_meant_are_refused_before_any_work(tmp_path, fixed, moving, error):
    write_bigwarp(tmp_path / "pairs.csv", fixed, moving)
    image = (np.zeros(SHAPE, np.uint16), tuple(SPACING))
    config = load_config(preset="demo", overrides=[*CONFIG, f"landmarks.path={tmp_path / 'pairs.csv'}"])
    with pytest.raises(InputError, match=error):
        register(image, image, out=str(tmp_path / "run.zarr"), config=config)
    assert not (tmp_path / "run.zarr").exists()


def test_a_weight_must_be_positive():
    with pytest.raises(ConfigError, match="landmarks.weight"):
        load_config(overrides=["landmarks.weight=0"])


def test_exchanging_the_images_negates_what_pairs_ask_for():
    lattice = Lattice((6, 7, 8), (40.0, 30.0, 30.0), (-10.0, 0.0, 5.0), (2, 2, 2))
    pull = np.array([[60.0, 70.0, 100.0, 5.0, -40.0, 3.0, 1.0, 9.0], [180.0, 150.0, 50.0, 1.0, 2.0, 3.0, 0.5, 0.2]])
    other = pull * (1, 1, 1, -1, -1, -1, 1, 1)
    sums = []
    for each in (pull, other):
        total, weight = (torch.zeros(n, dtype=torch.float64) for n in ((3, *lattice.points), lattice.points))
        Pulls(lattice, each).add(total, weight, (0, 0, 0), soft_limit(lattice), soft_bound)
        sums.append((total.numpy(), weight.numpy()))
    assert np.array_equal(sums[0][0], -sums[1][0]) and np.array_equal(sums[0][1], sums[1][1])
    strongest = np.array(np.unravel_index(sums[0][1].argmax(), lattice.points))
    place = np.asarray(lattice.origin) + (strongest - 1.5) * lattice.spacing
    assert (np.abs(place - pull[0, :3]) <= np.array(lattice.spacing) / 2 + 1e-9).all()


def soft_limit(lattice):
    return torch.tensor(lattice.spacing, dtype=torch.float64).reshape(3, 1, 1, 1)


def test_pairs_that_steered_are_not_counted_as_held_out(steered, tmp_path):
    fixed, moving = pairs()
    write_bigwarp(tmp_path / "mixed.csv", np.vstack([fixed, fixed + 3.0]), np.vstack([moving, moving + 3.0]))
    found = steered.run.evaluate(landmarks=str(tmp_path / "mixed.csv"), out=str(tmp_path / "out"))
    assert [row["seen"] for row in found.landmarks] == [True] * len(fixed) + [False] * len(fixed)
