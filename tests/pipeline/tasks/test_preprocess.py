"""Corrections inside a run: what engines see, whatever the blocks, and what is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from bigreg import open_volume, register
from bigreg.errors import ConfigError, CorruptDataError
from bigreg.pipeline.context.context import Context
from bigreg.pipeline.planning.plan import make_plan
from bigreg.pipeline.store.damage import forget
from bigreg.pipeline.store.store import RunStore, Status
from bigreg.pipeline.tasks.preprocess import histogram, stripes

START = ["affine.voxels=32"]  # so coarse that the start is lost where light falls off
WANTED = [
    "preprocess.moving.bias_um=60",
    "preprocess.moving.clip=[0.5,99.95]",
    "preprocess.moving.stripes.along=x",
    "preprocess.moving.stripes.across=y",
    "preprocess.moving.stripes.width_um=26",
    "preprocess.fixed.background_um=100",
]


@pytest.fixture(scope="module")
def corrected(pair, small_config, thread_client, tmp_path_factory):
    """The small pair, its moving image dimmed along z and striped, registered with and without correction."""
    rng = np.random.default_rng(2)
    fall = np.exp(np.linspace(0, -2.0, pair.moving.shape[0]))[:, None, None]
    gain = np.exp(rng.uniform(-0.4, 0, (*pair.moving.shape[:2], 1)))
    dim = np.clip(pair.moving * fall * gain, 0, 65535).astype(np.uint16)
    folder = tmp_path_factory.mktemp("preprocess")
    runs = {}
    for name, changes in (("with", WANTED), ("without", ["affine.least_confidence=0"])):
        config = small_config("output.report=true", *START, *changes)
        images = (pair.fixed, pair.spacing), (dim, pair.spacing)
        runs[name] = register(*images, out=str(folder / name), config=config, client=thread_client)
    return runs, dim


def test_a_start_that_is_lost_where_light_falls_off_is_found(corrected, pair):
    grid = corrected[0]["with"]._context().frames.fixed
    index = np.argwhere(pair.mask)[::29]
    truth = pair.truth[(slice(None), *index.T)].T
    points = grid.index_to_world(index)
    error = {k: np.nanmean(np.linalg.norm(r.map_points(points) - truth, axis=1)) for k, r in corrected[0].items()}
    assert error["with"] < min(pair.spacing) < error["without"]


def test_what_is_written_is_not_corrected(corrected):
    run, dim = corrected[0]["with"], corrected[1]
    warped = run.store.array("warped", 0)
    assert warped.dtype == dim.dtype
    assert warped[...].max() > 0.7 * dim.max()


def test_engines_see_a_box_as_they_see_the_whole(corrected):
    context = corrected[0]["with"]._context()
    for which in ("fixed", "moving"):
        image = context.seen(which, (1, 1, 1))
        whole = image.read((0, 0, 0), image.grid.shape)
        box = slice(5, 31), slice(9, 40), slice(17, 50)
        part = image.read(tuple(s.start for s in box), tuple(s.stop for s in box))
        np.testing.assert_allclose(part, whole[box], rtol=1e-4, atol=1e-3)


def test_light_is_even_as_engines_see_it(corrected):
    context = corrected[0]["with"]._context()

    def fall(image):
        means = image.read((0, 0, 0), image.grid.shape).astype(float).mean((1, 2))
        return means[8:14].mean() / means[-14:-8].mean()

    stored, seen = fall(context.image("moving", (1, 1, 1))), fall(context.seen("moving", (1, 1, 1)))
    assert abs(np.log(seen)) < 0.35 * abs(np.log(stored))


def test_estimates_do_not_depend_on_the_blocks_of_stripes(
    corrected, pair, small_config, thread_client, tmp_path, monkeypatch
):
    from bigreg.pipeline.tasks import preprocess

    monkeypatch.setattr(preprocess, "BLOCK", 16)
    other = register(
        (pair.fixed, pair.spacing),
        (corrected[1], pair.spacing),
        out=str(tmp_path / "r"),
        config=small_config(*START, *WANTED),
        client=thread_client,
    )
    for name in ("preprocess/moving/stripes", "preprocess/moving/histograms", "transforms/fixed_to_moving/0"):
        a, b = (r.store.array(name)[...] for r in (other, corrected[0]["with"]))
        assert np.array_equal(a, b), name


def test_the_report_shows_each_image_before_and_after(corrected):
    with open(corrected[0]["with"].store.path("report", "index.html"), encoding="utf-8") as file:
        page = file.read()
    assert "Preprocessing, moving" in page and "Preprocessing, fixed" in page and "As compared" in page
    with open(corrected[0]["without"].store.path("report", "index.html"), encoding="utf-8") as file:
        assert "Preprocessing" not in file.read().split("Provenance")[0]


@pytest.mark.parametrize(
    "change",
    [
        ["preprocess.moving.clip=[5,2]"],
        ["preprocess.fixed.bias_um=-1"],
        ["preprocess.fixed.stripes.along=y", "preprocess.fixed.stripes.width_um=9"],
    ],
)
def test_what_makes_no_sense_is_refused(small_config, change):
    with pytest.raises(ConfigError, match="preprocess"):
        small_config(*change)


def test_context_of_a_run_without_corrections_reads_what_is_stored(corrected):
    run = corrected[0]["without"]
    context = Context(run.url, "test")
    assert context.seen("fixed", (1, 1, 1)) is context.image("fixed", (1, 1, 1))


ESTIMATED = ("stripes/moving", "histograms/moving", "histograms/fixed")


def test_what_is_estimated_is_foreseen_with_its_blocks_and_arrays(corrected, pair):
    run, dim = corrected[0]["with"], corrected[1]
    context = run._context()
    images = {
        name: open_volume(array, spacing=pair.spacing, name=name)
        for name, array in (("fixed", pair.fixed), ("moving", dim))
    }
    made = make_plan(context.frames, images, context.config)
    stored = {a.place: a for a in made.work.arrays}
    announced = {name: count for name, _, count in run.store.attributes["stages"]}
    for name in ESTIMATED:
        work = made.work.by_name[f"stages/{name}"]
        assert work.counts == run.store.array("stages", name, "status").shape
        assert announced[work.name] == work.blocks and work.bytes_read > 0
        what, which = name.split("/")
        array, expected = run.store.array("preprocess", which, what), stored[f"preprocess/{which}/{what}"]
        assert (array.shape, array.chunks, array.dtype.itemsize) == (expected.shape, expected.unit, expected.itemsize)
        assert work.bytes_written >= expected.bytes


@pytest.mark.parametrize("name", ESTIMATED)
def test_a_damaged_estimate_is_made_again(corrected, name, tmp_path):
    store = RunStore(shutil.copytree(corrected[0]["with"].url, tmp_path / "r"))
    what, which = name.split("/")
    chunk = max(Path(store.path("preprocess", which, what, "c")).rglob("[0-9]"), key=lambda p: len(p.parts))
    chunk.write_bytes(chunk.read_bytes()[:-3])
    array = store.array("preprocess", which, what)
    with pytest.raises(CorruptDataError) as caught:
        array[...]
    stage, blocks = forget(store, caught.value)
    assert stage == f"stages/{name}" and len(blocks) == 1
    assert store.array(stage, "status")[...][blocks[0]] == Status.TODO
    preprocess = {"stripes": stripes, "histograms": histogram}[what]
    preprocess(Context(store.url, "again"), which, blocks[0])
    assert np.array_equal(array[...], corrected[0]["with"].store.array("preprocess", which, what)[...])
