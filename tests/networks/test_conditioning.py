"""A network that is told the stiffness keeps the laws at every one, and listens."""

from __future__ import annotations

import pytest
import torch

from bigreg import models
from bigreg.models import Card
from bigreg.networks import build
from bigreg.networks.maps import compose

from ..small_networks import SMALL, images, loud

RANGE = [0.1, 2.0]
WEIGHTS = [0.1, 0.45, 2.0]
NAMES = ("to_fixed", "to_moving", "fixed_to_moving", "moving_to_fixed")


def told(weight: float, count: int = 1) -> torch.Tensor:
    return torch.full((count,), weight)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_exchanging_the_images_exchanges_the_maps_at_every_weight(weight):
    network = loud("sitreg", {"regularisation": RANGE})
    a, b = images(1)
    with torch.inference_mode():
        one, other = network(a, b, told(weight)), network(b, a, told(weight))
    assert float(one.to_fixed.abs().max()) > 0.5
    for there, back in zip(NAMES, ("to_moving", "to_fixed", "moving_to_fixed", "fixed_to_moving"), strict=True):
        assert float((getattr(one, there) - getattr(other, back)).abs().max()) < 1e-5


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_wholes_are_each_others_inverse_at_every_weight(weight):
    with torch.inference_mode():
        found = loud("sitreg", {"regularisation": RANGE}, largest=0.07)(*images(3), told(weight))
    error = compose(found.fixed_to_moving, found.moving_to_fixed)[:, :, 4:-4, 8:-8, 4:-4]
    assert float(found.fixed_to_moving.abs().max()) > 0.4
    assert float(error.abs().quantile(0.999)) < 0.1


def test_each_item_has_its_own_weight_and_none_is_the_middle():
    network = loud("sitreg", {"regularisation": RANGE})
    network.tolerance = 1e-5  # a batch is iterated until all of it is there
    pair = [i.repeat(3, 1, 1, 1, 1) for i in images(2)]
    with torch.inference_mode():
        together = network(*pair, torch.tensor([0.1, 2.0, (0.1 * 2.0) ** 0.5])).to_fixed
        alone = network(*images(2), told(2.0)).to_fixed
        plain = network(*images(2)).to_fixed
    assert float((together[0] - together[1]).abs().max()) > 0.05
    torch.testing.assert_close(together[1:2], alone, atol=1e-3, rtol=0)
    torch.testing.assert_close(together[2:], plain, atol=1e-3, rtol=0)


def test_all_of_the_conditioning_learns_from_the_first_step():
    torch.manual_seed(0)
    network = build("sitreg", **SMALL["sitreg"], regularisation=RANGE)
    network(*images(1), told(0.2)).fixed_to_moving.square().sum().backward()
    inside = {n: p for n, p in network.named_parameters() if n.startswith("condition.") or ".change." in n}
    assert len(inside) == 4 + 2 * 12  # two layers of the code; two convolutions of three levels, twice
    assert all(float(p.grad.abs().max()) > 0 for p in inside.values())


def test_a_network_that_is_told_nothing_has_the_tensors_and_settings_it_always_had(tmp_path):
    plain = build("sitreg", **SMALL["sitreg"])
    assert not any("condition" in name or "change" in name for name in plain.state_dict())
    assert "regularisation" not in plain.settings and plain.regularisation is None
    with pytest.raises(ValueError, match="takes no weight"):
        plain(*images(1), told(0.2))


def test_weights_that_are_told_the_stiffness_come_back(tmp_path):
    network = loud("sitreg", {"regularisation": RANGE})
    path = tmp_path / "told.safetensors"
    models.save(path, network, Card())
    again, card = models.load(path, "sitreg")
    assert card.settings["regularisation"] == RANGE and again.regularisation == tuple(RANGE)
    with torch.inference_mode():
        one, other = (n(*images(1), told(0.3)).to_fixed for n in (network, again))
    assert torch.equal(one, other)
