"""Pairs of points that a run finds by itself bridge large motion, and where there are none it goes on as without."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster
from scipy import ndimage

import bigreg
from bigreg import load_config, open_volume, register
from bigreg.pipeline.tasks import pairing
from bigreg.transforms.landmarks import read_pairs

SHAPE, PAD, SPACING = (24, 40, 48), (0, 10, 8), 2.0
CONFIG = [
    "affine.kind=none", "blocks.core=24", "blocks.halo=8", "output.chunk=16", "output.shard=32", "output.warped=false",
    "output.confidence=false", "output.report=false", "ladder.finest=2", "ladder.coarsest=2", "ladder.iterations=[10]",
    "ladder.repeats=[1]",
]  # fmt: skip
AUTO = ["landmarks.path=auto", "landmarks.spline=true"]
RESULTS = ("transforms/fixed_to_moving/0", "transforms/moving_to_fixed/0")


def displaced(points):
    """Where points of fixed (N, 3) um lie in moving: a dozen voxels off, and bent."""
    z, y, x = np.asarray(points).T
    return np.stack([z, y - 19 + 5 * np.sin(x / 18), x + 13 + 4 * np.sin(y / 16)], axis=1)


@pytest.fixture(scope="module")
def images():
    """Fixed, and moving that reaches further."""
    shape = tuple(n + 2 * p for n, p in zip(SHAPE, PAD, strict=True))
    texture = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(shape), 1.4)
    origin = -np.array(PAD) * SPACING
    places = np.indices(SHAPE).reshape(3, -1).T * SPACING
    index = (displaced(places) - origin) / SPACING
    fixed = ndimage.map_coordinates(texture, index.T, order=3, mode="nearest").reshape(SHAPE)
    scale = lambda image: (image / texture.std() * 3000 + 20000).astype(np.uint16)  # noqa: E731
    spacing = (SPACING,) * 3
    return open_volume(scale(fixed), spacing=spacing), open_volume(
        scale(texture), spacing=spacing, origin=tuple(origin)
    )


def begun(images, out, client, *overrides):
    return register(
        *images, out=str(out), client=client, config=load_config(preset="demo", overrides=[*CONFIG, *overrides])
    )


def error_of(run):
    """Mean error, voxels, away from the faces."""
    places = np.stack(np.meshgrid(*(np.arange(5, n - 5, 2) for n in SHAPE), indexing="ij"), -1).reshape(-1, 3) * SPACING
    found = run.map_points(places)
    return float(np.nanmean(np.linalg.norm(found - displaced(places), axis=1))) / SPACING


@pytest.fixture(scope="module")
def runs(images, thread_client, tmp_path_factory):
    """Without pairs, with them, and with the images exchanged."""
    folder = tmp_path_factory.mktemp("paired")
    return (
        begun(images, folder / "plain", thread_client),
        begun(images, folder / "auto", thread_client, *AUTO),
        begun(images[::-1], folder / "swapped", thread_client, *AUTO),
    )


def test_large_motion_is_bridged_without_landmarks(runs):
    plain, auto, _ = runs
    assert error_of(plain) > 4
    assert error_of(auto) < 0.5


def test_the_pairs_lie_where_the_tissue_went(runs):
    pairs = runs[1].found_landmarks()
    assert len(pairs) >= pairing.LEAST_PAIRS
    wrong = np.linalg.norm(displaced(pairs.fixed) - pairs.moving, axis=1) / SPACING
    assert np.median(wrong) < 0.3 and wrong.max() < 2


def test_exchanging_the_images_exchanges_the_ends(runs):
    there, back = (run.found_landmarks() for run in runs[1:])
    one, other = np.hstack([there.fixed, there.moving]), np.hstack([back.moving, back.fixed])
    assert one.shape == other.shape
    order = [np.lexsort(np.round(each, 3).T) for each in (one, other)]
    np.testing.assert_allclose(one[order[0]], other[order[1]], atol=1e-3)


def test_what_was_found_is_told_and_kept_as_a_file(runs):
    told = runs[1].status().pairs
    metrics = runs[1].metrics()[pairing.keep_name(pairing.PASSES - 1)]
    assert told["used"] == len(runs[1].found_landmarks()) == metrics["used"][0, 0, 0] <= told["found"]
    assert 20 < told["median_um"] <= told["largest_um"] < 40
    assert f"{told['used']} agree" in told["line"]
    fixed, moving = read_pairs(Path(runs[1].url) / "landmarks" / "found.csv")
    assert len(fixed) == told["used"] and np.allclose(moving, runs[1].found_landmarks().moving)
    assert runs[1].status().to_json()["pairs"] == told and runs[0].status().pairs is None
    page = Path(runs[1].report()).read_text(encoding="utf-8")
    assert "Pairs of points that the run found" in page and f"{told['used']} agree" in page


def test_several_blocks_share_the_work(runs):
    blocks = runs[1].metrics()[pairing.find_name(0)]["points"]
    assert blocks.size > 1 and (blocks > 0).all()


def test_any_number_of_workers_finds_the_same_bits(images, runs, tmp_path):
    with LocalCluster(
        n_workers=2, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster, Client(cluster, set_as_default=False) as client:  # fmt: skip
        again = begun(images, tmp_path / "again", client, *AUTO)
    assert_same(again, runs[1])


def assert_same(run, other):
    for name in ("landmarks/steering", *RESULTS):
        assert np.array_equal(run.store.array(name)[...], other.store.array(name)[...]), name


@pytest.mark.parametrize("lost", ["found/0", "kept/0", "found/2", "kept/2"])
def test_a_run_that_was_killed_or_damaged_goes_on_to_the_same_bits(images, runs, thread_client, tmp_path, lost):
    out = tmp_path / "run"
    shutil.copytree(runs[1].url, out)
    for place in ("levels", "transforms", "check", "stages/start", "stages/check"):
        shutil.rmtree(out / place)
    passes = [f"{kind}/{number}" for number in range(pairing.PASSES) for kind in ("found", "kept")]
    for place in passes[passes.index(lost) + 1 :]:
        shutil.rmtree(out / "landmarks" / place)
    if lost == "kept/2":  # it was writing the pairs
        shutil.rmtree(out / "landmarks" / lost)
        (out / "landmarks" / "steering" / "zarr.json").write_text("{")
    else:
        name = "pairs" if "found" in lost else "moving"
        chunk = next(p for p in sorted((out / "landmarks" / lost / name / "c").rglob("*")) if p.is_file())
        chunk.write_bytes(chunk.read_bytes()[:-20])
        shutil.rmtree(out / "landmarks" / "steering")
    run = bigreg.open_run(str(out))
    run.store.update(state="running", found_pairs=None)
    for place in out.glob("stages/*_to_*"):
        shutil.rmtree(place)
    assert_same(begun(images, out, thread_client, *AUTO), runs[1])


def test_every_stage_and_array_is_foreseen(images, runs):
    run = runs[1]
    foreseen = bigreg.plan(*images, config=run.config)
    counts = {stage.name: stage.counts for stage in foreseen.stages}
    for number in range(pairing.PASSES):
        for stage in pairing.stages(run._context().pair_grid, number):
            assert counts[stage.name] == stage.counts
            assert run.store.array(stage.name, "status").shape == stage.counts
    known = {a.place: a for a in foreseen.work.arrays}
    assert run.store.array("landmarks/steering").shape[0] <= known["landmarks/steering"].shape[0]
    for place in (*(f"{pairing.find_name(n)}/pairs" for n in range(3)), "landmarks/kept/0/fixed", "start/moving"):
        assert run.store.array(place).shape == known[place].shape
    assert "look for pairs of points, pass 1" in [stage.title for stage in foreseen.stages]


def test_images_with_nothing_in_common_are_registered_as_without_pairs(images, thread_client, tmp_path):
    rng = np.random.default_rng(9)
    noise = ndimage.gaussian_filter(rng.standard_normal(images[1].shape), 1.4)
    other = open_volume(
        (noise / noise.std() * 3000 + 20000).astype(np.uint16),
        spacing=(SPACING,) * 3,
        origin=tuple(-p * SPACING for p in PAD),
    )
    assert_goes_on_without((images[0], other), thread_client, tmp_path)


def test_images_without_texture_are_registered_as_without_pairs(images, thread_client, tmp_path):
    _, y, x = np.indices(SHAPE)
    ramp = open_volume((1000 + 100 * (x > 20) + 3 * y).astype(np.uint16), spacing=(SPACING,) * 3)
    assert_goes_on_without((ramp, ramp), thread_client, tmp_path)


def assert_goes_on_without(pair, client, folder):
    plain, auto = (begun(pair, folder / name, client, *more) for name, more in (("plain", []), ("auto", AUTO)))
    told = auto.status().pairs
    assert told["used"] == 0 and "continues without" in told["line"]
    assert len(auto.found_landmarks()) == 0
    for name in RESULTS:
        assert np.array_equal(plain.store.array(name)[...], auto.store.array(name)[...])


def test_a_texture_that_repeats_itself_is_not_taken_for_another_place(thread_client, tmp_path):
    from .test_steering import CONFIG as SLID
    from .test_steering import SHAPE as SLID_SHAPE
    from .test_steering import SPACING as SLID_SPACING
    from .test_steering import displaced as slid
    from .test_steering import phantom

    *pair, places = phantom()
    inner = ((places > 40) & (places < SLID_SPACING * SLID_SHAPE - 50)).all(1) & (slid(places)[:, 1] < 380)
    places = places[inner]
    errors = []
    for name, more in (("plain", []), ("auto", AUTO)):
        config = load_config(preset="demo", overrides=[*SLID, *more])
        run = register(*pair, out=str(tmp_path / name), client=thread_client, config=config)
        errors.append(np.linalg.norm(run.map_points(places) - slid(places), axis=1))
    print(f"slid phantom: {errors[0].mean():.2f} µm without, {errors[1].mean():.2f} µm with")
    assert errors[1].mean() <= 1.02 * errors[0].mean()
    still = places[:, 2] < 180
    assert errors[1][still].mean() <= errors[0][still].mean() + 0.05 * SLID_SPACING[1]
