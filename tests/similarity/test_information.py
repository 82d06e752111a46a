"""The float32 sweeps of mutual information against the float64 tensors."""

import pytest
import torch

from bigreg.similarity import by_name, mutual_information
from bigreg.similarity.information import _Sweeps, _Tensors

NAMES = ("mi", "nmi")


def noise(shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    fixed = torch.rand(shape, generator=g)
    return fixed, 0.6 * (1 - fixed) + 0.4 * torch.rand(shape, generator=g)


def tissue(shape, seed=0):
    """Smooth images whose relation is neither linear nor monotone, one of few bright voxels."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, *(n // 4 + 2 for n in shape), generator=g)
    base = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0, 0]
    return base**6, (base - 0.5).square() + 0.02 * torch.rand(shape, generator=g)


def ball(shape):
    z, y, x = (torch.linspace(-1, 1, n) for n in shape)
    return ((z[:, None, None] ** 2 + y[:, None] ** 2 + x**2) < 0.7).float()


CASES = {
    "noise": (*noise((9, 21, 17)), torch.ones(9, 21, 17)),
    "noise in a mask of holes": (*noise((12, 13, 14), 1), (noise((12, 13, 14), 2)[0] > 0.3).float()),
    "tissue": (*tissue((24, 26, 22)), torch.ones(24, 26, 22)),
    "tissue in a ball": (*tissue((24, 26, 22), 1), ball((24, 26, 22))),
    "thin and long": (*tissue((4, 70, 9), 2), torch.ones(4, 70, 9)),
    "one column": (*noise((300, 1, 1), 3), torch.ones(300, 1, 1)),
    "offset that dwarfs the contrast": (*(i * 0.01 + 3.0 for i in noise((12, 13, 14), 4)), torch.ones(12, 13, 14)),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CASES)
def test_sweeps_are_the_float64_tensors(case, name):
    fixed, moving, mask = CASES[case]
    similarity = by_name(name)
    exact = similarity(fixed.double(), moving.double(), mask.double())
    swept = similarity(fixed, moving, mask)
    # Intensities are known to 6e-8 of their size, places among the bins to 28 times that share of the range.
    slack = 1e-3 if "dwarfs" in case else 2e-5
    assert swept.weight == exact.weight
    assert swept.loss == pytest.approx(exact.loss, rel=slack)
    for found, wanted in ((swept.fixed, exact.fixed), (swept.moving, exact.moving)):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=10 * slack * float(wanted.abs().max()))
    torch.testing.assert_close(swept.fixed_scale.double(), exact.fixed_scale, rtol=1e-5, atol=0)
    torch.testing.assert_close(swept.moving_scale.abs().double(), exact.moving_scale.abs(), rtol=1e-5, atol=0)
    # An intensity on the edge of two bins may fall to either.
    signs = torch.sign(swept.moving_scale.double()) == torch.sign(exact.moving_scale)
    assert float(signs.double().mean()) > 0.998
    assert mutual_information(fixed, moving, mask) == pytest.approx(
        mutual_information(fixed.double(), moving.double(), mask.double()), rel=10 * slack
    )


@pytest.mark.parametrize("case", CASES)
def test_sweeps_make_the_joint_histogram_of_the_tensors(case):
    fixed, moving, mask = CASES[case]
    swept = _Sweeps(fixed, moving, mask, 32).joint()
    exact = _Tensors(fixed.double(), moving.double(), mask.double(), 32).joint()
    assert float(swept.min()) >= 0
    torch.testing.assert_close(swept, exact, rtol=0, atol=(1e-4 if "dwarfs" in case else 1e-6) * float(exact.max()))


@pytest.mark.parametrize("name", NAMES)
def test_sweeps_do_not_read_what_the_mask_leaves_out(name):
    fixed, moving, mask = CASES["tissue in a ball"]
    clean = by_name(name)(fixed, moving, mask)
    for value in (float("nan"), float("inf"), -1e30):
        spoilt = [torch.where(mask > 0, image, value) for image in (fixed, moving)]
        forces = by_name(name)(*spoilt, mask)
        assert forces.loss == clean.loss
        for part in ("fixed", "moving", "fixed_scale", "moving_scale"):
            assert torch.equal(getattr(forces, part), getattr(clean, part))
            assert float(getattr(forces, part)[mask == 0].abs().max()) == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_sweeps_of_a_constant_image_have_no_forces(name, value):
    fixed, _, mask = CASES["tissue in a ball"]
    forces = by_name(name)(fixed, torch.full_like(fixed, value), mask)
    assert forces.loss == forces.weight == float(mask.sum())
    assert float(forces.fixed.abs().max()) == float(forces.fixed_scale.abs().max()) == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("voxels", [0, 1, 2])
def test_sweeps_of_next_to_no_voxels_are_the_tensors(name, voxels):
    fixed, moving = noise((3, 4, 5))
    mask = torch.zeros(60)
    mask[7 : 7 + voxels] = 1
    mask = mask.reshape(fixed.shape)
    swept = by_name(name)(fixed, moving, mask)
    exact = by_name(name)(fixed.double(), moving.double(), mask.double())
    assert swept.weight == exact.weight == (voxels if voxels > 1 else 0)
    assert swept.loss == pytest.approx(exact.loss, abs=1e-5)
    for part in ("fixed", "moving", "fixed_scale", "moving_scale"):
        # Two voxels show no trend, so the sign of the scale is that of rounding.
        found, wanted = getattr(swept, part).double().abs(), getattr(exact, part).abs()
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_sweeps_give_the_same_bits_and_take_strided_images(name):
    fixed, moving, mask = CASES["tissue in a ball"]
    there, again = (
        by_name(name)(fixed, moving, mask),
        by_name(name)(fixed.permute(2, 1, 0).contiguous().permute(2, 1, 0), moving, mask.double()),
    )
    assert there.loss == again.loss
    for part in ("fixed", "moving", "fixed_scale", "moving_scale"):
        assert torch.equal(getattr(there, part), getattr(again, part))
