"""How two images that lie on each other are related."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from bigreg.quality.relation import relation

SHAPE = (40, 44, 48)
WHOLE = np.ones(SHAPE, bool)
LEVELS = (0.5, 0.5)


def tissue(seed: int) -> np.ndarray:
    """Grain of some voxels around 0.5, as bright tissue shows it; nowhere background."""
    grain = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 2.0)
    return np.clip(0.5 + 0.15 * grain / grain.std(), 0.05, 1).astype(np.float32)


def noisy(image: np.ndarray, seed: int, level: float) -> np.ndarray:
    return (image + level * np.random.default_rng(seed).standard_normal(SHAPE)).astype(np.float32)


@pytest.mark.parametrize(("second", "sign"), [(lambda a: 0.7 * a + 0.1, 1.0), (lambda a: 1.0 - a, -1.0)])
def test_the_sign_says_whether_bright_goes_with_bright(second, sign):
    found = relation(tissue(1), second(tissue(1)), WHOLE, LEVELS)
    assert found.sign == pytest.approx(sign, abs=0.01)
    assert found.unexplained < 0.02 and found.agreement > 0.98


def test_the_outline_of_tissue_says_nothing_of_its_contrast():
    body = np.linalg.norm((np.indices(SHAPE).T - np.array(SHAPE) / 2) / (16, 18, 20), axis=-1).T < 1
    found = relation(tissue(1) * body, (1.0 - tissue(1)) * body, WHOLE, LEVELS)
    assert found.sign < -0.85


def test_noise_of_a_camera_is_no_structure_that_is_left_over():
    quiet, loud = (relation(noisy(tissue(1), 2, n), tissue(1), WHOLE, LEVELS) for n in (0.0, 0.1))
    assert loud.agreement < 0.97 < quiet.agreement
    assert loud.unexplained < 0.1


def test_structure_of_another_specimen_is_left_over():
    assert relation(tissue(1), tissue(2), WHOLE, LEVELS).unexplained > 0.7
    half = 0.5 * (tissue(1) + tissue(2))
    assert 0.2 < relation(tissue(1), half, WHOLE, LEVELS).unexplained < 0.7


def test_flat_images_tell_nothing():
    flat = np.full(SHAPE, 0.5, np.float32)
    found = relation(flat, tissue(1), WHOLE, LEVELS)
    assert (found.sign, found.agreement, found.unexplained) == (None, None, None)


def test_what_is_outside_is_not_looked_at():
    inside = WHOLE.copy()
    inside[20:] = False
    spoilt = np.where(inside, tissue(1), tissue(3)).astype(np.float32)
    assert relation(tissue(1), spoilt, inside, LEVELS).unexplained < 0.02
