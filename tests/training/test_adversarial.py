"""Discriminators: what they are asked, in logits, and whom each step teaches."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from bigreg.networks import Prediction
from bigreg.training.adversarial import Adversary, Judges, adversarial_losses, entropy, examples, made
from bigreg.training.batch import Batch
from bigreg.training.config import Deformation
from bigreg.training.losses_config import Adversarial, PlainLoss
from bigreg.training.processes import Processes
from bigreg.training.scene import Scene

SHAPE = (16, 16, 16)
SMALL = {"widths": [2, 4, 8]}


def scene(flow=0.0):
    g = torch.Generator().manual_seed(0)
    fixed, moving = torch.rand(2, 2, 1, *SHAPE, generator=g)
    ones, still = torch.ones_like(fixed), torch.zeros(2, 3, *SHAPE)
    maps = Prediction(*[(still + flow).requires_grad_() for _ in range(4)])
    truth = Prediction(still, still, still, still)
    return Scene(
        Batch(
            fixed, moving, ones, ones, torch.ones(2, 3), truth, torch.ones(2), [None] * 2, [torch.zeros(2, 0, 3)] * 2
        ),
        maps,
    )


def streams():
    return [np.random.default_rng(i) for i in range(2)]


@pytest.mark.parametrize(("logit", "label"), [(0.0, 1.0), (3.0, 1.0), (3.0, 0.0), (-40.0, 1.0)])
def test_entropy_is_that_of_the_logit_and_does_not_saturate(logit, label):
    x = torch.full((4,), logit, requires_grad=True)
    value = entropy([x, x], label)
    sign = 1 if label else -1
    assert float(value) == pytest.approx(math.log1p(math.exp(-sign * logit)) if abs(logit) < 30 else 40.0, rel=1e-5)
    value.backward()
    if logit == -40.0:  # surely wrong: the gradient is whole, where a sigmoid applied twice has none
        assert float(x.grad.sum()) == pytest.approx(-1.0, rel=1e-4)


@pytest.mark.parametrize("kind", ["pair", "flow"])
@pytest.mark.parametrize("positive", ["warped", "blend"])
def test_the_network_is_pulled_without_teaching_the_discriminators(kind, positive):
    settings = Adversarial(name="adversarial", kind=kind, positive=positive, settings=SMALL)
    judges, s = Judges(settings), scene(0.3)
    judges.pull(made(s, settings)).backward()
    assert float(s.maps.fixed_to_moving.grad.abs().sum()) > 0
    assert all(p.grad is None and p.requires_grad for p in judges.parameters())


@pytest.mark.parametrize("kind", ["pair", "flow"])
def test_the_discriminators_learn_without_pulling_the_network(kind):
    settings = Adversarial(name="adversarial", kind=kind, settings=SMALL)
    judges, s = Judges(settings), scene(0.3)
    judges(*examples(s, settings, Deformation(cells=[8], largest=2.0), streams())).backward()
    assert all(p.grad is not None for p in judges.parameters())
    assert s.maps.fixed_to_moving.grad is None


def test_registered_pairs_are_the_fixed_and_the_warped_image_and_the_others_the_moving_and_the_warped():
    s, settings = scene(), Adversarial(name="adversarial", kind="pair", positive="warped")
    good, bad = examples(s, settings, Deformation(), streams())
    b = s.batch  # the maps are the identity: warped is moving
    assert torch.allclose(good[0], torch.cat([b.fixed, b.moving], 1), atol=1e-5)
    assert torch.allclose(bad[0], torch.cat([b.moving, b.moving], 1), atol=1e-5)
    assert torch.allclose(bad[1], torch.cat([b.fixed, b.fixed], 1), atol=1e-5)


def test_a_blend_is_mostly_the_fixed_image():
    s, settings = scene(), Adversarial(name="adversarial", kind="pair", positive="blend", mix=0.25)
    good, bad = examples(s, settings, Deformation(), streams())
    assert torch.allclose(good[0][:, 1:], 0.25 * s.batch.moving + 0.75 * s.batch.fixed)
    assert torch.allclose(bad[0], made(s, settings)[0])


def test_real_flows_are_smooth_and_inverse_to_one_another():
    from bigreg.networks.maps import compose

    settings = Adversarial(name="adversarial", kind="flow")
    good, bad = examples(scene(), settings, Deformation(cells=[8, 16], largest=2.0), streams())
    left = compose(good[0], good[1])[..., 5:-5, 5:-5, 5:-5]
    assert float(left.abs().max()) < 0.15 and float(good[0].abs().max()) > 0.3
    assert all(torch.equal(x, torch.zeros_like(x)) for x in bad)


def test_discriminators_learn_to_tell_real_flows_from_noise():
    torch.manual_seed(0)
    settings = Adversarial(name="adversarial", kind="flow", settings=SMALL)
    judges = Judges(settings)
    optimiser = torch.optim.Adam(judges.parameters(), 3e-3)
    losses = []
    for step in range(60):
        rngs = [np.random.default_rng([step, i]) for i in range(2)]
        good, _ = examples(scene(), settings, Deformation(cells=[8], largest=2.0), rngs)
        noise = [torch.randn_like(x) for x in good]
        loss = judges(good, noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.5 * losses[0]


def test_both_kinds_at_once_have_discriminators_and_rates_of_their_own():
    kinds = {"pair": 1e-2, "flow": 1e-3, "none": 1.0}
    losses = [Adversarial(name="adversarial", kind=k, rate=r, settings=SMALL) for k, r in kinds.items()]
    chosen = adversarial_losses([PlainLoss(name="supervised"), *losses])
    both = [Adversary(one, Processes(0, 1, torch.device("cpu"))) for one in chosen]
    assert [(a.kind, a.optimiser.param_groups[0]["lr"]) for a in both] == [("pair", 1e-2), ("flow", 1e-3)]
    s = scene(0.3)
    for adversary in both:
        before = [p.clone() for p in adversary.judges.parameters()]
        adversary.learn(s, Deformation(cells=[8], largest=2.0), streams(), nullcontext())
        assert any(not torch.equal(a, b) for a, b in zip(before, adversary.judges.parameters(), strict=True))
    total = sum(adversary.pull(s, nullcontext()) for adversary in both)
    alone = torch.autograd.grad(both[0].pull(s, nullcontext()), s.maps.fixed_to_moving, retain_graph=True)[0]
    together = torch.autograd.grad(total, s.maps.fixed_to_moving)[0]
    assert float((together - alone).abs().max()) > 0  # that of the flows' discriminators
