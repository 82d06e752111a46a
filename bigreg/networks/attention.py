"""Self-attention within windows of voxels: each voxel looks at those of its window, every second time of a shifted one.

Where a voxel lies in a window is known by a bias for each offset between two voxels of a window (Swin, Liu et al.
2021), so nothing is tied to the size of a patch. Windows begin at the patch's first voxel. Features of any size are
padded to whole windows, and nobody looks at the padding.
"""

from __future__ import annotations

import math
from itertools import product

import torch
import torch.nn.functional as F
from torch import nn


class WindowAttention(nn.Module):
    """Features (N, z, y, x, C) to as many: what each voxel gathers from its window.

    window    edge of a window, voxels
    shifted   windows begin half an edge before the patch
    """

    def __init__(self, channels: int, heads: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.heads, self.window, self.before = heads, window, window // 2 if shifted else 0
        self.queries = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.bias = nn.Parameter(torch.zeros(heads, (2 * window - 1) ** 3))
        self.offsets: torch.Tensor
        self.register_buffer("offsets", _offsets(window), persistent=False)
        for layer in (self.queries, self.out):
            nn.init.normal_(layer.weight, std=math.sqrt(1.0 / channels))
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, *shape, channels = x.shape
        w = self.window
        ends = [-(size + self.before) % w for size in shape]
        pad = [0, 0, *(p for end in reversed(ends) for p in (self.before, end))]
        there = F.pad(self.queries(x), pad)
        counts = [size // w for size in there.shape[1:4]]
        windows = _split(there, counts, w)  # (N, windows, w^3, 3 C)
        q, k, v = windows.unflatten(-1, (3, self.heads, channels // self.heads)).permute(3, 0, 1, 4, 2, 5)
        mask = self.bias[:, self.offsets].to(q.dtype)  # (heads, w^3, w^3)
        if any(ends) or self.before:
            seen = F.pad(x.new_ones(1, *shape, 1, dtype=torch.bool), pad)
            hidden = ~_split(seen, counts, w)[0, :, None, None, :, 0]  # (windows, 1, 1, w^3); each window has a voxel
            mask = mask.masked_fill(hidden, -math.inf)[None].expand(n, *[-1] * 4).flatten(0, 1)
        q, k, v = (t.flatten(0, 1) for t in (q, k, v))
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        found = found.transpose(1, 2).reshape(n, *counts, w, w, w, channels)
        found = found.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(n, *there.shape[1:4], channels)
        inner = tuple(slice(self.before, self.before + size) for size in shape)
        return self.out(found[(slice(None), *inner)])


class AttentionBlock(nn.Module):
    """Attention and two layers of each voxel by itself, each added to what came in; (N, z, y, x, C)."""

    def __init__(self, channels: int, heads: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.before = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, window, shifted)
        self.between = nn.LayerNorm(channels)
        self.layers = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.before(x))
        return x + self.layers(self.between(x))


def _split(x: torch.Tensor, counts: list[int], w: int) -> torch.Tensor:
    """(N, z, y, x, C) of whole windows to (N, windows, w^3, C)."""
    n, c = len(x), x.shape[-1]
    x = x.reshape(n, counts[0], w, counts[1], w, counts[2], w, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(n, math.prod(counts), w**3, c)


def _offsets(window: int) -> torch.Tensor:
    """(w^3, w^3) number of the offset between any two voxels of a window."""
    places = torch.tensor(list(product(range(window), repeat=3)))
    apart = places[:, None] - places[None] + window - 1
    side = 2 * window - 1
    return (apart[..., 0] * side + apart[..., 1]) * side + apart[..., 2]
