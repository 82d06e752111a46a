"""A training that begins with weights begins with their error, and refuses weights that are not of its network."""

from __future__ import annotations

import pytest
import torch

from bigreg.errors import ConfigError
from bigreg.models import card_of, load
from bigreg.training.begin import network_of
from bigreg.training.config import load_training
from bigreg.training.log import read
from bigreg.training.trainer import train

SMALL = {"encoder": [4, 8], "decoder": [8], "last": 4, "squarings": 4}
PACKAGED = "sitreg-lightsheet"


def network(base, **wanted):
    return load_training({**base, "network": wanted})


def test_fine_tuning_begins_with_the_error_that_the_weights_ended_with(settings, tmp_path):
    first = {**settings, "network": {"name": "voxelmorph", "settings": SMALL}}
    path = train(load_training(first, overrides=["schedule.rate=0.02", "schedule.ema=null", "schedule.steps=2"]))
    begin = read(tmp_path / "out" / "validation.csv")[0]["error_voxels"]
    ended = card_of(path).figures["held_out_error_voxels"]
    assert abs(ended - begin) > 1e-3
    second = network(settings, name="voxelmorph", weights=str(path))
    again = train(load_training(second, overrides=[f"output.folder={tmp_path / 'fine'}", "schedule.steps=1"]))
    rows = read(tmp_path / "fine" / "validation.csv")
    assert rows[0]["error_voxels"] == pytest.approx(ended, abs=1e-6)
    card = card_of(again)
    assert card.settings == card_of(path).settings
    assert f"begun with the weights {path} (digest {card_of(path).digest[:12]})" in card.data


def test_the_settings_are_those_of_the_weights_unless_they_are_given(settings):
    found, origin = network_of(network(settings, name="sitreg", weights=PACKAGED))
    packaged, card = load(PACKAGED, "sitreg")
    assert found.training and found.settings == card.settings and PACKAGED in origin
    assert all(torch.equal(v, packaged.state_dict()[k]) for k, v in found.state_dict().items())
    network_of(network(settings, name="sitreg", weights=PACKAGED, settings={"finest": 1, "correlation": True}))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"name": "voxelmorph", "weights": PACKAGED}, "are of the architecture 'sitreg', not 'voxelmorph'"),
        ({"name": "sitreg", "weights": PACKAGED, "settings": {"convs": 2, "finest": 0}},
         "convs is 2, theirs 1; finest is 0, theirs 1"),
        ({"name": "sitreg", "weights": "nothing"}, "neither packaged"),
        ({"name": "sitreg", "weights": PACKAGED, "settings": {"deep": 1}}, "does not take the settings"),
    ],
)  # fmt: skip
def test_weights_of_another_network_are_refused_with_what_differs(settings, wanted, message):
    with pytest.raises(ConfigError, match=message):
        network_of(network(settings, **wanted))


def test_weights_that_know_the_stiffness_need_the_loss_that_teaches_it(settings, tmp_path):
    bounds = {"encoder": [4], "update": [4], "regularisation": [0.1, 10.0]}
    learned = [{"name": "supervised"}, {"name": "regularisation"}]
    one = network({**settings, "losses": learned}, name="sitreg", settings=bounds)
    path = train(load_training(one, overrides=["schedule.steps=1"]))
    with pytest.raises(ConfigError, match=r"range \(0.1, 10.0\); give it as network.settings.regularisation"):
        network_of(network(settings, name="sitreg", weights=str(path)))
