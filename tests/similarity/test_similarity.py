"""Analytic gradients against autograd in float64, and what each similarity must not see."""

import pytest
import torch

from bigreg.errors import ConfigError
from bigreg.similarity import NAMES, by_name, lncc, local_correlation
from bigreg.similarity.lncc import box_sum


def images(seed=0, shape=(9, 11, 8)):
    g = torch.Generator().manual_seed(seed)
    fixed = torch.rand(shape, dtype=torch.float64, generator=g)
    moving = 0.6 * fixed + 0.4 * torch.rand(shape, dtype=torch.float64, generator=g)
    mask = (torch.rand(shape, dtype=torch.float64, generator=g) > 0.2).double()
    return fixed, moving, mask


def plain_loss(name, fixed, moving, mask, radius=2, noise=0.01):
    """The definitions, written out."""
    if name == "mse":
        return 0.5 * ((fixed - moving) ** 2 * mask).sum()
    if name == "ncc":
        n = mask.sum()
        f, m = (x - (x * mask).sum() / n for x in (fixed, moving))
        return n * (1 - (f * m * mask).sum() / ((f * f * mask).sum() * (m * m * mask).sum()).sqrt())
    loss = 0.0
    for z, y, x in mask.nonzero().tolist():
        window = tuple(slice(max(c - radius, 0), c + radius + 1) for c in (z, y, x))
        w = mask[window]
        n = w.sum()
        f, m = fixed[window], moving[window]
        f, m = f - (f * w).sum() / n, m - (m * w).sum() / n
        cov, vf, vm = (f * m * w).sum() / n, (f * f * w).sum() / n, (m * m * w).sum() / n
        loss = loss + 1 - cov / ((vf + noise**2) * (vm + noise**2)).sqrt()
    return loss


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_equal_autograd_in_float64(name):
    fixed, moving, mask = images()
    a, b = fixed.clone().requires_grad_(), moving.clone().requires_grad_()
    loss = plain_loss(name, a, b, mask)
    loss.backward()
    forces = by_name(name, radius=2)(fixed, moving, mask)
    assert forces.loss == pytest.approx(loss.item(), rel=1e-10)
    assert forces.weight == float(mask.sum())
    torch.testing.assert_close(forces.fixed, a.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(forces.moving, b.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_swapping_the_images_swaps_the_forces(name):
    fixed, moving, mask = images(1)
    similarity = by_name(name, radius=1)
    there, back = similarity(fixed, moving, mask), similarity(moving, fixed, mask)
    assert there.loss == pytest.approx(back.loss, rel=1e-12)
    torch.testing.assert_close(there.fixed, back.moving, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(there.fixed_scale, back.moving_scale, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_voxels_outside_the_mask_change_nothing(name):
    fixed, moving, mask = images(2)
    similarity = by_name(name, radius=2)
    clean = similarity(fixed, moving, mask)
    dirty = similarity(fixed + 7 * (1 - mask), moving - 3 * (1 - mask), mask)
    assert dirty.loss == pytest.approx(clean.loss, rel=1e-10)
    torch.testing.assert_close(dirty.moving, clean.moving, rtol=1e-8, atol=1e-10)


def test_lncc_does_not_see_a_linear_change_of_contrast():
    fixed, _, mask = images(3)
    assert lncc(fixed, 3 * fixed + 2, mask, noise=0.0).mean == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_mask_gives_no_forces(name):
    fixed, moving, mask = images(4)
    forces = by_name(name)(fixed, moving, mask * 0)
    assert forces.weight == 0 and float(forces.fixed.abs().max()) == 0 and float(forces.moving_scale.abs().max()) == 0


def test_blank_images_give_finite_forces():
    blank = torch.zeros(6, 6, 6)
    for name in NAMES:
        forces = by_name(name)(blank, blank, torch.ones_like(blank))
        assert torch.isfinite(forces.fixed).all() and torch.isfinite(forces.fixed_scale).all()


@pytest.mark.parametrize("radius", [1, 2, 3, 4, 5])
def test_box_sum_equals_the_plain_window_sum(radius):
    x = torch.rand(2, 7, 9, 12, dtype=torch.float64)
    kernel = torch.ones(1, 1, *(2 * radius + 1,) * 3, dtype=torch.float64)
    expected = torch.nn.functional.conv3d(x[:, None], kernel, padding=radius)[:, 0]
    torch.testing.assert_close(box_sum(x, radius), expected)


def test_float32_gradient_is_close_to_float64():
    fixed, moving, mask = images(5, (20, 20, 20))
    exact = lncc(fixed, moving, mask)
    single = lncc(fixed.float(), moving.float(), mask.float())
    error = (single.moving.double() - exact.moving).abs().max() / exact.moving.abs().max()
    assert float(error) < 1e-4


def test_local_correlation_of_an_image_with_itself_is_one_where_there_is_texture():
    fixed, _, mask = images(6)
    cc = local_correlation(fixed, fixed, mask, noise=1e-6)
    assert float((cc[mask > 0] - 1).abs().max()) < 1e-6


def test_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="'mattes'"):
        by_name("mattes")
