"""Whether fine detail agrees in place: told on images that are made so, and left open where they hold none."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bigreg.engines.affine import register_affine
from bigreg.engines.detail import LEAST, Detail, detail_in_place
from bigreg.engines.placed import Placed
from bigreg.geometry import Grid
from bigreg.similarity import by_name
from bigreg.transforms.affine import about, translation

SHAPE = (48, 56, 52)
SPACING = (3.0, 2.0, 2.0)
GRID = Grid.from_spacing(SHAPE, SPACING, (10.0, -20.0, 5.0))
CENTRE = np.mean(GRID.bounds(), axis=0)
SHIFT = np.array([4.0, -3.0, 5.0])
TURN = Rotation.from_rotvec(np.deg2rad((7.0, -5.0, 8.0))).as_matrix()


def grain(seed=0, sigma=1.2, shape=SHAPE):
    """Texture of blobs of about `sigma` voxels, 0 .. 1."""
    data = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return (0.5 + 0.15 * data / data.std()).clip(0, 1)


def glow(shape=SHAPE):
    """Light in one corner, brighter than any texture."""
    z, y, x = (np.linspace(0, 1, n) for n in shape)
    return 4 * np.exp(-(((z[:, None, None] - 0.3) ** 2 + (y[:, None] - 0.3) ** 2 + (x - 0.7) ** 2) / 0.1))


def placed(image, grid=GRID, mask=None):
    mask = None if mask is None else torch.as_tensor(mask, dtype=torch.float32)
    return Placed(torch.as_tensor(image, dtype=torch.float32).contiguous(), grid, mask)


def noisy(image, sd, seed):
    return image + sd * np.random.default_rng(seed).standard_normal(image.shape)


def seen_through(image, matrix):
    """The image as moving: what fixed shows at x is at `matrix` x."""
    moved, _ = placed(image).on(GRID, np.linalg.inv(matrix))
    return moved.numpy()


def test_detail_agrees_under_the_right_map_and_under_no_other():
    truth = about(TURN, CENTRE, CENTRE + SHIFT)
    fixed, moving = placed(grain()), placed(seen_through(grain(), truth))
    right = detail_in_place(fixed, moving, truth)
    assert right.lead > 2 * LEAST and right.trust > 0.999
    for wrong in (np.eye(4), truth @ translation((0.0, 12.0, 0.0)), about(np.diag([-1.0, -1.0, 1.0]), CENTRE)):
        found = detail_in_place(fixed, moving, wrong)
        assert abs(found.lead) < 4.0 and found.possible > LEAST and found.trust < 0.01


def test_a_glow_that_both_show_is_no_detail():
    fixed, other = placed(grain(1) + glow()), placed(grain(2) + glow())
    assert np.corrcoef(fixed.image.ravel(), other.image.ravel())[0, 1] > 0.95
    found = detail_in_place(fixed, other, np.eye(4))
    assert found.trust < 0.05 and found.possible > LEAST
    same = placed(noisy(0.5 * (grain(1) + glow()), 0.01, 3))
    assert detail_in_place(fixed, same, np.eye(4)).trust > 0.99


@pytest.mark.parametrize("turn", [TURN, Rotation.from_rotvec((0.0, np.pi, 0.0)).as_matrix() @ TURN, -TURN])
def test_exchanging_the_images_gives_the_same(turn):
    matrix = about(turn, CENTRE, CENTRE + SHIFT)
    mask = np.ones(SHAPE)
    mask[:7] = 0
    fixed, moving = placed(grain(), mask=mask), placed(noisy(seen_through(grain(), matrix), 0.02, 1))
    there, back = detail_in_place(fixed, moving, matrix), detail_in_place(moving, fixed, np.linalg.inv(matrix))
    assert there.lead > 2 * LEAST
    assert back.lead == pytest.approx(there.lead, rel=1e-3)
    assert back.possible == pytest.approx(there.possible, rel=1e-3)


def test_what_a_mask_leaves_out_does_not_count():
    mask, spoilt = np.ones(SHAPE), grain()
    mask[:, :20] = 0
    spoilt[:, :20] = grain(5)[:, :20] ** 4
    clean = detail_in_place(placed(grain(), mask=mask), placed(grain()), np.eye(4))
    found = detail_in_place(placed(spoilt, mask=mask), placed(grain()), np.eye(4))
    assert found.lead == pytest.approx(clean.lead, rel=0.02) and clean.lead > 2 * LEAST
    assert detail_in_place(placed(spoilt), placed(grain()), np.eye(4)).lead < 0.8 * clean.lead


def test_a_start_that_is_a_voxel_off_is_still_believed():
    fixed, moving = placed(grain()), placed(grain())
    assert detail_in_place(fixed, moving, translation((0.0, 2.0, 0.0))).trust > 0.95


@pytest.mark.parametrize("sigma", [0.0, 8.0])
def test_images_of_noise_or_of_nothing_fine_leave_it_open(sigma):
    """Two recordings of noise on one smooth image, and images so smooth that a shift changes nothing."""
    smooth = grain(sigma=10.0)
    pair = [smooth + 0.1 * np.random.default_rng(k).standard_normal(SHAPE) for k in range(2)]
    pair = [ndimage.gaussian_filter(image, sigma) if sigma else image for image in pair]
    found = detail_in_place(placed(pair[0]), placed(pair[1]), np.eye(4))
    assert found.possible < LEAST and found.trust == 1.0


@pytest.mark.parametrize("shape", [(8, 8, 8), (60, 12, 12)])
def test_images_too_small_to_be_shifted_leave_it_open(shape):
    grid = Grid.from_spacing(shape, (1.0, 1.0, 1.0))
    assert detail_in_place(placed(grain(shape=shape), grid), placed(grain(1, shape=shape), grid), np.eye(4)) is None


def test_a_thin_stack_is_shifted_in_its_plane():
    shape = (7, 60, 52)
    grid = Grid.from_spacing(shape, (1.0, 1.0, 1.0))
    first, second = (placed(grain(k, shape=shape), grid) for k in (0, 1))
    assert detail_in_place(first, first, np.eye(4)).lead > 2 * LEAST
    assert detail_in_place(first, second, np.eye(4)).trust < 0.01


def test_trust_falls_below_the_least_and_only_where_more_was_possible():
    assert Detail(LEAST, 20.0).trust == pytest.approx(0.5)
    assert Detail(LEAST + 2, 20.0).trust > 0.99 and Detail(LEAST - 2, 20.0).trust < 0.01
    assert Detail(0.8 * LEAST, 1.2 * LEAST).trust > 0.95 and Detail(0.1 * LEAST, 1.2 * LEAST).trust < 0.01
    assert Detail(1.0, LEAST - 0.1).trust == 1.0


def test_a_start_that_a_glow_leads_astray_is_doubted_and_the_warning_says_why():
    """Both show the same glow and the same outline; the texture is another one."""
    pair = [torch.as_tensor(grain(seed) + glow(), dtype=torch.float32) / 5 for seed in (1, 2)]
    result = register_affine(*pair, GRID, GRID, kind="rigid", similarity=by_name("lncc"), starts=("identity",))
    assert result.confidence < 0.5
    assert any("fine detail does not agree in place" in w for w in result.warnings)


def test_a_start_that_is_given_is_not_asked_for_its_detail():
    pair = [torch.as_tensor(grain(seed) + glow(), dtype=torch.float32) / 5 for seed in (1, 2)]
    result = register_affine(*pair, GRID, GRID, kind="rigid", similarity=by_name("lncc"), start=np.eye(4))
    assert not any("fine detail" in w for w in result.warnings)
