"""Random contrasts: curves are what they are called, labels get greys of their own, and equal numbers equal bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bigreg.training.augment import contrast
from bigreg.training.batch import make_batch
from bigreg.training.config import Augment, Contrast, Curve, Deformation, Greys
from bigreg.training.contrast import SAMPLES, curved, drawn_curve, greyed
from bigreg.training.sources import Patch

PLAIN = {"gamma": (1, 1), "gain": (1, 1), "offset": (0, 0), "noise": (0, 0), "blur": (0, 0), "bias": 0}
SEEDS = range(40)


def curves(**settings):
    return [drawn_curve(Curve(**settings), np.random.default_rng(seed)) for seed in SEEDS]


def image(seed=0, shape=(8, 9, 10)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def labelled():
    labels = torch.zeros(20, 21, 22, dtype=torch.int64)
    labels[:7], labels[12:, 5:] = 3, 70001
    return labels


@pytest.mark.parametrize(("inverted", "sign"), [(0, 1), (1, -1)])
def test_a_monotone_curve_rises_or_falls_over_the_whole_range(inverted, sign):
    for curve in curves(monotone=1, inverted=inverted, dark=0):
        assert (sign * np.diff(curve) >= -1e-12).all()
        assert sorted((curve[0], curve[-1])) == pytest.approx([0, 1])


def test_a_folded_curve_goes_up_and_down_and_covers_the_range():
    for curve in curves(monotone=0, dark=0, knots=(2, 6)):
        steps = np.diff(curve)
        assert steps.min() < -1e-4 and steps.max() > 1e-4
        assert curve.min() < 0.02 and 0.98 < curve.max() <= 1


def test_shares_of_curves_are_those_that_were_asked_for():
    found = [drawn_curve(Curve(monotone=0.3, dark=0), np.random.default_rng(s)) for s in range(400)]
    rising, falling = (np.mean([(sign * np.diff(c) >= -1e-12).all() for c in found]) for sign in (1, -1))
    assert rising == pytest.approx(0.15, abs=0.06) and falling == pytest.approx(0.15, abs=0.06)


def test_a_dark_background_stays_dark_where_that_is_asked_for():
    falling = curves(monotone=1, inverted=1, dark=1)
    assert all(curve[0] == 0 and curve[SAMPLES // 8] > 0.1 for curve in falling)
    assert all(curve[0] == 1 for curve in curves(monotone=1, inverted=1, dark=0))


def test_an_image_goes_through_the_curve_and_its_ends_hold_outside():
    x = torch.linspace(-0.5, 1.5, 101).reshape(1, 1, -1)
    for seed in range(5):
        curve = drawn_curve(Curve(), np.random.default_rng(seed))
        seen = curved(x, Curve(), np.random.default_rng(seed)).numpy().ravel()
        assert np.allclose(seen, np.interp(x.numpy().ravel(), np.linspace(0, 1, SAMPLES + 1), curve), atol=1e-5)


def test_each_label_gets_a_grey_of_its_own_and_noise_of_the_wanted_size():
    labels = labelled()
    means = []
    for seed in range(20):
        made = greyed(labels, Greys(deviation=(0.05, 0.05)), np.random.default_rng(seed))
        parts = [made[labels == v] for v in (0, 3, 70001)]
        assert all(float(p.std()) == pytest.approx(0.05, rel=0.1) for p in parts)
        means.append([float(p.mean()) for p in parts])
    assert np.std(means, 0).min() > 0.15 and abs(np.corrcoef(np.transpose(means))[0, 1]) < 0.6


def test_without_greys_or_labels_nothing_else_is_drawn():
    plain, other = Contrast(), Contrast(greys=Greys(probability=1.0))
    one, two = (contrast(image(), s, np.random.default_rng(3)) for s in (plain, other))
    assert torch.equal(one, two)
    assert not torch.equal(one, contrast(image(), other, np.random.default_rng(3), labelled()[:8, :9, :10]))


def test_the_share_of_the_images_that_are_changed():
    settings = Contrast(curve=Curve(probability=0.25), **PLAIN)
    kept = [torch.allclose(contrast(image(), settings, np.random.default_rng(s)), image()) for s in range(200)]
    assert np.mean(kept) == pytest.approx(0.75, abs=0.1)


def drawn(seed):
    values = np.random.default_rng(0).random((1, 24, 24, 24)).astype(np.float32)
    labels = np.arange(24**3).reshape(1, 24, 24, 24) // 2000
    patch = Patch(values, np.ones_like(values), np.ones(3), labels)
    settings = Contrast(curve=Curve(), greys=Greys(probability=0.5))
    return make_batch(
        [patch, patch], [np.random.default_rng([seed, i]) for i in range(2)], deformation=Deformation(largest=2.0),
        augment=Augment(contrast=settings), device=torch.device("cpu"),
    )  # fmt: skip


def test_the_same_seed_gives_the_same_pairs_bit_by_bit_and_another_one_others():
    one, again, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(one.fixed, again.fixed) and torch.equal(one.moving, again.moving)
    assert torch.equal(one.truth.fixed_to_moving, again.truth.fixed_to_moving)
    assert not torch.allclose(one.fixed, other.fixed)


def test_the_two_images_of_a_pair_differ_in_contrast_and_the_known_map_stays():
    values = np.linspace(0, 1, 30**3, dtype=np.float32).reshape(1, 30, 30, 30)
    patch = Patch(values, np.ones_like(values), np.ones(3))
    augment = {"flips": False, "permutations": False}
    made = [
        make_batch([patch], [np.random.default_rng(5)], deformation=Deformation(largest=2.0, cells=[16]),
                   augment=Augment(contrast=settings, **augment), device=torch.device("cpu"))
        for settings in (None, Contrast(curve=Curve(monotone=1, dark=0), **PLAIN))
    ]  # fmt: skip
    plain, changed = made
    assert torch.equal(plain.truth.fixed_to_moving, changed.truth.fixed_to_moving)
    gaps = [float((changed.fixed - plain.fixed).abs().mean()), float((changed.moving - plain.moving).abs().mean())]
    assert min(gaps) > 0.01 and abs(gaps[0] - gaps[1]) > 1e-3
