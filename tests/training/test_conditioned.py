"""Training over a range of stiffness: its weights, its unit, and that it and TransMorph learn within seconds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bigreg.engines.regularisers import Membrane
from bigreg.models import load
from bigreg.training.batch import MAPS, make_batch
from bigreg.training.config import Augment, Deformation, load_training
from bigreg.training.log import read
from bigreg.training.losses import evaluate
from bigreg.training.losses_config import PlainLoss
from bigreg.training.regularity import strain
from bigreg.training.scene import Scene
from bigreg.training.sources import Patch
from bigreg.training.trainer import train

from .conftest import textured
from .test_losses import batch, linear, maps
from .test_trainer import Killed, stop_after, weights

RANGE = [0.05, 50.0]
ENERGY = [{"name": "lncc", "where": "mid", "noise": 0.02}, {"name": "regularisation"}]
TOLD = {"encoder": [4, 8], "update": [6, 8], "convs": 1, "correlation": True, "regularisation": RANGE}
LEARNING = {
    "sitreg": (TOLD, ENERGY),
    "transmorph": (
        {"stem": 8, "encoder": [16], "head": 8, "last": 8, "correlation": True}, [{"name": "supervised"}]
    ),
}  # fmt: skip


def conditioned(settings, **more):
    return {**settings, "network": {"name": "sitreg", "settings": TOLD}, "losses": ENERGY, **more}


@pytest.mark.parametrize("axis", range(3))
def test_a_weight_is_that_of_the_membrane_of_optimise_whatever_the_spacing(axis):
    """Of a motion that changes along one axis, in um: the energy of a voxel is that of an edge of the lattice."""
    spacing, weight = torch.tensor([3.0, 1.5, 2.0]), 0.7
    matrix = np.zeros((3, 3))
    matrix[:, axis] = 0.1, -0.2, 0.3
    half = linear(matrix.tolist())
    n = half[0, 0].numel()
    edges = n // half.shape[2 + axis] * (half.shape[2 + axis] - 1)
    energy = float((half[0] * Membrane(spacing, (1, 1, 1), weight).pull(half[0])).sum()) / 2 / edges
    b = batch()
    b = type(b)(**{**vars(b), "spacing": spacing[None], "regularisation": torch.tensor([weight])})
    total, figures = evaluate([PlainLoss(name="regularisation")], Scene(b, maps(to_fixed=half, to_moving=-half)))
    assert float(total) == pytest.approx(energy, rel=1e-4) == float(figures["regularisation"])
    alone, _ = evaluate([PlainLoss(name="regularisation")], Scene(b, maps(to_fixed=half)))
    assert float(alone) == pytest.approx(energy / 2, rel=1e-4)
    assert float(evaluate([PlainLoss(name="regularisation")], Scene(b, maps(fixed_to_moving=half)))[0]) == 0


def test_each_pair_has_its_own_weight_and_the_images_do_not_depend_on_it():
    data = np.random.default_rng(0).random((1, 32, 32, 32), dtype=np.float32)
    patch = Patch(data, np.ones_like(data), np.ones(3))

    def made(bounds, count=64, **augment):
        streams = [np.random.default_rng([7, i]) for i in range(count)]
        return make_batch(
            [patch] * count, streams, deformation=Deformation(cells=[8], largest=1.0), augment=Augment(**augment),
            device=torch.device("cpu"), regularisation=bounds,
        )  # fmt: skip

    found = made((0.1, 2.0)).regularisation
    assert 0.1 <= float(found.min()) < 0.15 and 1.5 < float(found.max()) <= 2.0
    assert float(found.log().mean()) == pytest.approx(np.log(0.2) / 2, abs=0.25)  # log-uniform
    without, told, both = made(None, 2), made((0.1, 2.0), 2), made((0.1, 2.0), 2, both_orders=True)
    assert without.regularisation is None
    assert all(torch.equal(getattr(without.truth, name), getattr(told.truth, name)) for name in MAPS)
    assert torch.equal(without.fixed, told.fixed) and torch.equal(without.moving, told.moving)
    assert torch.equal(both.regularisation, told.regularisation.repeat(2))


@pytest.mark.parametrize("name", LEARNING)
def test_thirty_steps_lower_the_error_on_what_was_held_out(settings, tmp_path, name, one_thread):
    network, losses = LEARNING[name]
    settings |= {"network": {"name": name, "settings": network}, "losses": losses}
    settings |= {
        "schedule": {"steps": 30, "batch": 1, "rate": 3e-3, "ema": 0.9},
        "augment": {"both_orders": name != "sitreg"},
    }
    path = train(load_training(settings, overrides=["output.checkpoint=100"]))
    first, last = (read(tmp_path / "out" / "validation.csv")[i] for i in (0, -1))
    print(name, first["error_voxels"], last["error_voxels"])
    assert last["error_voxels"] < 0.9 * first["error_voxels"] and last["folds"] == 0
    losses = [row["loss"] for row in read(tmp_path / "out" / "losses.csv")]
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])
    again, card = load(path, name)
    assert again.regularisation == (tuple(RANGE) if name == "sitreg" else None)
    assert card.settings == again.settings
    if name == "sitreg":
        a, b = (textured((16, 16, 17), 5)[None, None, ..., k : k + 16].astype(np.float32) / 1000 for k in (1, 0))
        with torch.inference_mode():
            found = [again(torch.tensor(a), torch.tensor(b), torch.tensor([weight])) for weight in RANGE]
        soft, stiff = (float(strain(maps.to_fixed, torch.ones(1, 3))) for maps in found)
        print(soft, stiff)
        assert stiff < 0.9 * soft


def test_a_training_over_a_range_that_was_killed_ends_with_the_same_bits(settings, tmp_path):
    train(load_training(conditioned(settings)))
    assert {"lncc", "regularisation"} <= set(read(tmp_path / "out" / "losses.csv")[0])
    other = conditioned(settings, output={"folder": str(tmp_path / "again"), "checkpoint": 2})
    with pytest.raises(Killed):
        train(load_training(other), progress=stop_after(5))
    train(load_training(other))
    whole, again = weights(tmp_path / "out"), weights(tmp_path / "again")
    assert whole.keys() == again.keys() and all(torch.equal(whole[k], again[k]) for k in whole)
