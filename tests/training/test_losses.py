"""Each loss on something whose value is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from bigreg.networks import Prediction
from bigreg.training import regularity
from bigreg.training.batch import MAPS, Batch
from bigreg.training.losses import (
    dice,
    endpoint_errors,
    evaluate,
    gradicon,
    identity,
    image_cycle,
    inverse,
    landmarks,
    similarity,
    supervised,
)
from bigreg.training.losses_config import FieldLoss, PlainLoss, SimilarityLoss
from bigreg.training.scene import Scene, seen

SHAPE = (12, 14, 16)


def still(items=1, shape=SHAPE):
    return torch.zeros(items, 3, *shape)


def shift(z, y, x, items=1, shape=SHAPE):
    return torch.tensor([z, y, x], dtype=torch.float32).reshape(1, 3, 1, 1, 1).expand(items, 3, *shape).clone()


def maps(**given):
    return Prediction(**{name: given.get(name, still()) for name in MAPS})


def linear(matrix, shape=SHAPE):
    """The displacement (1, 3, z, y, x) of x -> x + matrix x."""
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij")
    return torch.einsum("ij,jzyx->izyx", torch.tensor(matrix, dtype=torch.float32), torch.stack(axes))[None]


def image(seed=0, shape=SHAPE):
    values = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.0)
    return torch.from_numpy((values - values.min()) / np.ptp(values)).float()[None, None]


def batch(fixed=None, moving=None, *, truth=None, known=1.0, labels=None, points=None, mask=None):
    fixed = image() if fixed is None else fixed
    moving = fixed if moving is None else moving
    ones = torch.ones_like(fixed) if mask is None else mask
    n = len(fixed)
    return Batch(
        fixed, moving, ones, ones, torch.ones(n, 3), truth or maps(), torch.full((n,), known),
        labels or [None] * n, points or [torch.zeros(2, 0, 3)] * n,
    )  # fmt: skip


def plain(function, b, m):
    return float(function(Scene(b, m)))


def test_identity_is_zero_for_identity_maps_and_the_squared_length_of_others():
    scene = Scene(batch(), maps(), maps(**{name: still(2) for name in MAPS}))
    assert torch.equal(identity(scene), torch.zeros(1))
    moved = torch.cat([shift(1, 2, 2), shift(0, 0, 1)])  # of fixed, of moving
    scene = Scene(batch(), maps(), maps(**{name: moved for name in MAPS}))
    assert float(identity(scene)) == pytest.approx((9 + 1) / 2)


def test_diffusion_of_a_linear_map_is_the_square_of_its_matrix():
    field = linear([[0.1, 0.2, 0], [0, 0.3, 0], [0.4, 0, 0]])
    assert float(regularity.diffusion(field)) == pytest.approx(0.01 + 0.04 + 0.09 + 0.16, rel=1e-4)
    assert float(regularity.bending(field)) == pytest.approx(0.0, abs=1e-9)


def test_bending_of_a_quadratic_counts_mixed_differences_twice():
    z, y, _ = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in SHAPE], indexing="ij")
    field = still()
    field[0, 0] = 0.05 * z * z  # second difference 0.1
    field[0, 1] = 0.2 * z * y  # mixed difference 0.2
    assert float(regularity.bending(field)) == pytest.approx(0.1**2 + 2 * 0.2**2, rel=1e-4)


def test_determinants_of_a_linear_map_are_that_of_its_matrix():
    matrix = np.array([[0.1, 0.2, 0.3], [0.0, -0.2, 0.1], [0.4, 0.1, 0.2]])
    found = regularity.determinants(linear(matrix.tolist()))
    assert found.shape == (1, 8, 11, 13, 15)
    assert np.allclose(found, np.linalg.det(np.eye(3) + matrix), atol=1e-5)


def test_volume_is_what_a_reflection_folds_and_nothing_else():
    assert float(regularity.volume(linear([[-3, 0, 0], [0, 0, 0], [0, 0, 0]]))) == pytest.approx(2.0)
    assert float(regularity.volume(linear([[-0.9, 0, 0], [0, 0, 0], [0, 0, 0]]))) == 0.0


def test_the_smallest_determinant_is_that_of_the_transforms():
    from bigreg.transforms.field import min_determinant

    field = 0.6 * torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    ours = regularity.determinants(field).amin(1)[0]
    assert torch.allclose(ours, min_determinant(field[0], (1.0, 1.0, 1.0)), atol=1e-4)


@pytest.mark.parametrize("name", ["diffusion", "bending", "volume"])
def test_field_losses_look_at_the_maps_they_are_told(name):
    field = torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(1))
    m = maps(to_fixed=field, to_moving=field)
    for of, expected in (("halves", float(getattr(regularity, name)(field))), ("wholes", 0.0)):
        total, figures = evaluate([FieldLoss(name=name, of=of, weight=2.0)], Scene(batch(), m))
        assert float(figures[f"{name} {of}"]) == pytest.approx(expected)
        assert float(total) == pytest.approx(2 * expected)


def test_shifts_that_are_inverse_leave_nothing():
    m = maps(fixed_to_moving=shift(1, 2, -1), moving_to_fixed=shift(-1, -2, 1))
    assert plain(inverse, batch(), m) == pytest.approx(0.0, abs=1e-9)
    assert plain(gradicon, batch(), m) == pytest.approx(0.0, abs=1e-9)


def test_shifts_that_add_up_are_seen_by_inverse_and_not_by_gradicon():
    m = maps(fixed_to_moving=shift(1, 2, 2), moving_to_fixed=shift(1, 0, 0))
    assert plain(inverse, batch(), m) == pytest.approx(2**2 + 2**2 + 2**2)
    assert plain(gradicon, batch(), m) == pytest.approx(0.0, abs=1e-9)


def test_gradicon_of_a_stretch_without_its_inverse():
    m = maps(fixed_to_moving=linear([[0.1, 0, 0], [0, 0, 0], [0, 0, 0]]))
    assert plain(gradicon, batch(), m) == pytest.approx(0.1**2, rel=1e-3)


def test_supervised_is_the_distance_from_the_truth_and_nothing_where_it_is_not_known():
    m = maps(to_fixed=shift(3, 0, 4), fixed_to_moving=shift(0, 1, 0))
    truth = maps(fixed_to_moving=shift(0, 3, 0))
    b = batch(truth=truth)
    assert plain(supervised, b, m) == pytest.approx((5 + 2) / 4, rel=1e-3)
    assert plain(supervised, batch(truth=truth, known=0.0), m) == 0.0
    assert endpoint_errors(m, truth).mean((2, 3, 4)).tolist()[0] == pytest.approx([5, 0, 2, 0], abs=1e-3)


def test_image_cycle_is_zero_there_and_back_and_the_gap_otherwise():
    b = batch(image(0), image(1))
    back = maps(fixed_to_moving=shift(0, 0, 2), moving_to_fixed=shift(0, 0, -2))
    assert plain(image_cycle, b, back) == pytest.approx(0.0, abs=1e-5)
    ramp = torch.arange(16.0).expand(1, 1, *SHAPE).clone()
    gone = maps(fixed_to_moving=shift(0, 0, 1), moving_to_fixed=shift(0, 0, 1))
    inner = plain(image_cycle, batch(ramp), gone)
    assert 1.7 < inner <= 2.0  # two voxels of a ramp of one a voxel; less at the border


@pytest.mark.parametrize("where", ["mid", "ends"])
@pytest.mark.parametrize("name", ["lncc", "lncc_squared", "ncc", "mse", "mi", "mind", "ngf"])
def test_every_similarity_is_least_at_the_truth_and_pulls_towards_it(name, where):
    shape = (20, 20, 24)
    big = image(3, (20, 20, 40))
    fixed, moving = big[..., 8:32], big[..., 6:30]  # moving(x) = fixed(x - 2), so fixed_to_moving = 2
    settings = SimilarityLoss(name=name, where=where, radius=2)

    def value(d):
        half, whole = (shift(0, 0, 1, 1, shape) * d / 2, shift(0, 0, 1, 1, shape) * d)
        m = Prediction(-half, half, whole, -whole)
        b = batch(fixed.contiguous(), moving.contiguous(), truth=m)
        return similarity(Scene(b, m), settings)[0]

    values = {d: float(value(d)) for d in (0.0, 1.0, 2.0, 3.0)}
    assert values[2.0] == min(values.values())
    d = torch.tensor(1.4, requires_grad=True)
    value(d).backward()
    assert float(d.grad) < 0


def test_similarity_of_a_batch_is_that_of_its_items():
    fixed, moving = torch.cat([image(0), image(1)]), torch.cat([image(2), image(1)])
    m = Prediction(*[still(2)] * 4)
    both = similarity(Scene(batch(fixed, moving), m), SimilarityLoss(name="lncc"))
    assert both.shape == (2,)
    assert float(both[1]) == pytest.approx(0.0, abs=0.05) and float(both[0]) > 0.5
    one = similarity(Scene(batch(fixed[:1], moving[:1]), Prediction(*[still()] * 4)), SimilarityLoss(name="lncc"))
    assert float(one[0]) == pytest.approx(float(both[0]), rel=1e-5)


def test_what_leaves_the_patch_is_not_seen():
    mask = torch.ones(1, 1, *SHAPE)
    assert float(seen(mask, shift(0, 0, 4)).mean()) == pytest.approx(12 / 16)
    mask[..., :8] = 0
    assert float(seen(mask, shift(0, 0, 0)).mean()) == pytest.approx(0.5)


def box(start, stop):
    labels = torch.zeros(SHAPE, dtype=torch.int64)
    labels[start:stop] = 3
    return labels


def test_dice_of_half_overlapping_boxes_is_a_half_and_one_when_moved_onto_each_other():
    labels = [torch.stack([box(2, 6), box(4, 8)])]
    assert plain(dice, batch(labels=labels), maps()) == pytest.approx(0.5)
    assert plain(dice, batch(labels=labels), maps(fixed_to_moving=shift(2, 0, 0))) == pytest.approx(0.0, abs=1e-6)
    assert plain(dice, batch(), maps()) == 0.0


def test_dice_pulls():
    d = torch.tensor(1.3, requires_grad=True)
    labels = [torch.stack([box(2, 6), box(4, 8)])]
    dice(Scene(batch(labels=labels), maps(fixed_to_moving=shift(1, 0, 0) * d))).sum().backward()
    assert float(d.grad) < 0


def test_landmarks_are_where_the_map_takes_them():
    points = [torch.tensor([[[2.0, 3, 4], [5, 5, 5], [50, 0, 0]], [[2, 6, 8], [5, 5, 5], [50, 0, 0]]])]
    b = batch(points=points)
    assert plain(landmarks, b, maps()) == pytest.approx((5 + 0) / 2, rel=1e-3)
    assert plain(landmarks, b, maps(fixed_to_moving=shift(0, 3, 4))) == pytest.approx((0 + 5) / 2, rel=1e-3)
    assert plain(landmarks, batch(), maps()) == 0.0


def test_the_landmark_map_is_linearly_interpolated():
    field = linear([[0, 0, 0], [0, 0, 0], [0.5, 0.25, 0.125]])
    place = [3.3, 4.7, 5.1]
    target = [3.3, 4.7, 5.1 + 0.5 * 3.3 + 0.25 * 4.7 + 0.125 * 5.1]
    assert plain(landmarks, batch(points=[torch.tensor([[place], [target]])]), maps(fixed_to_moving=field)) < 1e-3


def test_the_total_is_the_weighted_sum():
    m = maps(fixed_to_moving=shift(0, 1, 0))
    losses = [PlainLoss(name="supervised", weight=3.0), PlainLoss(name="inverse", weight=0.5)]
    total, figures = evaluate(losses, Scene(batch(), m))
    assert float(total) == pytest.approx(3 * 0.25 + 0.5 * 1.0, rel=1e-3)
    assert set(figures) == {"supervised", "inverse"} and math.isclose(float(figures["inverse"]), 1.0, rel_tol=1e-5)
