"""Starts and verdicts on a small brain whose place is known: found, or refused, and never wrong without a word."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bigreg import load_config, open_volume, register
from bigreg.errors import InputError
from bigreg.transforms.affine import apply_affine
from bigreg.volumes import convert

from .phantoms import (
    SHAPE,
    SPACING,
    any_rotation,
    ball,
    begin,
    common,
    light,
    other_contrast,
    rotation,
    salt_and_pepper,
    see,
    symmetric_atlas,
    through,
    truth,
    verdict,
    zeros,
)

FOUND = 5 * 56 / 128  # voxels: five of the 128 along the longest axis that larger images are brought to


@pytest.fixture
def began(monkeypatch, thread_client, tmp_path, one_thread):
    """Begins a run of two images and ends it where its levels would begin."""
    count = itertools.count()

    def start(fixed, moving, preset="rounds", *overrides):
        config = load_config(preset=preset, overrides=list(overrides))
        return begin(monkeypatch, thread_client, str(tmp_path / f"{next(count)}.zarr"), fixed, moving, config)

    return start


@pytest.fixture
def finished(thread_client, tmp_path, one_thread):
    """The verdict of a whole run, and its mean error in voxels over the tissue that both images show."""

    def run(fixed, moving, *overrides, part=None, preset="rounds"):
        # The verdict is what is looked at: a doubtful start goes on here.
        quick = ["output.warped=false", "output.report=false", "affine.least_confidence=0"]
        config = load_config(preset=preset, overrides=[*quick, *overrides])
        out = str(tmp_path / "run.zarr")
        done = register(fixed.volume("fixed"), moving.volume("moving"), out=out, config=config, client=thread_client)
        points = common(fixed, moving, part)
        error = np.linalg.norm(done.map_points(points) - apply_affine(truth(fixed, moving), points), axis=1)
        return verdict(done), float(np.nanmean(error)) / SPACING

    return run


def right_or_refused(start, fixed, moving, part=None):
    assert start.refused or start.off(fixed, moving, part) < FOUND


# ----------------------------------------------------------------------------------------------------- any side


@pytest.fixture(scope="module")
def kept():
    return {}


@pytest.fixture
def turned(began, kept):
    """A turned brain and another image of it, and the start of the two: searched once for each seed."""

    def start(seed):
        if seed not in kept:
            fixed, moving = see(through(any_rotation(seed)), gamma=0.8, seed=1), see(seed=2)
            kept[seed] = fixed, moving, began(fixed, moving)
        return kept[seed]

    return start


@pytest.mark.parametrize("seed", [1])
def test_a_brain_turned_by_any_angle_is_found(turned, seed):
    fixed, moving, start = turned(seed)
    assert not start.refused and start.off(fixed, moving) < FOUND


@pytest.mark.parametrize("seed", [10])
def test_a_brain_turned_by_any_angle_is_found_in_another_contrast_or_refused(began, seed):
    """In two contrasts this phantom looks much like itself turned by half a turn."""
    fixed, moving = see(through(any_rotation(seed)), of=other_contrast, seed=1), see(seed=2)
    right_or_refused(began(fixed, moving, "brain-to-atlas"), fixed, moving)


def test_a_half_turn_has_a_start(began):
    fixed, moving = see(through(rotation(180)), seed=1), see(seed=2)
    right_or_refused(began(fixed, moving, "brain-to-atlas"), fixed, moving)


def test_swapping_turned_images_inverts_the_start(turned, began):
    fixed, moving, there = turned(1)
    back = began(moving, fixed)
    assert there.refused == back.refused
    np.testing.assert_allclose(there.matrix @ back.matrix, np.eye(4), atol=1e-6)


PARTS = {
    "hemisphere": lambda p: p[:, 2] > 0,
    "cube": lambda p: (np.abs(p - (300, 0, 200)) < 750).all(1),
}


@pytest.mark.parametrize(("part", "which"), [("hemisphere", "fixed"), ("cube", "moving")])
def test_a_part_of_a_brain_is_found_in_the_whole_or_refused(began, part, which):
    cut, whole = see(through(any_rotation(21)), part=PARTS[part], seed=1), see(seed=2)
    fixed, moving = (cut, whole) if which == "fixed" else (whole, cut)
    right_or_refused(began(fixed, moving), fixed, moving, PARTS[part])


# ------------------------------------------------------------------------------------------------------ mirrors


def test_a_mirrored_hemisphere_is_named(began):
    flip = np.diag([1.0, 1.0, -1.0])
    start = began(see(through(flip), part=PARTS["hemisphere"], seed=1), see(part=PARTS["hemisphere"], seed=2))
    assert start.refused or start.names_a_mirror
    assert start.matrix is None or np.linalg.det(start.matrix[:3, :3]) > 0  # never applied unasked


def test_a_hemisphere_on_a_symmetric_atlas_says_that_left_and_right_cannot_be_told(began):
    start = began(see(of=symmetric_atlas), see(part=PARTS["hemisphere"], seed=2), "brain-to-atlas")
    assert start.refused or start.names_a_mirror


def test_to_an_atlas_what_is_mirrored_is_refused_or_named(began):
    fixed, moving = see(of=other_contrast, seed=1), see(through(np.diag([1.0, 1.0, -1.0])), seed=2)
    start = began(fixed, moving, "brain-to-atlas")
    assert start.refused or start.names_a_mirror


# --------------------------------------------------------------------------------------------- bright and wrong

DIRT = {
    "large bubble": (ball(12), ball(12)),
    "debris in one": (None, ball(4, count=8)),
    "salt and pepper": (salt_and_pepper, salt_and_pepper),
}


@pytest.mark.parametrize("dirt", DIRT)
def test_what_is_bright_and_wrong_does_not_lead_the_start(began, dirt):
    small_turn = through(rotation(6), (150.0, -200.0, 250.0))
    fixed, moving = see(small_turn, spoil=DIRT[dirt][0], gamma=0.8, seed=1), see(spoil=DIRT[dirt][1], seed=2)
    right_or_refused(began(fixed, moving), fixed, moving)


def test_a_turned_brain_with_bubbles_is_found_or_refused(began):
    fixed, moving = see(through(any_rotation(5)), spoil=ball(8), seed=1), see(spoil=ball(8), seed=2)
    right_or_refused(began(fixed, moving), fixed, moving)


def test_an_image_that_is_mostly_empty_is_placed_or_refused(began):
    def imaged(p):
        return (np.abs(p - (400.0, 100.0, -200.0)) < 900).all(1)

    fixed, moving = see(through(rotation(6)), part=imaged, seed=1, noise=0.0), see(seed=2)
    right_or_refused(began(fixed, moving), fixed, moving, imaged)


# --------------------------------------------------------------------------------------------------- impossible


def test_unrelated_images_are_refused(began):
    def another(points):  # of the same kind, but of another place
        return light(points[:, [2, 0, 1]] * (0.4, -0.4, 0.4) + 300.0)

    start = began(see(seed=1), see(of=another, seed=2))
    assert start.error is not None and start.error.exit_status == 3


def test_a_blank_image_is_refused_by_name(began):
    blank = open_volume(np.full(SHAPE, 7, np.uint16), spacing=(SPACING,) * 3)
    start = began(see(), blank)
    assert start.error is not None and start.error.exit_status == 3 and "moving" in str(start.error)


# ------------------------------------------------------------------------------------------------ what goes on


def test_identical_images_start_at_the_identity_exactly(began):
    image = see(seed=2)
    np.testing.assert_array_equal(began(image, image).matrix, np.eye(4))


@pytest.mark.parametrize("scale", [0.7])
def test_another_scale_is_found(began, scale):
    fixed, moving = see(through(scale * rotation(4)), seed=1), see(shape=(56, 44, 48), seed=2)
    start = began(fixed, moving)
    assert not start.refused and start.off(fixed, moving) < FOUND


def test_origins_far_apart_are_found(began):
    there = (100000.0, -50000.0, 30000.0)
    fixed, moving = see(through(rotation(5)), seed=1), see(origin=there, seed=2)
    start = began(fixed, moving)
    assert not start.refused and start.off(fixed, moving) < FOUND


def test_a_third_of_the_length_in_common_is_found(began):
    short = (34, 56, 56)
    fixed = see(through(rotation(3), (-800.0, 0, 0), short), shape=short, seed=1)
    moving = see(through(shift=(800.0, 100.0, 0), shape=short), shape=short, seed=2)
    start = began(fixed, moving)
    assert not start.refused and start.off(fixed, moving) < FOUND


def test_a_slab_of_ten_planes_of_another_spacing_is_found(began):
    shape, spacing = (10, 70, 70), (100.0, 80.0, 80.0)
    fixed = see(through(rotation(4), (200.0, 0, 0), shape, spacing), shape=shape, spacing=spacing, seed=1)
    moving = see(seed=2)
    start = began(fixed, moving)
    assert not start.refused and start.off(fixed, moving) < FOUND


# -------------------------------------------------------------------------------------------------------- masks


def test_nan_that_a_mask_leaves_out_is_no_hindrance(began, tmp_path):
    clean, mask = see(seed=2), np.ones(SHAPE, np.uint8)
    mask[:8], mask[:, :, -6:] = 0, 0
    convert(mask, tmp_path / "mask.ome.zarr", spacing=(SPACING,) * 3)
    moving = open_volume(np.where(mask, clean.data, np.nan).astype(np.float32), spacing=(SPACING,) * 3)
    fixed = see(through(rotation(5)), seed=1)
    start = began(fixed, moving, "rounds", f"masks.moving={tmp_path / 'mask.ome.zarr'}")
    assert start.error is None and start.off(fixed, clean) < FOUND


def test_a_mask_that_does_not_fit_its_image_is_refused(began, tmp_path):
    convert(np.ones(SHAPE, np.uint8), tmp_path / "mask.ome.zarr", spacing=(SPACING / 4,) * 3)
    start = began(see(seed=1), see(seed=2), "rounds", f"masks.moving={tmp_path / 'mask.ome.zarr'}")
    assert start.error is not None and "mask" in str(start.error)


# ----------------------------------------------------------------------------------------------------- verdicts


def gone(p):
    return ~((p[:, 1] < 200) & (p[:, 2] > -300))


def inverted(points):
    return 1.0 - light(points)


MI = ("affine.similarity=mi", "engine_options.optimise.similarity=mi")
NEAR = through(rotation(3), (120.0, -80.0, 100.0))
RIGHT = {
    "inverted, mi": ({"matrix": NEAR, "of": inverted}, {}, MI, None),
    "noise of 10 %": ({"matrix": NEAR, "gamma": 0.7, "noise": 0.1}, {"noise": 0.1}, (), None),
    "planes of zeros": ({"matrix": NEAR, "spoil": zeros(5)}, {"spoil": zeros(9)}, (), lambda p: (p > -1500).all(1)),
    "8^3": (
        {"matrix": through(shape=(8,) * 3), "shape": (8,) * 3},
        {"matrix": through(shape=(8,) * 3), "shape": (8,) * 3},
        (),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["inverted, mi", "noise of 10 %", "planes of zeros", "8^3"])
def test_a_right_result_is_not_called_unusable(finished, kind):
    fixed, moving, options, part = RIGHT[kind]
    found, error = finished(see(seed=1, **fixed), see(seed=2, **moving), *options, part=part)
    assert error < 1.0
    assert found.level != "bad", found.reasons


def given(tmp_path, matrix):
    np.savetxt(tmp_path / "start.csv", matrix, delimiter=",")
    return (f"affine.start={tmp_path / 'start.csv'}", "affine.kind=none")


WRONG = {
    "turned by 60 degrees": rotation(60),
    "turned by 150 degrees": rotation(150),
    "shifted": (np.eye(3), (2800.0, 1800.0, -2200.0)),
}


@pytest.mark.parametrize(
    ("kind", "similarity"),
    [("turned by 150 degrees", "mi"), ("shifted", "lncc")],
)
def test_a_wrong_result_is_not_called_registered(finished, tmp_path, kind, similarity):
    fixed, moving = see(seed=1, gamma=0.8), see(seed=2)
    off = WRONG[kind]
    start = through(off) if isinstance(off, np.ndarray) else through(*off)
    start = np.linalg.inv(moving.matrix) @ start
    options = (*given(tmp_path, start), f"engine_options.optimise.similarity={similarity}")
    try:
        found, error = finished(fixed, moving, *options)
    except InputError as refusal:
        assert refusal.exit_status == 3
        return
    assert error > 2.0
    assert found.level != "good"
