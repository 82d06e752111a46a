"""What every network is: two patches in, the maps between them out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import nn

from ..errors import ConfigError

ARCHITECTURES = {
    "sitreg": ("sitreg", "SITReg"),
    "invgan": ("invgan", "InvGAN"),
    "transmorph": ("transmorph", "TransMorph"),
    "voxelmorph": ("voxelmorph", "VoxelMorph"),
}


@dataclass(frozen=True)
class Prediction:
    """Displacements (N, 3, z, y, x), voxels, of the maps between two patches F and M of one place.

    to_fixed, to_moving                half-way maps: F o (id + to_fixed) matches M o (id + to_moving) in mid-space
    fixed_to_moving, moving_to_fixed   whole maps: M o (id + fixed_to_moving) matches F, and the other way round
    """

    to_fixed: torch.Tensor
    to_moving: torch.Tensor
    fixed_to_moving: torch.Tensor
    moving_to_fixed: torch.Tensor


class Network(nn.Module):
    """Base of all networks.

    factor         patch sizes must be multiples of this; the caller pads
    antisymmetric  exchanging the inputs exchanges (to_fixed, to_moving) and the two whole maps, to 1e-5 voxel
    reach          voxels: the largest component of a half-way displacement; inf where there is no bound
    regularisation smallest and largest weight of the regularisation that it takes as a further argument, (N,) of the
                   items; None: it takes none
    settings       keywords of the constructor: `build(architecture, **settings)` makes the same network again

    Nothing in a network looks at the patch as a whole: what it says of a voxel depends on that voxel's surroundings
    alone, so neighbouring patches say the same. (TransMorph also sees where its windows begin: at a first voxel.)
    """

    architecture: ClassVar[str]
    antisymmetric: ClassVar[bool]
    factor: int
    reach: float
    regularisation: tuple[float, float] | None = None
    settings: dict[str, Any]

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> Prediction:
        """fixed, moving (N, 1, z, y, x), intensities about 0 .. 1, sizes multiples of `factor`."""
        raise NotImplementedError

    def check(self, fixed: torch.Tensor, moving: torch.Tensor) -> None:
        """Raise ValueError for patches that the network cannot take."""
        size = tuple(fixed.shape[2:])
        if fixed.shape != moving.shape or fixed.ndim != 5 or fixed.shape[1] != 1:
            raise ValueError(
                f"patches must be two of (N, 1, z, y, x), got {tuple(fixed.shape)} and {tuple(moving.shape)}"
            )
        if any(n % self.factor for n in size):
            raise ValueError(f"patch {size} must be of multiples of {self.factor} voxels; pad it")

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())


def architectures() -> list[str]:
    """Names of the architectures that `build` knows."""
    return sorted(ARCHITECTURES)


def build(architecture: str, **settings: Any) -> Network:
    """A new network with random weights. ConfigError where the architecture or a setting is unknown."""
    if architecture not in ARCHITECTURES:
        raise ConfigError(
            f"network architecture {architecture!r} does not exist; use one of {', '.join(architectures())}"
        )
    module, name = ARCHITECTURES[architecture]
    kind = getattr(import_module(f".{module}", __package__), name)
    try:
        network = kind(**settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"network {architecture!r} does not take the settings {settings}: {error}") from error
    # Convolutions of few channels are about twice as fast with channels last, on a CPU and with tensor cores.
    return network.to(memory_format=torch.channels_last_3d)


def awake(module: nn.Module) -> None:
    """Weights of all convolutions with which activations keep their size through any depth, and no biases (He 2015).

    By torch's own, each layer makes what differs between images a third, until biases are all that is left of them.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            # Where the stride is the kernel, a voxel of a transposed convolution has one tap of each channel.
            taps = 1 if isinstance(layer, nn.ConvTranspose3d) else math.prod(layer.kernel_size)
            nn.init.normal_(layer.weight, std=math.sqrt(2.0 / (layer.in_channels * taps)))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def quiet(layer: nn.Conv3d, deviation: float = 1e-5) -> nn.Conv3d:
    """A last layer that says almost nothing at first: the untrained network is almost the identity."""
    nn.init.normal_(layer.weight, std=deviation)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def channels_last(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same tensors (N, C, z, y, x) in the layout of the weights."""
    return tuple(t.contiguous(memory_format=torch.channels_last_3d) for t in tensors)
