"""How alike images are before and after: kinds of images that a user brings, through the right map and a wrong one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from bigreg.geometry import Grid
from bigreg.pipeline.judging.likeness import STATES, Views, agreement_of
from bigreg.quality.verdict import Outcome, judge

SHAPE = (32, 40, 48)
SHIFT, WRONG = np.array([3.0, -4.0, 2.0]), np.array([-7.0, 9.0, 8.0])


def texture(shape=SHAPE, seed=0) -> np.ndarray:
    """Tissue of 0 .. 1 in the middle of an empty image."""
    values = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    values = np.clip(0.5 + 0.25 * values / values.std(), 0, 1)
    index = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    return (values * ((index**2).sum(0) < 0.9)).astype(np.float32)


def noise(image, sd, seed):
    return image + sd * np.random.default_rng(seed).standard_normal(image.shape).astype(np.float32)


def views(fixed, moving, after, before=(0.0, 0.0, 0.0), mask=None) -> Views:
    """Both images where moving is shifted by `before`, the affine and `after` (voxels); `mask` of the fixed one."""
    index = np.indices(fixed.shape).astype(float)
    top = np.reshape(np.array(moving.shape) - 1.0, (3, 1, 1, 1))
    images, inside = {}, {}
    for state, shift in zip(STATES, (before, after, after), strict=True):
        place = index + np.reshape(shift, (3, 1, 1, 1))
        inside[state] = ((place >= -0.5) & (place <= top + 0.5)).all(0)
        values = ndimage.map_coordinates(moving, place, order=1, mode="nearest")
        images[state] = np.where(inside[state], values, 0).astype(np.float32)
    counts = {k: v if mask is None else v & mask for k, v in inside.items()}
    return Views(Grid.from_spacing(fixed.shape, (1.0, 1.0, 1.0), (0, 0, 0)), fixed, images, inside, counts)


def moved(image, shift=SHIFT):
    """The fixed image of which the right map is `shift`."""
    return ndimage.shift(image, -np.asarray(shift), order=1, mode="constant").astype(np.float32)


def verdict(agreement):
    return judge(Outcome(agreement, folds=0, samples=1000, inverse_error=0.0, blocks=1, blocks_failed=0, seconds=1.0))


def _zeros(f, m):
    f = f.copy()
    f[:4], f[:, :5], f[:, :, :6] = 0, 0, 0
    return f, m


def _missing(f, m):
    m = m.copy()
    m[:, :, 31:] = 0
    return f, m


KINDS = {
    "plain": (lambda f, m: (f, m), True),
    "another gamma": (lambda f, m: (f**0.5, m), True),
    "camera noise of 10 %": (lambda f, m: (noise(f, 0.1, 1), noise(m, 0.1, 2)), True),
    "planes of zeros at three sides": (_zeros, True),
    "35 % of the tissue missing": (_missing, True),
    "inverted contrast": (lambda f, m: (1 - f, m), False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_map_is_not_called_unusable(kind):
    change, signed = KINDS[kind]
    image = texture()
    fixed, moving = change(moved(image), image)
    assert verdict(agreement_of(views(fixed, moving, SHIFT), signed=signed)).level != "bad"


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_map_is_not_called_good(kind):
    change, signed = KINDS[kind]
    image = texture()
    fixed, moving = change(moved(image), image)
    assert verdict(agreement_of(views(fixed, moving, WRONG), signed=signed)).level != "good"


@pytest.mark.parametrize("sd", [0.0, 0.03, 0.1])
def test_what_was_aligned_before_did_not_get_worse(sd):
    """A residual shift of 0.1 voxel, as a registration of aligned images leaves."""
    image = texture()
    found = agreement_of(views(noise(image, sd, 1), noise(image, sd, 2), (0.1, 0.1, 0.1)), signed=True)
    assert verdict(found).level == "good"


def test_thirty_percent_of_the_length_in_common_are_enough():
    image = texture((32, 40, 120))
    fixed, moving = image[:, :, :70], image[:, :, 50:]  # 20 of 70 planes
    found = agreement_of(views(fixed, moving, (0, 0, -50), before=(0, 0, 0)), signed=True)
    assert verdict(found).level == "good"


@pytest.mark.parametrize("edge", [8, 16])
def test_tiny_volumes_are_not_called_unusable(edge):
    image = texture((24, 24, 24))[4 : 4 + edge, 4 : 4 + edge, 4 : 4 + edge]
    found = agreement_of(views(noise(image, 0.02, 1), noise(image, 0.02, 2), (0.1, 0.0, 0.1)), signed=True)
    assert verdict(found).level != "bad"


def test_noise_against_noise_is_not_called_good():
    a, b = (np.random.default_rng(s).random(SHAPE).astype(np.float32) for s in (1, 2))
    for signed in (True, False):
        assert verdict(agreement_of(views(a, b, SHIFT), signed=signed)).level != "good"


def test_all_states_are_measured_on_the_same_voxels():
    """Of an image against itself, whatever part of it the maps reach, the right state is alike to rounding."""
    image = texture()
    found = agreement_of(views(image, image, (2, 0, 0)), signed=True)
    assert found.ncc[0] == pytest.approx(1.0, abs=1e-5) and found.local[0] == pytest.approx(1.0, abs=1e-4)
    assert found.ncc[1] == found.ncc[2] < 0.9


def test_what_a_mask_leaves_out_does_not_count():
    image = texture()
    fixed = moved(image)
    mask = np.ones(SHAPE, bool)
    mask[10:22, 12:26, 14:30] = False
    dirty = fixed.copy()
    dirty[~mask] = 50.0
    clean, other = (agreement_of(views(f, image, SHIFT, mask=mask), signed=True) for f in (fixed, dirty))
    assert clean == other
    assert other.ncc[2] > 0.95


def test_images_that_did_not_overlap_before_have_no_similarity_before():
    image = texture()
    found = agreement_of(views(moved(image), image, SHIFT, before=(0, 0, 500)), signed=True)
    assert np.isnan(found.ncc[0]) and found.ncc[2] > 0.95 and verdict(found).level == "good"


def test_images_that_do_not_overlap_after_are_not_called_good():
    image = texture()
    assert verdict(agreement_of(views(image, image, (0, 0, 500)), signed=True)).level == "look"
