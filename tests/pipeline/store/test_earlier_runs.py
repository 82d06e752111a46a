"""Runs that earlier versions wrote, opened by this one: see runs/make.py, which each release runs once."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.version import Version
from typer.testing import CliRunner

import bigreg
from bigreg.cli import app
from bigreg.errors import InputError
from bigreg.pipeline.store.store import FORMAT

KEPT = sorted((Path(__file__).parent / "runs").glob("*.json"))


@dataclass(frozen=True)
class Earlier:
    name: str
    folder: Path
    known: dict[str, Any]

    @property
    def path(self) -> str:
        return str(self.folder / "moved here.zarr")

    @property
    def run(self) -> bigreg.Run:
        return bigreg.open_run(self.path)


@pytest.fixture(scope="module", params=KEPT, ids=[path.stem for path in KEPT])
def earlier(request, tmp_path_factory):
    """A run as it was kept, elsewhere than where it was made."""
    folder = tmp_path_factory.mktemp("earlier")
    found = Earlier(request.param.stem, folder, json.loads(request.param.read_text(encoding="utf-8")))
    with zipfile.ZipFile(request.param.with_suffix(".zip")) as packed:
        packed.extractall(found.path)  # which leaves out drive letters, leading slashes and ".."
    return found


def cli(*arguments):
    done = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_run_of_each_release_is_kept():
    names, own = [path.stem for path in KEPT], Version(version("bigreg"))
    assert own.is_devrelease or str(own) in names, f"python tests/pipeline/store/runs/make.py {own}"
    known = [json.loads(path.read_text()) for path in KEPT]
    assert FORMAT in [one["format"] for one in known] and len(names) > 1
    assert any({"sigma_at", "noncorrespondence_at"} <= set(one) for one in known)  # what is kept beside the map


@pytest.mark.parametrize("direction", ["fixed_to_moving", "moving_to_fixed"])
def test_its_map_carries_points_to_where_it_did(earlier, direction):
    found = earlier.run.map_points(np.array(earlier.known["points"]), direction)
    np.testing.assert_allclose(found, earlier.known[direction], atol=1e-3)
    assert np.isfinite(found).sum() > 30 and np.abs(found - earlier.known["points"]).max() > 3
    np.testing.assert_allclose(earlier.run.affine, earlier.known["affine"])


def test_its_state_is_the_one_it_had(earlier):
    state = json.loads(cli("status", earlier.path, "--json"))
    assert state["state"] == "finished" and state["run"] == earlier.path
    assert ("blocks", "failed") in {row[:2] for row in earlier.run.summary()}


JUDGED = {"format-2-first": "good"}
"""By name, runs whose version knew no verdict, and what this one says of the figures that they kept."""


def test_its_verdict_is_the_one_it_had_or_follows_from_its_figures(earlier):
    kept = earlier.known["verdict"]
    assert (kept is None) == (earlier.name in JUDGED)
    assert earlier.run.verdict.level == (JUDGED[earlier.name] if kept is None else kept)


@pytest.mark.parametrize("name", ["sigma_at", "noncorrespondence_at"])
def test_what_else_it_says_of_points_is_what_it_said(earlier, name):
    points = np.array(earlier.known["points"])
    if name in earlier.known:
        found = getattr(earlier.run, name)(points)
        np.testing.assert_allclose(found, np.array(earlier.known[name], float), rtol=1e-3)
        assert np.isfinite(found).all()
    else:
        with pytest.raises(InputError, match="an earlier version of bigreg began it"):
            getattr(earlier.run, name)(points)


def test_its_images_are_found_and_its_warped_one_is_made_again(earlier):
    stored = np.ascontiguousarray(earlier.run.store.array("warped", "0")[...])
    assert str(stored.dtype) == earlier.known["warped"]["dtype"]
    assert hashlib.sha256(stored).hexdigest() == earlier.known["warped"]["sha256"]
    again = earlier.run.warp(earlier.run.frame_image("moving"), out=str(earlier.folder / "again.ome.zarr"))
    values = again.read((0, 0, 0), again.shape)
    assert stored.std() > 50 and np.abs(values.astype(int) - stored).max() <= 1


def test_resume_says_that_it_is_finished_and_leaves_it_as_it_is(earlier):
    before = (Path(earlier.path) / "zarr.json").read_bytes()
    assert "is finished already" in cli("resume", earlier.path)
    assert (Path(earlier.path) / "zarr.json").read_bytes() == before


def test_its_map_is_exported(earlier):
    out = str(earlier.folder / "map.h5")
    cli("export", earlier.path, out)
    fixed, moving = (earlier.run.frame_image(which) for which in ("fixed", "moving"))
    again = bigreg.chain(out, fixed=fixed, moving=moving).map_points(np.array(earlier.known["points"]))
    np.testing.assert_allclose(again, earlier.known["fixed_to_moving"], atol=0.02)


def test_its_report_and_figure_are_drawn(earlier):
    page, picture, said = cli("report", earlier.path, "--figure", earlier.folder / "map.png").splitlines()[:3]
    assert Path(page).stat().st_size > 100_000 and Path(picture).stat().st_size > 50_000
    assert said.startswith(("similarity", "verdict"))


def test_a_run_of_another_format_is_refused_by_name(earlier, tmp_path):
    data = json.loads((Path(earlier.path) / "zarr.json").read_text())
    data["attributes"]["bigreg"]["format"] = FORMAT + 1
    (tmp_path / "later.zarr").mkdir()
    (tmp_path / "later.zarr" / "zarr.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=f"run format {FORMAT + 1}, this bigreg reads {FORMAT}; open it with bigreg 0"):
        bigreg.open_run(str(tmp_path / "later.zarr"))
