"""The levels of a quick run: the coarse ones of the whole run, and small enough."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import bigreg
from bigreg import load_config
from bigreg.cli import app
from bigreg.errors import OutputError
from bigreg.geometry import Grid
from bigreg.phantom import make_pair
from bigreg.pipeline.context import ladder
from bigreg.pipeline.context.lying import provisional
from bigreg.pipeline.planning.plan import described


def levels(config, images):
    volumes = dict(zip(("fixed", "moving"), images, strict=True))
    return ladder.ladder(provisional(volumes["fixed"], volumes["moving"], None), config)


@given(st.lists(st.integers(40, 8000), min_size=3, max_size=3), st.sampled_from(bigreg.config.preset_names()))
@settings(max_examples=30, deadline=None)
def test_its_levels_are_the_coarse_ones_of_the_whole_run(shape, preset):
    config = load_config(preset=preset)
    images = described(shape=tuple(shape), spacing=(2.0, 1.0, 1.0))
    quick = ladder.quick(config, [image.grid() for image in images])
    assert math.log2(quick.ladder.finest / config.ladder.finest).is_integer()
    if quick.ladder.finest == config.ladder.finest:
        assert quick.ladder == config.ladder
    found, whole = levels(quick, images), levels(config, images)
    assert images[0].grid().voxels * 2 / np.prod(found[-1].spacing) <= ladder.QUICK_VOXELS
    told = [(level.downsample, level.iterations) for level in found]
    assert told == [(level.downsample, level.iterations) for level in whole][: len(told)]


def test_what_is_small_is_left_as_it_is_but_for_the_warped_image():
    config = load_config(preset="rounds")
    quick = ladder.quick(config, [Grid.from_spacing((40, 50, 60), (1.0,) * 3, (0.0,) * 3)])
    assert quick.ladder == config.ladder and not quick.output.warped


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    pair = make_pair((32, 56, 56), (4.0, 2.6, 2.6), seed=3, max_displacement_um=8.0)
    for name in ("fixed", "moving"):
        bigreg.convert(
            getattr(pair, name), str(tmp_path_factory.getbasetemp() / f"{name}.ome.zarr"), spacing=pair.spacing
        )
    return [str(tmp_path_factory.getbasetemp() / f"{name}.ome.zarr") for name in ("fixed", "moving")]


def test_a_quick_run_has_map_risk_and_report_and_is_no_part_of_the_long_one(
    images, tmp_path, monkeypatch, thread_client
):
    monkeypatch.setattr(ladder, "QUICK_VOXELS", 40_000)
    out = str(tmp_path / "run.zarr")
    config = load_config(preset="rounds", overrides=["affine.least_confidence=0"])
    run = bigreg.register(*images, out=out, config=config, quick=True, client=thread_client)
    assert run.config.ladder.finest == 2
    assert run.store.array("confidence", "0").shape == (4, 4, 4)  # tiles of 8 voxels of 4 x 5.2 x 5.2 um
    assert (tmp_path / "run.zarr" / "report" / "index.html").is_file()
    assert not (tmp_path / "run.zarr" / "warped").exists()
    assert np.isfinite(run.map_points([[60.0, 70.0, 70.0]])).all()
    with pytest.raises(OutputError, match=r"ladder\.finest"):
        bigreg.register(*images, out=out, config=config, client=thread_client)


def test_the_plan_of_a_quick_run_is_small():
    shape = ["--shape", "4000,3000,2000", "--spacing", "1,1,1", "--preset", "rounds"]
    done = CliRunner().invoke(app, ["plan", *shape, "--quick"])
    assert done.exit_code == 0, done.output
    assert "quick: ladder.finest=32, no warped image" in done.output


def test_the_plan_of_an_affine_is_that_of_a_run_without_deformation():
    shape = ["plan", "--shape", "400,300,200", "--spacing", "1,1,1", "--preset", "rounds", "--json"]
    affine, wanted, whole = (
        json.loads(CliRunner().invoke(app, [*shape, *more]).stdout)
        for more in (["--affine-only"], ["--set", "deformation=false"], [])
    )
    assert affine == wanted and affine["disk_bytes"] < 0.6 * whole["disk_bytes"]
