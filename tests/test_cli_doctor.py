"""`bigreg doctor`, and what register and plan make of it, as their user meets them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from bigreg import is_run
from bigreg.cli import app
from bigreg.phantom import make_pair
from bigreg.volumes import convert

LIE = ("--set", "affine.kind=none")  # no start is searched


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor")
    pair = make_pair((40, 56, 64), (4.0, 2.6, 2.6), seed=3, max_displacement_um=7.0)
    for name, image in (("fixed", pair.fixed), ("moving", pair.moving)):
        np.save(folder / f"{name}.npy", image)
        convert(image, folder / f"{name}.ome.zarr", spacing=pair.spacing)
    return folder


def bigreg(folder, verb, *arguments):
    """(exit status, what was printed); names of files are those of the folder."""
    paths = [str(folder / a) if str(a).endswith((".zarr", ".npy")) else str(a) for a in arguments]
    done = CliRunner().invoke(app, [verb, *paths])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_it_says_what_and_why_in_single_lines(folder):
    code, text = bigreg(folder, "doctor", "fixed.ome.zarr", "moving.ome.zarr", *LIE)
    assert code == 0, text
    what = [line.split()[0] for line in text.splitlines()]
    assert what == ["fixed:", "moving:", "preset", "similarity", "command", "orientation", "cost", "time"]
    assert "predicted" in text and "--preset" in text


def test_json_has_stable_keys(folder):
    code, text = bigreg(folder, "doctor", "fixed.ome.zarr", "moving.ome.zarr", "--json", *LIE)
    told = json.loads(text)
    assert code == 0 and list(told) == [
        "preset", "settings", "sure", "candidates", "why", "similarity", "contrast", "structure", "start", "affine",
        "bent", "motion", "strain", "padding", "channels", "cost", "warnings", "seconds",
    ]  # fmt: skip
    assert list(told["cost"]) == ["seconds", "workers", "disk_bytes", "memory_per_worker_bytes"]
    assert set(told["start"]) == {
        "confidence", "doubtful", "overlap", "turn_deg", "shift_um", "mirrored", "matrix",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("fixed.ome.zarr", "nothere.ome.zarr"), 3),
        (("fixed.npy", "moving.npy"), 3),  # no spacing
        (("fixed.ome.zarr", "moving.ome.zarr", "--fixed-orientation", "asr"), 3),  # and moving has none
        (("fixed.ome.zarr", "moving.ome.zarr", "--set", "affine.kid=none"), 4),
        (("fixed.ome.zarr", "moving.ome.zarr", "--cluster", "nosuch"), 4),
    ],
)
def test_bad_input_is_the_error_of_register(folder, arguments, status):
    code, text = bigreg(folder, "doctor", *arguments)
    images, options = arguments[:2], arguments[2:]
    other = bigreg(folder, "register", *images, "none.zarr", *options)
    assert code == status and text.startswith("error: ")
    assert (code, text.strip()) == (other[0], other[1].splitlines()[-1])  # after what was understood of the images
    assert not (folder / "none.zarr").exists()


def test_a_plan_and_a_dry_run_choose_alike_and_tell_so_in_one_line(folder):
    images = ("fixed.ome.zarr", "moving.ome.zarr")
    dry = bigreg(folder, "register", *images, "dry.zarr", "--dry-run", *LIE)
    planned = bigreg(folder, "plan", *images, *LIE)
    assert dry == planned and dry[0] == 0
    line = dry[1].splitlines()[2]  # after the lines of the images
    assert (
        line.startswith("preset: ")
        and "chosen from the images" in line
        and line.endswith("pass --preset to choose another")
    )
    assert sum("preset:" in text for text in dry[1].splitlines()) == 1


def test_who_names_a_preset_or_a_file_is_told_nothing(folder):
    images = ("fixed.ome.zarr", "moving.ome.zarr")
    (folder / "own.yaml").write_text("ladder: {finest: 2}\n")
    for given in (("--preset", "individuals"), ("--config", str(folder / "own.yaml"))):
        code, text = bigreg(folder, "plan", *images, *given)
        assert code == 0 and "preset:" not in text, text


def test_a_registration_keeps_its_choice_and_resumes_with_it(folder):
    images, out = ("fixed.ome.zarr", "moving.ome.zarr"), "chosen.zarr"
    settings = [
        *LIE, "--set", "blocks.core=24", "--set", "blocks.halo=8", "--set", "ladder.finest=2", "--set",
        "ladder.iterations=[4]", "--set", "output.chunk=16", "--set", "output.shard=32", "--set", "output.warped=false",
        "--workers", "1",
    ]  # fmt: skip
    code, text = bigreg(folder, "register", *images, out, *settings)
    assert code == 0, text
    line = next(t for t in text.splitlines() if t.startswith("preset: "))
    assert is_run(str(folder / out))
    told = json.loads(bigreg(folder, "status", out, "--json")[1])["choice"]
    assert told["line"] == line and told["preset"] in line and told["looked"]
    assert line in bigreg(folder, "status", out)[1]
    assert told["why"] in (folder / out / "report" / "index.html").read_text()
    again = bigreg(folder, "register", *images, out, *settings)
    assert again[0] == 0 and line in again[1]
    assert bigreg(folder, "resume", out)[0] == 0
