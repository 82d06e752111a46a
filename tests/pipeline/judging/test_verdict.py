"""The verdict of whole runs, and that every channel tells it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import bigreg
from bigreg import load_config, open_run, register
from bigreg.cli import app
from bigreg.errors import InputError
from bigreg.phantom import make_pair
from bigreg.pipeline.store.store import RunStore

SPACING = (4.0, 2.6, 2.6)
SETTINGS = [
    "affine.voxels=64", "affine.rotations_deg=0", "blocks.core=40", "blocks.halo=8", "output.chunk=16",
    "output.shard=64", "output.report=false", "output.confidence=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def small():
    return make_pair((24, 40, 40), SPACING, seed=5, max_displacement_um=5.0)


@pytest.fixture(scope="module")
def run_of(thread_client, tmp_path_factory):
    """Register two arrays."""

    def make(fixed, moving, *settings) -> bigreg.Run:
        out = str(tmp_path_factory.mktemp("verdict") / "run.zarr")
        config = load_config(preset="rounds", overrides=[*SETTINGS, "ladder.coarsest=1", *settings])
        return register((fixed, SPACING), (moving, SPACING), out=out, config=config, client=thread_client)

    return make


@pytest.fixture(scope="module")
def of_noise(run_of):
    """Two images that have nothing in common, registered all the same: the affine is taken as it is."""
    fixed, moving = (np.random.default_rng(s).integers(0, 1000, (24, 40, 40), "u2") for s in (1, 2))
    return run_of(fixed, moving, "affine.kind=none")


def last_lines(output: str, verdict) -> bool:
    return output.rstrip().endswith("\n".join(verdict.lines))


def test_bright_against_dark_by_mutual_information_is_not_bad(run_of, small):
    top = int(small.moving.max())
    run = run_of(
        small.fixed, (top - small.moving).astype("u2"), "affine.similarity=mi", "engine_options.optimise.similarity=mi"
    )
    assert run.verdict.level != "bad"
    assert "mutual information" in run.verdict.similarity
    figures = {name: value for group, name, value, *_ in run.summary() if group == "similarity"}
    assert figures["NCC after the deformation"] < figures["NCC before registration"] < 0
    assert figures["mutual information after the deformation"] > figures["mutual information before registration"]


def test_aligned_already_and_noisy_is_not_bad(run_of, small):
    sd = 0.1 * np.percentile(small.fixed, 99.9)
    fixed, moving = (
        np.clip(small.fixed + sd * np.random.default_rng(s).standard_normal(small.fixed.shape), 0, 65535).astype("u2")
        for s in (1, 2)
    )
    verdict = run_of(fixed, moving).verdict
    assert verdict.level != "bad" and not any("agree less" in reason for reason in verdict.reasons)


@pytest.mark.parametrize("edge", [8, 16])
def test_a_tiny_volume_is_not_bad(run_of, small, edge):
    cut = (slice(8, 8 + edge) if edge == 8 else slice(4, 20), slice(12, 12 + edge), slice(12, 12 + edge))
    image = small.fixed[cut]
    assert run_of(image, image).verdict.level != "bad"


def test_noise_against_noise_is_not_good(of_noise):
    assert of_noise.verdict.level != "good"


def test_the_exit_status_tells_a_verdict_to_fail_on(of_noise, registered):
    done = CliRunner().invoke(app, ["resume", of_noise.url, "--fail-on", "look"])
    assert done.exit_code == 11 and "--fail-on look" in done.output
    assert CliRunner().invoke(app, ["resume", of_noise.url]).exit_code == 0
    assert CliRunner().invoke(app, ["resume", registered.run.url, "--fail-on", "bad"]).exit_code == 0


def test_status_tells_everything_as_json_and_needs_no_torch(of_noise):
    code = (
        "import sys; from bigreg.cli import app; app(['status', sys.argv[1], '--json'], standalone_mode=False); "
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, of_noise.url], capture_output=True, text=True)
    assert done.stderr.strip() == "False", done.stderr
    data = json.loads(done.stdout)
    assert data["state"] == "finished" and data["errors"] == []
    assert data["blocks"]["total"] == data["blocks"]["done"] + data["blocks"]["blank"] > 0
    assert {"levels/0", "stages/likeness"} <= {stage["name"] for stage in data["stages"]}
    assert data["verdict"]["level"] == of_noise.verdict.level != "good"
    assert data["verdict"]["reasons"] == list(of_noise.verdict.reasons)


def test_a_run_that_is_not_finished_has_no_verdict(tmp_path):
    store = RunStore(str(tmp_path / "run.zarr"))
    store.create({"state": "planned", "updated": 0.0})
    with pytest.raises(InputError, match="is not finished, so it has no verdict"):
        open_run(store.url).verdict  # noqa: B018
    data = json.loads(CliRunner().invoke(app, ["status", store.url, "--json"]).output)
    assert data["state"] == "planned" and data["verdict"] is None


def test_every_verb_ends_with_the_verdict(registered):
    url, verdict = registered.run.url, registered.run.verdict
    assert verdict.level == "good"
    for verb in ("resume", "status", "report"):
        done = CliRunner().invoke(app, [verb, url])
        assert done.exit_code == 0 and last_lines(done.output, open_run(url).verdict), verb
    page = (Path(url) / "report" / "index.html").read_text(encoding="utf-8")
    assert page.index(verdict.headline) < page.index("<img")


def test_what_the_start_is_unsure_of_is_in_the_verdict(registered, tmp_path):
    """As a start writes it: `details.confidence` and `details.warnings` of the group `affine`."""
    import shutil

    from bigreg import storage

    url = str(tmp_path / "run.zarr")
    shutil.copytree(registered.run.url, url)
    found = storage.read_attributes(f"{url}/affine")
    found["bigreg"]["details"] |= {"confidence": 0.1, "warnings": ["left and right cannot be determined"]}
    storage.write_attributes(f"{url}/affine", found)
    open_run(url).report()
    verdict = open_run(url).verdict
    assert verdict.level == "look"
    assert any("confidence 0.10" in r for r in verdict.reasons)
    assert any("left and right cannot be determined" in r for r in verdict.reasons)


@pytest.fixture(scope="module")
def pairs(pair):
    """Pairs on the true map that lie well within both images, um: (N, 3) fixed, moving."""
    top = (np.array(pair.fixed.shape) - 1) * pair.spacing
    both = np.concatenate([pair.cells_fixed, pair.cells_moving], axis=1)
    inside = ((both > 0.1 * np.tile(top, 2)) & (both < 0.9 * np.tile(top, 2))).all(1)
    return pair.cells_fixed[inside][:40], pair.cells_moving[inside][:40]


def written(folder, fixed, moving) -> str:
    names = [f"{which}_{axis}" for which in ("fixed", "moving") for axis in "zyx"]
    rows, path = np.concatenate([fixed, moving], axis=1), folder / "pairs.csv"
    np.savetxt(path, rows, delimiter=",", header=",".join(names), comments="")
    return str(path)


def test_exchanged_pairs_that_steer_a_run_are_named(run_of, pair, pairs, tmp_path):
    fixed, moving = pairs
    run = run_of(pair.fixed, pair.moving, f"landmarks.path={written(tmp_path, moving[:12], fixed[:12])}")
    told = [reason for reason in run.verdict.reasons if "that steer the run contradict the images" in reason]
    assert len(told) == 1 and "with fixed and moving exchanged" in told[0] and run.verdict.level == "look"


READINGS = {
    "right": (lambda f, m: (f, m), None),
    "exchanged": (lambda f, m: (m, f), "with fixed and moving exchanged"),
    "voxels": (lambda f, m: (f / SPACING, m / SPACING), "in voxels"),
    "x y z": (lambda f, m: (f[:, ::-1], m[:, ::-1]), "in the order x y z"),
}


@pytest.mark.parametrize("reading", READINGS)
def test_pairs_that_contradict_the_images_are_named_with_how_far(registered, pairs, reading, tmp_path):
    change, named = READINGS[reading]
    arguments = ["--landmarks", written(tmp_path, *change(*pairs)), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["evaluate", registered.run.url, *arguments])
    assert done.exit_code == 0, done.output
    told = [line for line in done.output.splitlines() if "contradict the images" in line]
    if named is None:
        assert not told and "verdict: No problem found" in done.output
    else:
        assert len(told) == 1 and named in told[0] and " µm from the map (median)" in told[0]
        assert "verdict: Check before use" in done.output
