"""Attention within windows: right beside a plain loop, of any size, and blind to its padding."""

from __future__ import annotations

import pytest
import torch

from bigreg.networks import build
from bigreg.networks.attention import WindowAttention

from ..small_networks import SMALL, images, loud


def attention(shifted: bool, window: int = 2) -> WindowAttention:
    torch.manual_seed(0)
    layer = WindowAttention(8, 2, window, shifted)
    torch.nn.init.normal_(layer.bias)
    return layer.double()


def by_hand(layer: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    """Voxel by voxel: softmax over the voxels of its window that are in the patch."""
    out = torch.zeros_like(x)
    w, side = layer.window, 2 * layer.window - 1
    places = list(torch.cartesian_prod(*[torch.arange(n) for n in x.shape[1:4]]).tolist())
    parts = layer.queries(x).unflatten(-1, (3, layer.heads, -1))
    home = {tuple(p): tuple((i + layer.before) // w for i in p) for p in places}
    for place in home:
        near = [p for p in home if home[p] == home[place]]
        for head in range(layer.heads):
            q = parts[(0, *place, 0, head)]
            keys, values = (torch.stack([parts[(0, *p, k, head)] for p in near]) for k in (1, 2))
            apart = [[a - b + w - 1 for a, b in zip(place, p, strict=True)] for p in near]
            bias = torch.stack([layer.bias[head, (z * side + y) * side + x] for z, y, x in apart])
            score = keys @ q / len(q) ** 0.5 + bias
            out[(0, *place)][head * len(q) : (head + 1) * len(q)] = torch.softmax(score, 0) @ values
    return layer.out(out)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("shape", [(2, 4, 4), (1, 3, 4), (3, 2, 5)])
def test_it_is_that_of_a_plain_loop_whatever_the_size(shape, shifted):
    layer = attention(shifted)
    x = torch.randn(1, *shape, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), by_hand(layer, x))


def test_the_items_of_a_batch_do_not_see_each_other():
    layer = attention(True, window=4)
    x = torch.randn(3, 5, 6, 4, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[1:2], layer(x[1:2]))


@pytest.mark.parametrize("shape", [(8, 8, 8), (16, 24, 8), (40, 16, 24)])
def test_transmorph_takes_patches_of_any_size_and_says_the_same_twice(shape):
    network = loud("transmorph")
    a, b = images(1, shape)
    with torch.inference_mode():
        one, two = network(a, b), network(a, b)
    for name, value in vars(one).items():
        assert value.shape == (1, 3, *shape) and torch.equal(value, getattr(two, name))
    assert float(one.to_fixed.abs().max()) > 0.1


def test_every_weight_of_transmorph_learns():
    torch.manual_seed(0)
    network = build("transmorph", **SMALL["transmorph"], correlation=True)
    a, b = images(1)
    network(a, b).fixed_to_moving.square().sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in network.parameters())


def test_transmorph_is_as_small_as_it_says():
    assert 0.3e6 < build("transmorph").parameter_count < 1e6
