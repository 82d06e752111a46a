"""Patches of several channels: every engine that takes them adds up what each says, and swaps as with one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from bigreg.engines.base import ChannelPair, PatchPair
from bigreg.engines.discrete import Discrete
from bigreg.engines.network import SITRegEngine
from bigreg.engines.optimise import Optimise
from bigreg.engines.parts import cut
from bigreg.geometry import Lattice

CELLS = (8, 8, 8)
LATTICE = Lattice(CELLS, (8.0, 8.0, 8.0), (0.0, 0.0, 0.0), (4, 4, 4))
SHAPE = tuple(4 * c for c in CELLS)


def texture(seed: int) -> np.ndarray:
    image = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 1.5)
    return (0.5 + 0.2 * image / image.std()).astype(np.float32)


def moved(image: np.ndarray, shift) -> np.ndarray:
    return ndimage.shift(image, shift, order=3, mode="nearest").astype(np.float32)


def channel(image: np.ndarray, shift=(0.0, 1.0, -0.6), **more) -> ChannelPair:
    """The image, and where it has moved to."""
    one = torch.ones(SHAPE)
    fixed, moving = (torch.as_tensor(i)[None].contiguous() for i in (image, moved(image, shift)))
    return ChannelPair(fixed, moving, one, one, **more)


def patch(first: ChannelPair, *others: ChannelPair) -> PatchPair:
    return PatchPair(
        first.fixed, first.moving, first.fixed_mask, first.moving_mask, LATTICE, similarity=first.similarity,
        weight=first.weight, others=others,
    )  # fmt: skip


def halves(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The texture of either half, flat in the other."""
    near = (np.arange(SHAPE[1]) < SHAPE[1] // 2)[None, :, None]
    return np.where(near, image, 0.5), np.where(near, 0.5, image)


ENGINES = {
    "optimise": lambda: Optimise(iterations=20),
    "discrete": lambda: Discrete(),
    "sitreg": lambda: SITRegEngine(weights="random"),
}


@pytest.fixture(params=ENGINES)
def engine(request, one_thread):
    return ENGINES[request.param]()


def test_the_same_channel_twice_with_half_the_weight_is_that_channel(engine):
    once = engine.estimate(patch(channel(texture(1))))
    half = channel(texture(1), weight=0.5)
    twice = engine.estimate(patch(half, half))
    torch.testing.assert_close(twice.coefficients, once.coefficients, atol=2e-3, rtol=1e-3)


def test_exchanging_the_images_negates_the_velocity(engine):
    pair = patch(channel(texture(1)), channel(texture(2), weight=0.7, similarity="ncc"))
    there, back = engine.estimate(pair), engine.estimate(pair.swapped())
    torch.testing.assert_close(there.coefficients, -back.coefficients, atol=2e-3, rtol=1e-3)


def test_other_channels_count(engine):
    pair = patch(channel(texture(1)), channel(texture(2)))
    alone = engine.estimate(replace(pair, others=()))
    assert (engine.estimate(pair).coefficients - alone.coefficients).abs().max() > 1e-3


def test_a_channel_steers_where_the_other_is_flat(one_thread):
    first, second = halves(texture(3))
    found, alone = (
        Optimise(iterations=30).estimate(patch(channel(first), *more)).coefficients
        for more in ([channel(second, (0.0, -1.0, 0.6))], [])
    )
    far = (slice(None), slice(4, -4), slice(8, -3), slice(4, -4))
    wanted = torch.tensor([0.0, 0.5, -0.3])[:, None, None, None] * 2.0  # half for each image; 2 um a voxel
    assert (found[far] - wanted).norm(dim=0).mean() < 0.25 * wanted.norm()
    assert (alone[far] - wanted).norm(dim=0).mean() > 2 * (found[far] - wanted).norm(dim=0).mean()


def test_masks_are_of_each_channel(one_thread):
    """What one channel does not know does not keep another from being compared there."""
    whole = texture(3)
    unknown = replace(channel(texture(4)), fixed_mask=torch.zeros(SHAPE), moving_mask=torch.zeros(SHAPE))
    alone = Optimise().estimate(patch(channel(whole)))
    both = Optimise().estimate(patch(unknown, channel(whole)))
    torch.testing.assert_close(both.coefficients, alone.coefficients, atol=1e-4, rtol=1e-4)


def test_networks_weigh_channels_by_their_confidence(one_thread):
    flat = channel(np.full(SHAPE, 0.5, np.float32))
    engine = SITRegEngine(weights="random")
    alone, both = engine.estimate(patch(channel(texture(1)))), engine.estimate(patch(flat, channel(texture(1))))
    torch.testing.assert_close(both.coefficients, alone.coefficients, atol=3e-3, rtol=1e-3)


def test_sigma_falls_with_a_second_channel(one_thread):
    pair = replace(patch(channel(texture(1)), channel(texture(2))), sigma=True)
    both, alone = (Optimise().estimate(p).sigma for p in (pair, replace(pair, others=())))
    assert both is not None and alone is not None
    assert both.nanmedian() < 0.9 * alone.nanmedian()


def test_a_part_of_a_patch_has_all_channels():
    pair = patch(channel(texture(1)), channel(texture(2), weight=0.3, similarity="mi"))
    part = cut(pair, 1, 2, 6)
    (other,) = part.others
    assert (other.weight, other.similarity) == (0.3, "mi")
    assert torch.equal(other.moving, pair.others[0].moving[:, :, 8:24])
    assert other.fixed_mask.shape == part.fixed_mask.shape


def test_labels_pull_by_their_squared_difference(one_thread):
    """One-hots of a ball that is moved, in images that say nothing."""
    places = np.linalg.norm(np.indices(SHAPE) - 15.5, axis=0)
    ball = ndimage.gaussian_filter((places < 8).astype(np.float32), 1.5)
    flat = channel(np.full(SHAPE, 0.5, np.float32))
    labels = channel(ball, similarity="mse", labels=True, weight=4.0)
    found = Optimise(iterations=60, regularisation=0.1).estimate(patch(flat, labels)).coefficients
    middle = found[:, 4:-4, 4:-4, 4:-4].mean((1, 2, 3)) / 2.0
    assert torch.allclose(middle, torch.tensor([0.0, -0.5, 0.3]), atol=0.1)
