"""Analytic gradients against autograd in float64, and what each similarity must not see."""

import numpy as np
import pytest
import torch

from bigreg.errors import ConfigError
from bigreg.similarity import by_name, gradient_directions, lncc, local_correlation, mind, mutual_information
from bigreg.similarity.lncc import box_sum
from bigreg.similarity.loss import loss

NAMES = ("mse", "ncc", "lncc", "lncc_squared", "mi", "nmi")


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
    if name in ("mi", "nmi"):
        return plain_information(name, fixed, moving, mask)
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
        cc = cov / ((vf + noise**2) * (vm + noise**2)).sqrt()
        loss = loss + 1 - (cc**2 if name == "lncc_squared" else cc)
    return loss


def plain_information(name, fixed, moving, mask, bins=32):
    """A dense Parzen matrix of each image, their product the joint histogram."""
    keep = mask > 0

    def windows(values):
        with torch.no_grad():
            mean, sd = values.mean(), values.std(unbiased=False)
            low, high = max(values.min(), mean - 3 * sd), min(values.max(), mean + 3 * sd)
        place = ((values - low) / (high - low)).clamp(0, 1) * (bins - 4) + 1
        t = (place[:, None] - torch.arange(bins, dtype=values.dtype)[None]).abs()
        return torch.where(t < 1, 2 / 3 - t**2 + t**3 / 2, (2 - t).clamp_min(0) ** 3 / 6)

    joint = windows(fixed[keep]).T @ windows(moving[keep]) / keep.sum()
    entropy = lambda p: -(p * p.clamp_min(1e-12).log()).sum()  # noqa: E731
    first, second, both = entropy(joint.sum(1)), entropy(joint.sum(0)), entropy(joint)
    score = (first + second) / both - 1 if name == "nmi" else (1 - (-2 * (first + second - both)).exp()).sqrt()
    return keep.sum() * (1 - score)


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_equal_autograd_in_float64(name):
    fixed, moving, mask = images()
    a, b = fixed.clone().requires_grad_(), moving.clone().requires_grad_()
    loss = plain_loss(name, a, b, mask)
    loss.backward()
    forces = by_name(name, radius=2)(fixed, moving, mask)
    assert forces.loss == pytest.approx(loss.item(), rel=1e-10)
    assert forces.weight == float(mask.sum())
    # Information: what is clipped to the outermost bins does not pull, and logarithms are cut at 1e-12.
    rtol, atol = (1e-4, 1e-4) if name in ("mi", "nmi") else (1e-9, 1e-9)
    for found, exact, image in ((forces.fixed, a.grad, fixed), (forces.moving, b.grad, moving)):
        inner = (mask > 0) & (image > image[mask > 0].min()) & (image < image[mask > 0].max())
        torch.testing.assert_close(found[inner], exact[inner], rtol=rtol, atol=atol)
        assert float(found[mask == 0].abs().max()) == 0


@pytest.mark.parametrize("name", NAMES)
def test_swapping_the_images_swaps_the_forces(name):
    fixed, moving, mask = images(1)
    similarity = by_name(name, radius=1)
    there, back = similarity(fixed, moving, mask), similarity(moving, fixed, mask)
    assert there.loss == pytest.approx(back.loss, rel=1e-12)
    torch.testing.assert_close(there.fixed, back.moving, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(there.fixed_scale.abs(), back.moving_scale.abs(), rtol=1e-12, atol=1e-14)


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


@pytest.mark.parametrize(("shape", "radius"), [((12, 13, 14), 2), ((3, 5, 4), 4), ((9, 1, 20), 3)])
def test_local_correlation_in_float32_is_that_of_float64(shape, radius):
    fixed, moving, mask = images(11, shape)
    exact = local_correlation(fixed, moving, mask, radius=radius)
    swept = local_correlation(fixed.float(), moving.float(), mask.float(), radius=radius)
    torch.testing.assert_close(swept.double(), exact, rtol=0, atol=1e-4)


def test_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="'mattes'"):
        by_name("mattes")


@pytest.mark.parametrize("squared", [False, True])
def test_float32_sweep_is_float64_tensors(squared):
    fixed, moving, mask = images(7, (12, 13, 14))
    moving[:6] = 1 - moving[:6]
    exact = lncc(fixed, moving, mask, radius=2, squared=squared)
    swept = lncc(fixed.float(), moving.float(), mask.float(), radius=2, squared=squared)
    assert swept.loss == pytest.approx(exact.loss, rel=1e-5)
    for name in ("fixed", "moving", "fixed_scale", "moving_scale"):
        a, b = getattr(exact, name), getattr(swept, name).double()
        # A root near zero is as wrong as the root of what rounding leaves.
        torch.testing.assert_close(a, b, rtol=1e-3, atol=(1e-4 if "scale" not in name else 2e-2) * float(a.abs().max()))


def test_squared_correlation_and_information_do_not_see_an_inversion():
    fixed, moving, mask = images(8)
    for name in ("lncc_squared", "mi", "nmi"):
        similarity = by_name(name)
        assert similarity(fixed, 1 - moving, mask).mean == pytest.approx(similarity(fixed, moving, mask).mean, rel=1e-9)


def test_information_of_gaussian_intensities_is_that_of_their_correlation():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(60, 60, 60, dtype=torch.float64, generator=g)
    b = 0.8 * a + 0.6 * torch.randn(60, 60, 60, dtype=torch.float64, generator=g)
    one = torch.ones_like(a)
    assert mutual_information(a, b, one) == pytest.approx(-0.5 * np.log(1 - 0.8**2), rel=0.08)
    assert mutual_information(a, torch.roll(a, 1, 0), one) < 0.01
    assert 1 - by_name("mi")(a, b, one).mean == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("make", [mind, gradient_directions])
def test_features_do_not_see_an_inversion_or_a_gain(make):
    fixed, _, _ = images(9)
    one = torch.ones_like(fixed)
    plain = make(fixed, one, noise=1e-9)
    torch.testing.assert_close(make(1 - fixed, one, noise=1e-9), plain, atol=1e-6, rtol=0)
    torch.testing.assert_close(make(2 * fixed + 1, one, noise=1e-9), plain, atol=1e-6, rtol=0)
    assert 0 <= float(plain.abs().max()) <= 1.0 + 1e-9


def test_mind_is_its_definition():
    fixed, _, _ = images(10, (9, 9, 9))
    found = mind(fixed, torch.ones_like(fixed), noise=0.0)[:, 4, 4, 4]
    near = [np.array(o) for o in ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))]
    distances = []
    for i, a in enumerate(near):
        for b in near[i + 1 :]:
            if not (a == -b).all():
                box = np.stack(np.meshgrid(*[[3, 4, 5]] * 3, indexing="ij"), -1).reshape(-1, 3)
                at = lambda o, box=box: fixed.numpy()[tuple((box + 2 * o).T)]  # noqa: E731
                distances.append(((at(a) - at(b)) ** 2).mean())
    distances = np.array(distances) - min(distances)
    expected = np.exp(-distances / distances.mean())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_mind_of_a_flat_image_is_one_without_noise():
    for dtype in (torch.float32, torch.float64):
        flat = torch.full((5, 6, 7), 0.3, dtype=dtype)
        assert float((mind(flat, torch.ones_like(flat), noise=0.0) - 1).abs().max()) == 0


def test_mind_in_float32_can_be_differentiated():
    fixed, _, mask = images(13)
    single, double = fixed.float().requires_grad_(), fixed.clone().requires_grad_()
    weights = torch.linspace(0, 1, 12)[:, None, None, None]
    for image in (single, double):
        (mind(image, mask.to(image.dtype), noise=0.1) * weights).sum().backward()
    torch.testing.assert_close(single.grad.double(), double.grad, rtol=1e-3, atol=1e-3)


def test_mind_of_a_noisy_image_is_near_that_of_the_image():
    """Noise adds the same to all distances, which are taken from the least."""
    ramp = torch.linspace(0, 2, 24)[:, None, None].expand(24, 24, 24).clone()  # two voxels: 0.17
    g = torch.Generator().manual_seed(2)
    noisy = ramp + 0.06 * torch.randn(ramp.shape, generator=g)
    one = torch.ones_like(ramp)
    clean, dirty = (mind(i, one, noise=0.01)[:, 5:-5, 5:-5, 5:-5].mean((1, 2, 3)) for i in (ramp, noisy))
    assert float((clean - dirty).abs().max()) < 0.12


@pytest.mark.parametrize("name", ["lncc", "mi", "mind", "ngf"])
def test_the_loss_of_unrelated_textures_is_about_one(name):
    g = torch.Generator().manual_seed(3)
    coarse = torch.rand(2, 1, 16, 16, 16, generator=g)
    pair = torch.nn.functional.interpolate(coarse, scale_factor=3, mode="trilinear")[:, 0]
    one = torch.ones_like(pair[0])
    assert 0.6 < float(loss(by_name(name), *pair, one)) < 1.4


@pytest.mark.parametrize("shape", [(12, 13, 14), (3, 1, 7), (2, 40, 5)])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_mind_in_float32_is_that_of_float64(shape, dilation):
    fixed, moving, mask = images(12, shape)
    for image, keep in ((fixed, torch.ones_like(mask)), (0.2 * moving, mask), (fixed * 0, mask), (fixed, mask * 0)):
        exact = mind(image, keep, noise=0.03, dilation=dilation)
        swept = mind(image.float(), keep.float(), noise=0.03, dilation=dilation)
        assert swept.dtype == torch.float32 and swept.is_contiguous()
        torch.testing.assert_close(swept.double(), exact, rtol=0, atol=3e-6)


def test_gradient_directions_compare_as_squared_cosines():
    g = torch.Generator().manual_seed(1)
    a, b = torch.rand(2, 6, 6, 6, dtype=torch.float64, generator=g)
    one = torch.ones_like(a)
    difference = gradient_directions(a, one, noise=0) - gradient_directions(b, one, noise=0)
    n, m = (torch.stack(torch.gradient(x)) for x in (a, b))
    cosine = (n * m).sum(0) / (n.norm(dim=0) * m.norm(dim=0))
    torch.testing.assert_close(difference.square().sum(0), 2 - 2 * cosine.square())
