"""The interface between the pipeline and whatever finds a deformation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from inspect import signature
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch

from ..errors import ConfigError
from ..geometry import Lattice


@dataclass(frozen=True)
class ChannelPair:
    """What is compared at one patch of one channel of each image, or of labels.

    fixed, moving             (C, z, y, x) float tensors, intensities about 0 .. 1
    fixed_mask, moving_mask   (z, y, x), 1 where the channel has data, else 0
    similarity                name; None: the engine's own
    weight                    of its loss
    labels                    they are one-hots of labels, C of them, and compared by their squared difference
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    fixed_mask: torch.Tensor
    moving_mask: torch.Tensor
    similarity: str | None = None
    weight: float = 1.0
    labels: bool = False

    def swapped(self) -> ChannelPair:
        return replace(
            self, fixed=self.moving, moving=self.fixed, fixed_mask=self.moving_mask, moving_mask=self.fixed_mask
        )

    def part(self, box: tuple[Any, ...]) -> ChannelPair:
        """A box (slices of z, y, x) of it."""
        return replace(
            self, fixed=self.fixed[(..., *box)], moving=self.moving[(..., *box)],
            fixed_mask=self.fixed_mask[box], moving_mask=self.moving_mask[box],
        )  # fmt: skip


@dataclass(frozen=True)
class PatchPair:
    """Two patches of one place in mid-space, both already warped there by the coarser levels.

    fixed, moving             (C, z, y, x) float tensors, intensities about 0 .. 1
    fixed_mask, moving_mask   (z, y, x), 1 where the image has data, else 0
    lattice                   the patch's part of the level's lattice; `lattice.samples` is voxels per cell, so the
                              image shape is cells * samples and the voxel spacing (um) is spacing / samples
    level                     position in the ladder, 0 = finest
    native                    whether its voxels are as small as those of the images, and coarser levels went before
    start                     None, or the control points (3, cells + 4 an axis) in um of a velocity that was found
                              already: to start from
    sigma                     whether it is asked how far the velocity may be off
    similarity, weight        of this, the first pair of channels, as of a ChannelPair
    others                    the other pairs of channels, and labels; `channels` are all of them
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    fixed_mask: torch.Tensor
    moving_mask: torch.Tensor
    lattice: Lattice
    level: int = 0
    native: bool = False
    start: torch.Tensor | None = None
    sigma: bool = False
    similarity: str | None = None
    weight: float = 1.0
    others: tuple[ChannelPair, ...] = ()

    def __post_init__(self) -> None:
        shape = tuple(self.lattice.grid.shape)
        for one in (self, *self.others):
            for name in ("fixed", "moving", "fixed_mask", "moving_mask"):
                if tuple(getattr(one, name).shape[-3:]) != shape:
                    raise ValueError(f"{name} patch is {tuple(getattr(one, name).shape)}, its lattice says {shape}")
        if self.start is not None and tuple(self.start.shape) != (3, *self.lattice.points):
            raise ValueError(
                f"start is {tuple(self.start.shape)}, the lattice has {self.lattice.points} control points"
            )

    @property
    def channels(self) -> tuple[ChannelPair, ...]:
        """Every pair of channels, and labels."""
        first = ChannelPair(
            self.fixed, self.moving, self.fixed_mask, self.moving_mask, self.similarity, self.weight
        )  # fmt: skip
        return (first, *self.others)

    def of_channel(self, one: ChannelPair) -> PatchPair:
        """The same patch of one pair of channels alone, with the weight 1."""
        return replace(
            self, fixed=one.fixed, moving=one.moving, fixed_mask=one.fixed_mask, moving_mask=one.moving_mask,
            similarity=one.similarity, weight=1.0, others=(),
        )  # fmt: skip

    def swapped(self) -> PatchPair:
        """The pair with the images exchanged, and so the start negated."""
        return replace(
            self,
            fixed=self.moving,
            moving=self.fixed,
            fixed_mask=self.moving_mask,
            moving_mask=self.fixed_mask,
            start=None if self.start is None else -self.start,
            others=tuple(one.swapped() for one in self.others),
        )


@dataclass(frozen=True)
class VelocityPatch:
    """What an engine returns: `fixed` moves by exp(+v), `moving` by exp(-v).

    coefficients   (3, z, y, x) control points of v in um, component i along axis i, cells + 4 entries an axis
    confidence     (z, y, x) >= 0 on the same control points
    quality        named figures (similarity_before, similarity_after, ...)
    sigma          (3, z, y, x) SD of the coefficients along each axis in um, NaN where nothing is known of it; None
                   where the engine gives none, or the pair does not ask
    """

    coefficients: torch.Tensor
    confidence: torch.Tensor
    quality: Mapping[str, float] = field(default_factory=dict)
    sigma: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.coefficients.shape[1:] != self.confidence.shape or self.coefficients.shape[0] != 3:
            raise ValueError(
                f"coefficients {tuple(self.coefficients.shape)} and confidence {tuple(self.confidence.shape)} differ"
            )
        if not bool(torch.isfinite(self.coefficients).all()) or not bool((self.confidence >= 0).all()):
            raise ValueError("an engine returned a velocity that is not finite or a negative confidence")
        if self.sigma is not None and (self.sigma.shape != self.coefficients.shape or bool((self.sigma < 0).any())):
            raise ValueError(f"an engine returned a sigma of {tuple(self.sigma.shape)}, or one below 0")


@runtime_checkable
class Engine(Protocol):
    """Estimates a piece of velocity. `antisymmetric` says that swapping the images negates the velocity by itself.

    Its class, called with options as keywords, makes it. Where it takes `iterations`, that is the level's. It may have

    takes_start      it continues from the pair's `start`; an engine that does not can only be the first of several
    takes_channels   its class says that it compares all pairs of channels; without, a run of several is refused
    takes_labels     its class says that it compares labels too; the last engine of a level has to, where there are some
    gives_sigma      its class says that patches have a `sigma` where their pair asks for it
    by_similarity    its class says that its option `similarity` names what it compares by; without it what has no
                     counterpart is not looked for (see bigreg.engines.noncorrespondence)
    channels         arrays of an image's size that it keeps of each image, for the plan; 1 where it has none
    bytes_a_voxel    its own bytes of memory per voxel of a patch, beside those of `channels`
    card_bytes_a_voxel   bytes of a GPU's memory per voxel of a patch; without it, as many as of the host's
    stiffness        smallest and largest `regularisation` that it takes; None, or not there: it takes none
    options          the keywords that make the same engine in any process (a path made absolute, say)
    identity         what decides its results beside its options and bigreg's version: a digest of its weights
    check_spacing    called before any work with each voxel spacing (um, z y x) that it will see; raises ConfigError
    """

    antisymmetric: ClassVar[bool]

    def estimate(self, pair: PatchPair) -> VelocityPatch: ...


def engine_kind(name: str) -> Any:
    """What makes the engine called `name`: its class. Raises ConfigError where it is unknown."""
    found = {entry.name: entry for entry in entry_points(group="bigreg.engines")}
    if name not in found:
        raise ConfigError(f"engine {name!r} does not exist; installed are {', '.join(sorted(found)) or 'none'}")
    return found[name].load()


def load_engine(name: str, options: Mapping[str, Any], *, iterations: int | None = None) -> Engine:
    """The engine called `name`, made with `options` as keywords. ConfigError where it or an option is unknown.

    iterations   steps at most, handed to an engine that takes them, unless the options say how many
    """
    kind = engine_kind(name)
    if iterations is not None and "iterations" in signature(kind).parameters:
        options = {"iterations": iterations, **options}
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"engine {name!r} does not take {dict(options)}: {error}") from error


def estimate_antisymmetric(engine: Engine, pair: PatchPair) -> VelocityPatch:
    """The engine's velocity, as (v(F, M) - v(M, F)) / 2 where it is not antisymmetric by itself."""
    there = engine.estimate(pair)
    if engine.antisymmetric:
        return there
    back = engine.estimate(pair.swapped())
    sigma = None
    if there.sigma is not None and back.sigma is not None:
        sigma = ((there.sigma.square() + back.sigma.square()) / 2).sqrt()
    return VelocityPatch(
        (there.coefficients - back.coefficients) / 2, (there.confidence + back.confidence) / 2, there.quality, sigma
    )
