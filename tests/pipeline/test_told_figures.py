"""Figures as JSON: standard output holds nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest
from dask.utils import format_bytes
from rich.console import Console
from typer.testing import CliRunner

from bigreg import plan
from bigreg.cli import app
from bigreg.cli.app import out
from bigreg.display import comparison_tables, stages_table
from bigreg.pipeline.compare import compare_runs
from bigreg.quality.evaluation import sign


def said(*words):
    """(JSON on standard output, text on standard error) of a verb."""
    done = CliRunner().invoke(app, [str(w) for w in (*words, "--json")])
    assert done.exit_code == 0, done.output
    assert not out.stderr, "the next command prints as it always does"
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def run(registered):
    return registered.run


def test_a_run_and_its_report_have_the_same_figures(run):
    wanted = {(g, n): (v, u) for g, n, v, u, _ in run.summary()}
    for verb in ("resume", "report"):
        found, _ = said(verb, run.url)
        rows = {(f["group"], f["name"]): (f["value"], f["unit"]) for f in found["figures"]}
        assert rows.keys() == wanted.keys()
        value, unit = rows["regularity", "largest displacement, fixed_to_moving"]
        assert unit == "um" and value == pytest.approx(wanted["regularity", "largest displacement, fixed_to_moving"][0])
        assert found["run"] == run.url and found["verdict"]["level"] == run.verdict.level
        assert found["report"].endswith("index.html")


def test_what_is_said_otherwise_goes_to_standard_error(run):
    _, told = said("resume", run.url)
    assert "is finished already" in told


def test_an_evaluation(run, tmp_path):
    found, _ = said("evaluate", run.url, "--out", tmp_path / "here")
    names = {(f["group"], f["name"]) for f in found["figures"]}
    assert ("regularity", "seam ratio") in names and found["written_to"] == str(tmp_path / "here")
    assert found["verdict"]["level"] in ("good", "look", "bad")


def test_a_plan_of_images_to_come():
    words = ("plan", "--shape", 64, 64, 64, "--spacing", 2, "--preset", "rounds", "--simulate", 2)
    found, _ = said(*words)
    assert found["tasks"] == sum(s["blocks"] for s in found["stages"]) and found["memory_per_worker_bytes"] > 1e6
    assert sum(s["worker_seconds"] for s in found["stages"]) == pytest.approx(found["worker_seconds"])
    assert found["simulations"][0]["workers"] == 2


def test_points_and_images_are_counted(run, tmp_path):
    (tmp_path / "in.csv").write_text("z,y,x\n80,70,80\n0,-500,0\n")
    found, _ = said("points", run.url, tmp_path / "in.csv", tmp_path / "out.csv")
    assert (found["points"], found["outside_fixed"], found["outside_moving_only"]) == (2, 1, 0)
    image = run.store.path("inputs", "moving.ome.zarr")
    found, told = said("warp", run.url, image, tmp_path / "warped.tif")
    assert found["shape"] == list(run.fixed.shape) and found["dtype"] == str(run.moving.dtype)
    assert found["spacing_um"] == pytest.approx(run.fixed.spacing) and "image: " in told
    found, _ = said("convert", image, tmp_path / "copy.ome.zarr")
    assert found["shape"] == list(run.moving.shape) and found["levels"] >= 1


def test_status(run):
    found, _ = said("status", run.url)
    assert found["state"] == "finished" and found["seconds_left"] is None and found["held_by"] is None


@pytest.fixture(scope="module")
def changed(run, tmp_path_factory):
    """What `evaluate` says of the run, and of one whose figures are others, in folders of long names."""
    folder = tmp_path_factory.mktemp("compared")
    places = []
    for name, factor in (("a_name_that_is_rather_long", 1.0), ("another_one", 2.0)):
        place = folder / "runs" / name / "result"
        found = run.evaluate(out=str(place))
        rows = [(g, n, factor * v, u, note) for g, n, v, u, note in found.figures]
        type(found)(found.run, found.fixed, found.moving, rows).write(str(place))
        places.append(str(place))
    return places


def test_a_comparison_is_not_cut_at_80_columns(run, changed):
    found = compare_runs([run.url, run.url, *changed], aggregate=True)
    done = CliRunner().invoke(app, ["compare", run.url, run.url, *changed, "--aggregate"])
    assert done.exit_code == 0 and "…" not in done.stdout.replace(" … ", "")
    table = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    assert max(map(len, table)) <= 80
    titles = [f"{n}, {sign(u)}" if u else n for _, n, u, _ in found.figures]
    assert all(any(line.strip().startswith(t) for line in table) for t in titles)
    two = compare_runs(changed, aggregate=True)
    assert list(two.names) == ["a_name_that_is_rather_long", "another_one"]
    console = Console(width=80)
    with console.capture() as caught:
        for each in comparison_tables(two, 80):
            console.print(each)
    assert "another_one" in caught.get() and max(map(len, caught.get().splitlines())) <= 80


def test_a_comparison_concludes_and_shows_both_runs(run, tmp_path):
    found, _ = said("compare", run.url, run.url, "--out", tmp_path / "page")
    assert "no difference beyond 0" in found["conclusion"][0]
    assert found["paired"][0]["difference"] == 0 and found["runs"] == [run.url, run.url]
    page = (tmp_path / "page" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 4 and "no difference beyond 0" in page
    assert json.loads((tmp_path / "page" / "comparison.json").read_text())["conclusion"] == found["conclusion"]


def test_a_comparison_says_by_how_much_a_run_is_better(run):
    row = compare_runs([run.url, run.url]).paired[0]  # of whatever has been measured of it so far
    kinds = {"difference": 0.2, "low": 0.1, "high": 0.3, "mean": 0.9, "first_mean": 0.7, "holm": 0.01}
    kinds |= {"quantity": "local correlation", "unit": "", "more_is_better": True}
    better = type(row)(**{**vars(row), **kinds})
    assert "better by 0.2 (0.9 against 0.7" in better.conclusion
    assert "worse by 0.2 µm" in type(row)(**{**vars(better), "more_is_better": False, "unit": "um"}).conclusion
    assert "no difference beyond 0.3" in type(row)(**{**vars(better), "holm": 0.2}).conclusion
    assert "too few places" in type(row)(**{**vars(better), "low": np.nan, "high": np.nan}).conclusion


def test_the_tables_of_a_plan_are_not_cut_at_80_columns():
    foreseen = plan(shape=(9000, 9000, 9000), spacing=(2, 1, 1))
    console = Console(width=80)
    with console.capture() as caught:
        console.print(stages_table(foreseen, everything=True))
    text = caught.get()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    for stage in foreseen.stages:
        assert format_bytes(stage.bytes_read) in text and str(stage.blocks) in text
