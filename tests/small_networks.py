"""Small networks that do something: random ones that really move things, and ones fitted to a known shift."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn

from bigreg.networks import Network, build
from bigreg.networks.conditioning import Modulation
from bigreg.networks.maps import warp

SMALL = {
    "sitreg": {"encoder": [4, 6, 8], "update": [4, 6, 8]},
    "transmorph": {"stem": 4, "encoder": [8, 8], "head": 4, "window": 2, "last": 4},
    "invgan": {"width": 8, "last": 8},
    "voxelmorph": {"encoder": [4, 6, 6], "decoder": [6, 6], "last": 4},
}
SHIFT = (1.5, -1.0, 2.0)
CENTRE = (7.0, 8.0, 6.5)
SMOOTH = 3e-3
FITTING = {
    "sitreg": (3e-3, 50, 1),
    "invgan": (5e-3, 350, 1),
    "voxelmorph": (3e-3, 80, 2),
    "transmorph": (5e-3, 100, 1),
}  # rate, steps, seed


def images(seed: int, shape=(16, 32, 16), count: int = 1) -> list[torch.Tensor]:
    """Two noise images (count, 1, z, y, x) with detail of a few voxels."""
    g = torch.Generator().manual_seed(seed)
    smooth = nn.AvgPool3d(3, 1, 1)
    return [smooth(torch.rand(count, 1, *shape, generator=g)) for _ in range(2)]


def loud(name: str, more: dict | None = None, *, largest: float = 2.0, seed: int = 0) -> Network:
    """Random weights, the last layers scaled up until they move things by about `largest` voxels."""
    torch.manual_seed(seed)
    network = build(name, **{**SMALL[name], **(more or {})}).eval()
    ends = ("flow", "last")
    last = [m for n, m in network.named_modules() if isinstance(m, nn.Conv3d) and n.split(".")[-1] in ends]
    for layer in last:
        nn.init.normal_(layer.weight, std=0.3)
    for layer in network.modules():
        if isinstance(layer, Modulation):
            nn.init.normal_(layer.layer.weight, std=0.1)
    with torch.no_grad():
        a, b = images(0)
        moves = (network(a, b).to_fixed - network(b, a).to_fixed).abs().max() / 2  # what the two orders do not share
        for layer in last:
            layer.weight *= largest / moves
            if name == "sitreg":  # its bound bends what is large
                layer.weight *= 3
    return network


def blob(place, shape=(16, 16, 16)) -> torch.Tensor:
    """(1, 1, z, y, x) a bright spot."""
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij")
    return torch.exp(-sum((a - p) ** 2 for a, p in zip(axes, place, strict=True)) / 8)[None, None]


def shifted() -> tuple[torch.Tensor, torch.Tensor]:
    """fixed, and moving that shows at x + SHIFT what fixed shows at x."""
    return blob(CENTRE), blob([p + s for p, s in zip(CENTRE, SHIFT, strict=True)])


@lru_cache(maxsize=3)
def fitted(name: str) -> Network:
    """A network that was fitted to that one pair, in both orders."""
    rate, steps, seed = FITTING[name]
    torch.manual_seed(seed)
    network = build(name, **{**SMALL[name], **({"convs": 1} if name == "sitreg" else {})})
    fixed, moving = shifted()
    if not network.antisymmetric:
        fixed, moving = torch.cat([fixed, moving]), torch.cat([moving, fixed])
    adam = torch.optim.Adam(network.parameters(), rate)
    for _ in range(steps):
        found = network(fixed, moving)
        loss = (warp(moving, found.fixed_to_moving) - fixed).square().mean()
        loss = loss + (warp(fixed, found.moving_to_fixed) - moving).square().mean()
        # What a spot does not decide is left smooth: then the shift is its answer.
        for field in (found.fixed_to_moving, found.moving_to_fixed):
            loss = loss + SMOOTH * sum(field.diff(dim=axis).square().mean() for axis in (2, 3, 4))
        adam.zero_grad()
        loss.backward()
        adam.step()
    return network.eval()


def at_the_spot(displacement: torch.Tensor) -> list[float]:
    """Mean of (1, 3, z, y, x) where fixed is bright."""
    weight = blob(CENTRE)[0].square()
    return ((displacement[0] * weight).sum((1, 2, 3)) / weight.sum()).tolist()
