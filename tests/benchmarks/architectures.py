"""Size and cost of registration networks, computed from the layers that their authors publish; nothing is run of them.

    python tests/benchmarks/architectures.py

Prints a Markdown table: parameters, multiply-adds a voxel of the patch, and what all convolutions and linear layers and
the scores of attention come to in a patch of 128^3 in float32, which a training keeps for the gradient. Each network
once for a pair, as its authors use it; those of bigreg as the engines use them, in both orders where they are not
symmetric. Warps, normalisations, activations and the exponential of a velocity are not counted. Layers are as in the
authors' papers and repositories, with their defaults.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bigreg.networks import build
from bigreg.networks.attention import WindowAttention

PATCH = 128


@dataclass
class Cost:
    """parameters; multiply-adds and numbers of output a voxel of the patch."""

    parameters: float = 0.0
    work: float = 0.0
    outputs: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.parameters + other.parameters, self.work + other.work, self.outputs + other.outputs)

    def times(self, parameters: float, runs: float) -> Cost:
        return Cost(self.parameters * parameters, self.work * runs, self.outputs * runs)


def conv(before: int, after: int, level: float, kernel: int = 3, bias: bool = True, stride_up: bool = False) -> Cost:
    """Output at 1 / 2^level of the resolution; a transposed one with kernel 2 has one tap a voxel."""
    taps = kernel**3
    here = 8.0**-level
    work = before * after * (taps / 8 if stride_up else taps) * here
    return Cost(before * after * taps + after * bias, work, after * here)


def total(*parts: Cost) -> Cost:
    return sum(parts, Cost())


def swin(width: int, heads: int, window: int, level: float, ratio: int = 4) -> Cost:
    """A block: queries, keys, values and their projection, two layers of `ratio`; scores and sums over a window."""
    here = 8.0**-level
    dense = (4 + 2 * ratio) * width**2
    work = (dense + 2 * window * width) * here
    return Cost(dense + (9 + ratio) * width, work, ((5 + ratio) * width + heads * window) * here)


def voxelmorph(half: bool = False) -> Cost:
    """U-Net of strided convolutions; its last three layers at full resolution or at half of it."""
    enc = [conv(2, 16, 1), conv(16, 32, 2), conv(32, 32, 3), conv(32, 32, 4)]
    dec = [conv(32, 32, 4), conv(64, 32, 3), conv(64, 32, 2), conv(48, 32, 1), conv(32, 32, 1)]
    level = 1 if half else 0
    return total(*enc, *dec, conv(32 if half else 34, 16, level), conv(16, 16, level), conv(16, 3, level))


def hypermorph() -> Cost:
    """Every weight of the U-Net is a linear function of 128 units, behind five more layers of as many."""
    inner = voxelmorph(half=True)
    units = 128
    made = Cost((units + 1) * inner.parameters + 5 * (units + 1) * units, 0.0, 0.0)
    return made + Cost(0.0, inner.work + made.parameters / PATCH**3, inner.outputs)


def unet_of_three(first: int) -> Cost:
    """The U-Net of CycleMorph and of DiffuseMorph's deformation."""
    enc = [conv(2, first, 0), conv(first, 32, 1), *(conv(32, 32, k) for k in (2, 3, 4))]
    up = [conv(32, 32, k, stride_up=True) for k in (3, 2, 1)] + [conv(8, 8, 0, stride_up=True)]
    dec = [conv(64, 32, 3), conv(64, 32, 2), conv(64, 32, 1), conv(32, 8, 1), conv(8 + first, 8, 0), conv(8, 3, 0)]
    return total(*enc, *up, *dec)


def diffusemorph() -> Cost:
    """The network that estimates the noise (8 channels, times 1, 2, 4, 4), and the one of the deformation."""
    inner, mults = 8, (1, 2, 4, 4)
    parts, before, seen = [conv(3, inner, 0)], inner, [inner]

    def block(a: int, b: int, level: int) -> Cost:
        return conv(a, b, level) + conv(b, b, level) + (conv(a, b, level, 1) if a != b else Cost())

    for level, m in enumerate(mults):
        parts.append(block(before, inner * m, level))
        before = inner * m
        seen.append(before)
        if level < len(mults) - 1:
            parts.append(conv(before, before, level + 1))
            seen.append(before)
    parts += [block(before, before, 3), block(before, before, 3), conv(before, 4 * before, 3, 1)]
    for level in reversed(range(len(mults))):
        for _ in range(2):
            parts.append(block(before + seen.pop(), inner * mults[level], level))
            before = inner * mults[level]
        if level:
            parts.append(conv(before, before, level - 1))
    return total(*parts, conv(before, 1, 0)) + unet_of_three(16)


def lapirn() -> Cost:
    """Three levels of one network each, 28 channels; five residual blocks of two convolutions at half of a level."""
    c, parts = 28, []
    for level in (2, 1, 0):
        parts += [conv(2 if level == 2 else 5, c, level, bias=False), conv(c, c, level, bias=False)]
        parts += [conv(c, c, level + 1, bias=False) for _ in range(11)]
        parts += [conv(c, c, level, 2, bias=False, stride_up=True)]
        parts += [conv(2 * c, c, level, bias=False), conv(c, 3, level, bias=False)]
    return total(*parts)


def transmorph() -> Cost:
    """96 channels, blocks 2 2 4 2, windows of 5 x 6 x 7, and the convolutional decoder."""
    e, parts = 96, [conv(2, 96, 2, 4)]
    for k, depth in enumerate((2, 2, 4, 2)):
        width = e * 2**k
        parts += [swin(width, 4 if k < 2 else 8, 5 * 6 * 7, 2 + k) for _ in range(depth)]
        if k < 3:
            parts.append(conv(8 * width, 2 * width, 3 + k, 1, bias=False))
    parts += [conv(2, e // 2, 1, bias=False), conv(2, 16, 0, bias=False)]
    steps = [(768, 384, 384, 4), (384, 192, 192, 3), (192, 96, 96, 2), (96, 48, 48, 1), (48, 16, 16, 0)]
    for before, skip, after, level in steps:
        parts += [conv(before + skip, after, level, bias=False), conv(after, after, level, bias=False)]
    return total(*parts, conv(16, 3, 0))


def c2fvit() -> Cost:
    """An affine: three stages of four blocks with attention among all 1/8^3 of the voxels, of each pyramid level."""
    width, parts = 256, []
    tokens = (PATCH // 8) ** 3
    for level, kernel in ((2, 3), (1, 7), (0, 15)):
        parts.append(conv(2, width, 3, kernel))
        dense = (4 + 2 * 2) * width**2
        depthwise = 27 * 2 * width
        work = (dense + depthwise + 2 * tokens * width) / 512
        parts += [Cost(dense + depthwise + 4 * width, work, (9 * width + 2 * tokens) / 512)] * 4  # two heads
        if level:
            parts.append(conv(width, width, 3))
    return total(*parts)


def of_bigreg(name: str, **settings) -> Cost:
    """Counted while a patch of 64^3 goes through."""
    network = build(name, **settings).eval()
    size, outputs = 64, 0

    def count(module, inputs, output) -> None:
        nonlocal outputs
        if isinstance(module, WindowAttention):
            outputs += output[..., 0].numel() * module.heads * module.window**3
        else:
            outputs += output.numel()

    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d | nn.Linear | WindowAttention):
            module.register_forward_hook(count)
    pair = list(torch.rand(2, 1, 1, size, size, size))
    if not network.antisymmetric:
        pair = [torch.cat([a, b]) for a, b in (pair, pair[::-1])]
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        network(*pair)
    return Cost(network.parameter_count, counter.get_total_flops() / 2 / size**3, outputs / size**3)


PUBLISHED = {
    "VoxelMorph": voxelmorph,
    "VoxelMorph-diff": lambda: voxelmorph(half=True),
    "HyperMorph": hypermorph,
    "CycleMorph (of its two networks one)": lambda: unet_of_three(16),
    "LapIRN": lapirn,
    "TransMorph": transmorph,
    "C2FViT (affine alone)": c2fvit,
    "DiffuseMorph": diffusemorph,
}
OURS = {
    "`sitreg`": ("sitreg", {"encoder": [16, 32, 48, 48], "update": [16, 32, 48, 48], "correlation": True}),
    "`sitreg`, packaged": (
        "sitreg", {"encoder": [8, 16, 16], "update": [12, 16, 16], "convs": 1, "finest": 1, "correlation": True}
    ),
    "`invgan`": ("invgan", {"correlation": True}),
    "`voxelmorph`": ("voxelmorph", {"correlation": True}),
    "`transmorph`": ("transmorph", {"correlation": True}),
}  # fmt: skip


def main() -> None:
    print("| network | parameters, million | multiply-adds a voxel, thousand | outputs of a patch of 128^3, GB |")
    print("|---|---|---|---|")
    costs = {name: make() for name, make in PUBLISHED.items()}
    costs |= {name: of_bigreg(kind, **settings) for name, (kind, settings) in OURS.items()}
    for name, cost in costs.items():
        gb = cost.outputs * PATCH**3 * 4 / 1e9
        print(f"| {name} | {cost.parameters / 1e6:.2f} | {cost.work / 1e3:.1f} | {gb:.2f} |")


if __name__ == "__main__":
    main()
