"""Networks: bounds, symmetry, independence of the patch, and which way is which."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bigreg.errors import ConfigError
from bigreg.networks import architectures, build
from bigreg.networks.discriminators import FlowDiscriminator, PairDiscriminator
from bigreg.networks.maps import compose, exponential, finer, warp
from bigreg.networks.spline import BOUND, bounded
from bigreg.transforms import bspline, field

from ..small_networks import SHIFT, SMALL, at_the_spot, fitted, images, loud, shifted

VARIANTS = [
    ("sitreg", {"finest": 1}),
    ("sitreg", {"correlation": True, "convs": 1}),
    ("sitreg", {"regularisation": [0.1, 2.0]}),
]
SEEING = [(name, {"correlation": True}) for name in ("invgan", "voxelmorph", "transmorph")]
ALL = [(name, {}) for name in SMALL] + VARIANTS + SEEING


@pytest.mark.parametrize("name", sorted(SMALL))
def test_an_untrained_network_is_about_the_identity(name):
    torch.manual_seed(0)
    found = build(name)(*images(0))
    for part in vars(found).values():
        assert part.shape == (1, 3, 16, 32, 16) and part.dtype == torch.float32
        assert float(part.detach().abs().max()) < 1e-2


def test_invgan_has_the_size_of_the_authors():
    assert build("invgan").parameter_count == pytest.approx(393_000, rel=0.01)


@pytest.mark.parametrize(("name", "more"), ALL)
def test_settings_make_the_same_network_again(name, more):
    network = loud(name, more)
    again = build(name, **network.settings).eval()
    again.load_state_dict(network.state_dict())
    a, b = images(1)
    assert torch.equal(network(a, b).to_fixed, again(a, b).to_fixed)


@pytest.mark.parametrize(("name", "more"), [("sitreg", {}), *VARIANTS])
def test_sitreg_exchanges_the_maps_with_the_images(name, more):
    network = loud(name, more)
    a, b = images(1)
    with torch.inference_mode():
        one, other = network(a, b), network(b, a)
    assert float(one.to_fixed.abs().max()) > 0.5
    pairs = [("to_fixed", "to_moving"), ("fixed_to_moving", "moving_to_fixed")]
    for there, back in pairs + [p[::-1] for p in pairs]:
        assert float((getattr(one, there) - getattr(other, back)).abs().max()) < 1e-5


def test_sitreg_stays_within_its_reach_whatever_its_weights_are():
    network = loud("sitreg")
    for update in network.updates.values():
        update.last.weight.data *= 1e3
    with torch.inference_mode():
        found = network(*images(2))
    largest = [float(half.abs().max()) for half in (found.to_fixed, found.to_moving)]
    assert 1.0 < max(largest) <= network.reach


def test_sitreg_wholes_are_each_others_inverse():
    with torch.inference_mode():
        # Rough maps lose more by being sampled at voxels: so these move little.
        found = loud("sitreg", largest=0.07)(*images(3))
    error = compose(found.fixed_to_moving, found.moving_to_fixed)[:, :, 4:-4, 8:-8, 4:-4]
    assert float(found.fixed_to_moving.abs().max()) > 0.5
    assert float(error.abs().quantile(0.999)) < 0.1


@pytest.mark.parametrize("name", sorted(SMALL))
def test_halves_and_wholes_say_the_same(name):
    """F o (id + to_fixed) and M o (id + to_moving) match, so f2m o (id + to_fixed) is to_moving, for small motion."""
    with torch.inference_mode():
        found = loud(name, largest=0.07 if name == "sitreg" else 0.3)(*images(4))
    if name == "invgan":  # its two flows agree only once it is trained
        assert torch.equal(found.to_fixed, (found.moving_to_fixed - found.fixed_to_moving) / 4)
        assert torch.equal(found.to_moving, -found.to_fixed)
        return
    error = compose(found.fixed_to_moving, found.to_fixed) - found.to_moving
    assert float(found.to_moving.abs().mean()) > 5 * float(error.abs().mean())


@pytest.mark.parametrize(("name", "more"), ALL)
def test_what_is_said_of_a_voxel_does_not_depend_on_the_patch(name, more):
    """Two overlapping patches, of other surroundings elsewhere, agree where neither sees its border."""
    network = loud(name, more, largest=1.0)
    if name == "sitreg":
        network.tolerance = 1e-4
    step = network.factor * network.settings.get("window", 1)
    a, b = images(5, (16, 16, 96 + step))
    part = lambda i: i[..., step:]  # noqa: E731
    with torch.inference_mode():
        whole, cut = network(a, b).to_fixed, network(part(a).contiguous(), part(b).contiguous()).to_fixed
    moved = (part(whole) - cut).abs()
    assert float(whole.abs().max()) > 0.5
    assert float(moved[..., -8:].max()) < 1e-3
    assert float(moved[..., -8:].max()) < 1e-2 * float(moved.max())


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_patch_of_the_wrong_size_is_refused(name):
    network = loud(name)
    with pytest.raises(ValueError, match="multiples of"):
        network(*images(0, (16, 31, 16)))
    with pytest.raises(ValueError, match="patches must be"):
        network(images(0)[0], images(0, (16, 16, 16))[0])


def test_unknown_architectures_and_settings_are_named():
    with pytest.raises(ConfigError, match=r"'magic' does not exist; use one of invgan, sitreg, transmorph, voxelmorph"):
        build("magic")
    with pytest.raises(ConfigError, match="wings"):
        build("sitreg", wings=2)
    with pytest.raises(ConfigError, match="one width per level"):
        build("sitreg", encoder=[4, 4], update=[4])
    for bounds in ([2.0, 1.0], [0.0, 1.0], [1.0, float("inf")]):
        with pytest.raises(ConfigError, match="a smallest and a larger weight"):
            build("sitreg", regularisation=bounds)
    with pytest.raises(ConfigError, match="multiples of the 16 channels of a head"):
        build("transmorph", encoder=[40])
    with pytest.raises(ConfigError, match="window 3 must be even"):
        build("transmorph", window=3)
    assert architectures() == sorted(SMALL)


# ---------------------------------------------------------------------------------------------- maps and splines


def smooth_field(shape=(12, 14, 16), size=1.5, seed=0):
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randn(2, 3, *(n // 4 + 1 for n in shape), generator=g)
    return size * nn.functional.interpolate(coarse, shape, mode="trilinear", align_corners=True)


def test_maps_are_those_of_the_transforms():
    u, v = smooth_field(seed=1), smooth_field(seed=2)
    for n in range(2):
        one = (1.0, 1.0, 1.0)
        torch.testing.assert_close(compose(u, v)[n], field.compose(u[n], v[n], one), atol=1e-4, rtol=0)
        torch.testing.assert_close(exponential(u, 5)[n], field.exponential(u[n], one, 5), atol=1e-3, rtol=0)


def test_a_finer_map_is_the_same_map():
    shape = (6, 8, 10)
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) + 0.5 for n in shape], indexing="ij")
    linear = torch.stack([0.1 * axes[0] - 0.2 * axes[2], 0.3 * axes[1], -0.1 * axes[0]])[None]
    axes = torch.meshgrid(*[torch.arange(2 * n, dtype=torch.float32) + 0.5 for n in shape], indexing="ij")
    expected = torch.stack([0.1 * axes[0] - 0.2 * axes[2], 0.3 * axes[1], -0.1 * axes[0]])[None]
    inner = (..., slice(2, -2), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(finer(linear)[inner], expected[inner], atol=1e-4, rtol=0)


def test_a_spline_is_that_of_the_lattice_and_keeps_its_bound():
    raw = torch.randn(1, 3, 5, 7, 6) * 10
    found = bounded(raw)
    assert float(found.abs().max()) <= BOUND < 0.36
    points = nn.functional.pad(BOUND * torch.tanh(raw), (2,) * 6, mode="replicate")[0]
    torch.testing.assert_close(found[0], bspline.evaluate(points, (1, 1, 1)), atol=1e-6, rtol=0)
    hostile = bounded(1e3 * (torch.randint(0, 2, (1, 3, 12, 12, 12)) * 2.0 - 1.0))
    assert float(field.min_determinant(hostile[0], (1.0, 1.0, 1.0)).min()) > 0


def test_a_warp_looks_where_it_is_told():
    image = torch.arange(5.0).reshape(1, 1, 1, 1, 5)
    move = torch.zeros(1, 3, 1, 1, 5)
    move[:, 2] = 1.5
    assert warp(image, move).flatten().tolist() == [1.5, 2.5, 3.5, 4.0, 4.0]


# ---------------------------------------------------------------------------------------------- which way is which


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_network_fitted_to_a_known_shift_moves_the_right_way(name):
    """moving shows at x + s what fixed shows at x: fixed_to_moving is s, to_fixed -s / 2 and to_moving s / 2."""
    fixed, moving = shifted()
    network = fitted(name)
    with torch.inference_mode():
        found = network(fixed, moving)
        matched = (warp(fixed, found.to_fixed) - warp(moving, found.to_moving)).square().mean()
    assert float(matched) < 0.1 * float((fixed - moving).square().mean())
    for part, share in (("fixed_to_moving", 1), ("moving_to_fixed", -1), ("to_fixed", -0.5), ("to_moving", 0.5)):
        assert at_the_spot(getattr(found, part)) == pytest.approx([share * s for s in SHIFT], abs=0.4)


def test_discriminators_return_a_logit_a_patch():
    torch.manual_seed(0)
    pair, flow = PairDiscriminator(), FlowDiscriminator()
    assert pair.factor == 64 and sum(p.numel() for p in pair.parameters()) == pytest.approx(22_000, rel=0.05)
    logit = pair(torch.rand(3, 2, 64, 64, 64))
    assert logit.shape == (3,)
    assert flow(torch.randn(2, 3, 32, 32, 64)).shape == (2,)
    pair.layers[-1].bias.data += 7  # nothing squashes it: it is a logit
    torch.testing.assert_close(pair(torch.rand(3, 2, 64, 64, 64)) - logit, torch.full((3,), 7.0), atol=0.2, rtol=0)
    with pytest.raises(ValueError, match="multiples of 64"):
        pair(torch.rand(1, 2, 32, 32, 32))
