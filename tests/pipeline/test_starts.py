"""A doubtful start ends a run before its levels, and a person may choose another one."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from bigreg import open_run, open_volume, register, storage
from bigreg.cli import app
from bigreg.config import load_config
from bigreg.errors import InputError, OutputError, StartError
from bigreg.geometry import Grid
from bigreg.pipeline.context.frames import Frames
from bigreg.pipeline.context.starts import starts_of, told
from bigreg.transforms.affine import about, apply_affine
from bigreg.volumes import convert

SPACING = np.array([4.0, 4.0, 4.0])
PERIOD = 40  # voxels
QUICK = [
    "affine.kind=rigid", "ladder.finest=2", "ladder.coarsest=2", "ladder.iterations=[2]", "output.report=false",
    "output.confidence=false", "output.warped=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def repeating():
    """A piece of tissue, and the same twice in a row, stored upside down as its orientation code says."""
    rng = np.random.default_rng(4)
    piece = ndimage.gaussian_filter(rng.normal(size=(24, 32, PERIOD)), 2.0, mode=("nearest", "nearest", "wrap"))
    piece = (5000 + 2000 * piece / piece.std()).clip(0, 65535).astype("uint16")
    longer = np.tile(piece, (1, 1, 2))[::-1].copy()
    fixed = open_volume(piece, spacing=SPACING, orientation="asr", name="fixed")
    return fixed, open_volume(longer, spacing=SPACING, orientation="psr", name="moving")


@pytest.fixture(scope="module")
def asking(repeating, small_config, thread_client, tmp_path_factory):
    """A run that was stopped, and what it said."""
    out = str(tmp_path_factory.mktemp("starts") / "run.zarr")
    with pytest.raises(StartError) as stopped:
        register(*repeating, out=out, config=small_config(*QUICK, "affine.least_confidence=0.95"), client=thread_client)
    return open_run(out), stopped.value


@pytest.fixture
def copied(asking, tmp_path):
    """The same run, to be gone on with."""
    return open_run(shutil.copytree(asking[0].url, tmp_path / "run.zarr").as_posix())


def places(repeating):
    """The two maps that are right, between the worlds of the images."""
    turn = about(np.diag([-1.0, 1.0, 1.0]), np.array([(24 - 1) / 2 * 4.0, 0, 0]))
    return [turn @ about(np.eye(3), np.zeros(3), np.array([0, 0, shift * 4.0])) for shift in (0, PERIOD)]


def off(matrix, truth):
    corners = np.array(np.meshgrid([0, 92], [0, 124], [0, 156])).reshape(3, -1).T.astype(float)
    return np.linalg.norm(apply_affine(matrix, corners) - apply_affine(truth, corners), axis=1).max()


def test_a_doubtful_start_ends_the_run_before_any_level(asking):
    run, error = asking
    assert error.exit_status == 3
    assert run.status().state == "incomplete" and run.status().start_doubtful
    assert storage.children(run.store.path("levels")) in ([], ["zarr.json"])
    assert run.start_confidence < 0.95


def test_the_message_says_what_was_found_where_it_is_drawn_and_what_to_do(asking):
    run, error = asking
    text = str(error)
    for candidate in run.starts[:3]:
        assert candidate.text in text
    for word in ("95%", "turn", "mm (z, y, x)", "overlap", "correlation", "resume(accept_start=N)", "open_volume's",
                 "affine.start=", "affine.least_confidence=0"):  # fmt: skip
        assert word in text
    picture = run.store.path("starts", "starts.png")
    assert picture in text and Path(picture).read_bytes() == run.start_picture()
    assert run.start_picture().startswith(b"\x89PNG")


def test_starts_lie_between_the_worlds_of_the_images_and_are_written_as_json(asking, repeating):
    run, _ = asking
    for truth in places(repeating):
        assert min(off(c.matrix, truth) for c in run.starts) < SPACING[0]
    assert [c.number for c in run.starts] == list(range(1, len(run.starts) + 1))
    assert not any(c.mirrored for c in run.starts[:2])  # codes of the other hand are no mirror
    listed = json.loads(Path(run.store.path("starts", "starts.json")).read_text())
    assert listed["confidence"] == run.start_confidence
    np.testing.assert_array_equal([c["matrix"] for c in listed["candidates"]], [c.matrix for c in run.starts])


def test_resuming_stops_in_the_same_place_again(copied, thread_client):
    with pytest.raises(StartError):
        copied.resume(client=thread_client)


def test_an_accepted_start_is_gone_on_from_and_stands(copied, thread_client, repeating):
    second = copied.starts[1]
    done = copied.resume(client=thread_client, accept_start=2)
    assert done.status().state == "finished" and not done.status().start_doubtful
    np.testing.assert_allclose(done.affine, second.matrix, rtol=0, atol=1e-9 * np.abs(second.matrix).max())
    centre = np.array([[46.0, 62.0, 78.0]])
    assert np.linalg.norm(done.map_points(centre) - apply_affine(second.matrix, centre)) < 3 * SPACING[0]
    assert any("accepted" in line for line in done.status().start)
    assert done.resume(client=thread_client, accept_start=2).status().state == "finished"
    with pytest.raises(OutputError, match="start 2, so start 1 comes too late; register into another run"):
        done.resume(client=thread_client, accept_start=1)


def test_a_start_that_does_not_exist_is_refused(copied, thread_client):
    last = len(copied.starts)
    with pytest.raises(InputError, match=f"start {last + 1} does not exist: .* has starts 1 to {last}"):
        copied.resume(client=thread_client, accept_start=last + 1)
    with pytest.raises(InputError, match="numbered from 1"):
        copied.resume(client=thread_client, accept_start=0)


def test_a_mirror_image_is_accepted_only_where_mirrors_are_allowed(copied, thread_client):
    url = copied.store.path("affine")
    found = storage.read_attributes(url)["bigreg"]
    found["details"]["candidates"][1] |= {"mirrored": True, "mirror_axis": "x"}
    storage.write_attributes(url, {"bigreg": found})
    assert "mirrored along x" in copied.starts[1].text
    with pytest.raises(InputError, match="start 2 is a mirror image.*affine.allow_mirror=true"):
        copied.resume(client=thread_client, accept_start=2)


def test_a_start_is_told_by_its_turn_and_shift_from_how_the_images_lie():
    grid = Grid.from_spacing((20, 30, 40), (3.0, 2.0, 2.0), (50.0, 0.0, -9.0))
    before = about(np.diag([1.0, -1.0, 1.0]), np.mean(grid.bounds(), 0))
    frames = replace(Frames.from_affine(grid, grid, before, np.eye(4)), before=before)
    turn = Rotation.from_rotvec(np.deg2rad([20.0, 0.0, 0.0])).as_matrix()
    numbers = {"name": "found", "correlation": 0.5, "overlap": 0.9, "similarity": 0.7}
    centre = np.mean(grid.bounds(), 0)
    for mirror, axis in ((np.eye(3), None), (np.diag([1.0, 1.0, -1.0]), "x")):
        matrix = before @ about(turn @ mirror, centre, centre + np.array([5.0, 0.0, -7.0]))
        kept = told({**numbers, "matrix": matrix}, 3, frames)
        assert kept["number"] == 3 and kept["mirrored"] == (axis is not None) and kept["mirror_axis"] == axis
        assert kept["turn_deg"] == pytest.approx(20.0)
        np.testing.assert_allclose(kept["shift_um"], (5.0, 0.0, -7.0), atol=1e-9)


def test_when_to_ask_is_no_part_of_what_decides_the_result():
    parts = [load_config("rounds", overrides=[f"affine.least_confidence={c}"]).result_part() for c in (0, 0.9)]
    assert parts[0] == parts[1]
    assert parts[0] != load_config("rounds", overrides=["affine.allow_mirror=true"]).result_part()


def test_the_same_command_that_asks_less_goes_on(copied, repeating, small_config, thread_client):
    # It is refused for another reason only after it was taken for the same run, so nothing long runs here.
    config = small_config(*QUICK, "affine.least_confidence=0")
    with pytest.raises(InputError, match="start 99 does not exist"):
        register(*repeating, out=copied.url, config=config, client=thread_client, accept_start=99)
    assert not copied.status().start_doubtful


def test_status_tells_of_the_start(asking):
    run, _ = asking
    done = CliRunner().invoke(app, ["status", run.url])
    assert done.exit_code == 0
    assert "start: confidence" in done.output and "1. " in done.output and "starts.png" in done.output


def test_a_run_that_was_given_its_start_is_never_asked_about(repeating, small_config, thread_client, tmp_path):
    np.savetxt(tmp_path / "start.csv", places(repeating)[1], delimiter=",")
    config = small_config(*QUICK, f"affine.start={tmp_path / 'start.csv'}", "affine.least_confidence=1")
    run = register(*repeating, out=str(tmp_path / "run.zarr"), config=config, client=thread_client)
    found = starts_of(run.store)
    assert found.given and not found.doubtful and off(run.affine, places(repeating)[1]) < SPACING[0]


def test_the_report_shows_the_start(registered):
    page = Path(registered.run.store.path("report", "index.html")).read_text(encoding="utf-8")
    assert (
        "The start" in page and "confidence" in page and storage.exists(registered.run.store.path("report/starts.png"))
    )


def test_left_and_right_that_cannot_be_told_are_warned_about(small_config, thread_client, tmp_path, pair):
    image = pair.fixed[8:32, 12:44, 16:48]
    config = small_config("affine.similarity=mi", "affine.least_confidence=1", "affine.kind=translation", *QUICK[1:])
    out = str(tmp_path / "run.zarr")
    with suppress(StartError):  # whether it is sure of it is another matter
        register((image, pair.spacing), (image, pair.spacing), out=out, config=config, client=thread_client)
    assert any("left and right cannot be determined" in line for line in open_run(out).status().start)


@pytest.mark.parametrize(
    ("moving", "said"), [("inverted", "nothing in common|doubtful|lost the overlap"), ("blank", "moving is blank")]
)
def test_images_that_cannot_be_registered_end_the_command_with_exit_status_3(moving, said, tmp_path):
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(24, 28, 32)), 2.0)
    texture = (texture - texture.min()) / np.ptp(texture)
    for name, image in (("fixed", texture), ("inverted", 1 - texture), ("blank", np.full_like(texture, 0.5))):
        convert((1000 * image).astype("uint16"), tmp_path / f"{name}.ome.zarr", spacing=(2.0, 1.0, 1.0))
    images, out = [str(tmp_path / f"{name}.ome.zarr") for name in ("fixed", moving)], str(tmp_path / "run.zarr")
    settings = ["--preset", "rounds", "--set", "affine.kind=translation", "--set", "affine.min_overlap=0.9"]
    settings += ["--workers", "1"]
    done = CliRunner().invoke(app, ["register", *images, out, *settings])
    assert done.exit_code == 3, done.output
    assert re.search(said, done.output) and "Traceback" not in done.output and "failed" not in done.output
    assert open_run(out).status().state == "incomplete"
