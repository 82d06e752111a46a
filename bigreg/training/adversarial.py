"""Discriminators: networks that learn to tell a registered pair, or a real map, from what the network makes.

They answer with logits and are judged by binary cross-entropy with logits. Two of them, one for each direction, for
each adversarial loss: of pairs, of flows, or of both at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..networks.discriminators import FlowDiscriminator, PairDiscriminator
from ..transforms.field import exponential
from .config import Deformation
from .losses_config import Adversarial, Loss
from .processes import Processes
from .scene import Scene
from .synthetic import UNIT, velocity


class Judges(nn.Module):
    """The discriminators of a training. `forward(registered, not_registered)` is what they learn from."""

    def __init__(self, settings: Adversarial) -> None:
        super().__init__()
        make = PairDiscriminator if settings.kind == "pair" else FlowDiscriminator
        self.judges = nn.ModuleList([make(**settings.settings) for _ in range(2)])

    @property
    def factor(self) -> int:
        """Patch sizes must be multiples of this."""
        return max(cast(int, judge.factor) for judge in self.judges)

    def logits(self, examples: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """One tensor of logits a direction of examples (N, C, z, y, x)."""
        return [judge(x) for judge, x in zip(self.judges, examples, strict=True)]

    def forward(self, good: Sequence[torch.Tensor], bad: Sequence[torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy over both directions of calling `good` 1 and `bad` 0."""
        return 0.5 * (entropy(self.logits(good), 1.0) + entropy(self.logits(bad), 0.0))

    def pull(self, made: Sequence[torch.Tensor]) -> torch.Tensor:
        """How far what the network made is from being called good; differentiable by `made` alone."""
        self.requires_grad_(False)
        try:
            return entropy(self.logits(made), 1.0)
        finally:
            self.requires_grad_(True)


class Adversary:
    """The discriminators of one adversarial loss, with their optimiser.

    kind   of the discriminators, pair or flow
    """

    def __init__(self, settings: Adversarial, processes: Processes) -> None:
        self.settings, self.kind = settings, settings.kind
        self.judges = Judges(settings).to(processes.device)
        kind = torch.optim.Adam if settings.optimiser == "adam" else torch.optim.SGD
        self.optimiser = kind(self.judges.parameters(), lr=settings.rate)
        self.shared = processes.shared(self.judges)

    def pull(self, scene: Scene, precision: AbstractContextManager) -> torch.Tensor:
        """See Judges.pull, of what the network made; unweighted."""
        with precision:
            return self.judges.pull(made(scene, self.settings))

    def learn(
        self,
        scene: Scene,
        deformation: Deformation,
        streams: Sequence[np.random.Generator],
        precision: AbstractContextManager,
    ) -> torch.Tensor:
        """One step of the discriminators; their cross-entropy before it."""
        good, bad = examples(scene, self.settings, deformation, streams)
        with precision:
            loss = self.shared(good, bad)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return loss.detach()


def adversarial_losses(losses: Sequence[Loss]) -> list[Adversarial]:
    """Those among the losses that are adversarial and not off."""
    return [one for one in losses if isinstance(one, Adversarial) and one.kind != "none"]


def entropy(logits: Sequence[torch.Tensor], label: float) -> torch.Tensor:
    """Mean binary cross-entropy of logits that should all say `label`."""
    parts = [F.binary_cross_entropy_with_logits(x.float(), torch.full_like(x, label).float()) for x in logits]
    return torch.stack(parts).mean()


def made(scene: Scene, settings: Adversarial) -> list[torch.Tensor]:
    """What the network is judged by: (fixed, warped moving) and its mirror image, or the two whole maps."""
    b = scene.batch
    if settings.kind == "flow":
        return [scene.maps.fixed_to_moving, scene.maps.moving_to_fixed]
    return [torch.cat([b.fixed, scene.moving_on_fixed], 1), torch.cat([b.moving, scene.fixed_on_moving], 1)]


def examples(
    scene: Scene, settings: Adversarial, deformation: Deformation, streams: Sequence[np.random.Generator]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What the discriminators should call good and bad, one tensor a direction, nothing of it differentiable."""
    b = scene.batch
    own = [x.detach() for x in made(scene, settings)]
    if settings.kind == "flow":
        flows = [_flows(b.fixed.shape[2:], deformation, rng, b.fixed.device) for rng in streams]
        return [torch.stack(side) for side in zip(*flows, strict=True)], own
    if settings.positive == "blend":
        mixed = [settings.mix * other + (1 - settings.mix) * this for this, other in _sides(scene)]
        return [torch.cat([this, mix], 1) for (this, _), mix in zip(_sides(scene), mixed, strict=True)], own
    # The warped image against what it should look like, and against what it was.
    return own, [torch.cat([other, x[:, 1:]], 1) for (_, other), x in zip(_sides(scene), own, strict=True)]


def _sides(scene: Scene) -> list[tuple[torch.Tensor, torch.Tensor]]:
    b = scene.batch
    return [(b.fixed, b.moving), (b.moving, b.fixed)]


def _flows(shape: Sequence[int], deformation: Deformation, rng: np.random.Generator, device: torch.device):
    v, steps = velocity(tuple(shape), deformation, rng, device)
    return exponential(-2 * v, UNIT, steps + 1), exponential(2 * v, UNIT, steps + 1)
