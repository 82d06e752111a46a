"""The guarantees do not depend on training: random weights that really move things, through all stages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bigreg import load_config, models, open_run, plan, register
from bigreg.errors import ConfigError, OutputError
from bigreg.models import Card, Spacing
from bigreg.phantom import make_pair
from bigreg.transforms.field import min_determinant

from ..small_networks import loud

NAMES = ["invgan", "sitreg", "transmorph", "voxelmorph"]
SPACING = (4.0, 2.6, 2.6)
LEVELS = ["affine.kind=none", "blocks.core=24", "ladder.finest=1", "ladder.coarsest=2", "output.warped=false"]


@pytest.fixture(scope="module")
def tiny():
    """Two images on one grid, so that exchanging them changes nothing else."""
    return make_pair((32, 40, 40), SPACING, seed=3, max_displacement_um=5.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Path of the weights of a network whose patches disagree loudly."""
    folder = tmp_path_factory.mktemp("weights")

    def path(name: str, seed: int = 0):
        place = folder / f"{name}-{seed}.safetensors"
        models.save(place, loud(name, largest=20.0, seed=seed), Card(licence="none"))
        return str(place)

    return path


@pytest.fixture(scope="module")
def run_with(tiny, small_config, thread_client, tmp_path_factory):
    kept = {}

    def run(*engines: str, swapped: bool = False, client=thread_client):
        key = (engines, swapped, id(client))
        if key not in kept:
            pair = [(image, tiny.spacing) for image in (tiny.fixed, tiny.moving)]
            config = small_config(*LEVELS, *engines)
            out = str(tmp_path_factory.mktemp("run") / "run.zarr")
            kept[key] = register(*(pair[::-1] if swapped else pair), out=out, config=config, client=client)
        return kept[key]

    return run


def engine(name: str, path: str) -> tuple[str, ...]:
    return f"engine={name}", f"engine_options.{name}.weights={path}"


def figure(run, name: str) -> float:
    return next(value for _, what, value, _, _ in run.summary() if what == name)


@pytest.mark.parametrize("name", NAMES)
def test_random_weights_neither_fold_nor_lose_the_inverse(name, weights, run_with):
    run = run_with(*engine(name, weights(name)))
    step = run._context().levels[0].lattice.grid.spacing
    for which in ("fixed", "moving"):
        half = torch.as_tensor(run.store.array("levels", 0, "maps", which)[...])
        assert float(min_determinant(half, step).min()) > 0.05
    for direction in ("fixed_to_moving", "moving_to_fixed"):
        assert figure(run, f"largest displacement, {direction}") > 1.5 * min(SPACING)
        assert figure(run, f"folds, {direction}") == 0
    assert figure(run, "99.9th percentile") < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_there_are_no_seams_where_blocks_meet(name, weights, run_with):
    """Mean squared jump of the displacement's gradient across block faces, against that inside blocks."""
    run = run_with(*engine(name, weights(name)))
    level = run._context().levels[0]
    core = np.multiply(level.blocks.core, level.lattice.samples)
    faces, inside = [], []
    for which in ("fixed", "moving"):
        half = torch.as_tensor(run.store.array("levels", 0, "maps", which)[...])
        for axis in range(3):
            # Element i of the second difference is the jump at sample i + 1; a face lies between two samples.
            jump = half.diff(n=2, dim=axis + 1).square().sum(0).movedim(axis, 0).flatten(1).mean(1).numpy()
            cuts = np.arange(core[axis], half.shape[axis + 1], core[axis])
            at = np.zeros(len(jump), bool)
            at[np.concatenate([cuts - 2, cuts - 1])] = True
            # The border of the domain is neither.
            jump, at = jump[core[axis] // 2 : -core[axis] // 2], at[core[axis] // 2 : -core[axis] // 2]
            faces.append(jump[at])
            inside.append(jump[~at])
    assert np.concatenate(faces).size >= 12
    assert np.concatenate(faces).mean() <= 1.05 * np.concatenate(inside).mean()


def test_exchanging_the_images_exchanges_the_maps_of_sitreg(weights, run_with):
    names = engine("sitreg", weights("sitreg"))
    there, back = run_with(*names), run_with(*names, swapped=True)
    voxel = np.reshape(SPACING, (3, 1, 1, 1))
    for one, other in (("fixed_to_moving", "moving_to_fixed"), ("moving_to_fixed", "fixed_to_moving")):
        a, b = there.store.array("transforms", one, 0)[...], back.store.array("transforms", other, 0)[...]
        assert np.abs((a - b) / voxel).max() < 1e-5


def test_optimise_goes_on_from_what_a_network_says(weights, run_with):
    network = engine("sitreg", weights("sitreg"))
    chain = run_with("engine=[sitreg, optimise]", network[1], "engine_options.optimise.iterations=12")
    local = "local correlation after the deformation"
    before = figure(chain, "local correlation after the affine")
    assert figure(chain, local) - before > 0.1 > figure(run_with(*network), local) - before
    assert figure(chain, "99.9th percentile") < 0.1


def test_one_worker_and_two_give_the_same_bits(tiny, weights, small_config, run_with, tmp_path):
    network = engine("voxelmorph", weights("voxelmorph"))
    pair = [(image, tiny.spacing) for image in (tiny.fixed, tiny.moving)]
    config = small_config(*LEVELS, *network, "cluster.workers=2")
    two, one = register(*pair, out=str(tmp_path / "two.zarr"), config=config), run_with(*network)
    for place in (("levels", 0, "velocity"), ("transforms", "fixed_to_moving", 0)):
        assert np.array_equal(one.store.array(*place)[...], two.store.array(*place)[...])


# ---------------------------------------------------------------------------------------------- weights of a run


def test_a_run_keeps_the_digest_and_goes_on_with_no_other_weights(tiny, small_config, thread_client, tmp_path):
    path = tmp_path / "w.safetensors"
    card = models.save(path, loud("voxelmorph"), Card())
    pair = [(image, tiny.spacing) for image in (tiny.fixed, tiny.moving)]
    config = small_config(*LEVELS, "ladder.finest=2", *engine("voxelmorph", str(path)))
    out = str(tmp_path / "run.zarr")

    class Stop(Exception):
        pass

    class Stopping:
        def __getattr__(self, name):
            def heard(*arguments):
                if name == "block" and arguments[0] == "levels/0":
                    raise Stop

            return heard

    with pytest.raises(Stop):
        register(*pair, out=out, config=config, client=thread_client, progress=Stopping())
    run = open_run(out)
    assert run.store.attributes["engines"] == {"engine_options.voxelmorph": card.digest}
    models.save(path, loud("voxelmorph", seed=1), Card())
    for again in (lambda: run.resume(client=thread_client),
                  lambda: register(*pair, out=out, config=config, client=thread_client)):  # fmt: skip
        with pytest.raises(OutputError, match=r"another engine_options\.voxelmorph .* weights were changed; put them"):
            again()
    path.unlink()
    with pytest.raises(ConfigError, match="neither packaged"):
        run.resume(client=thread_client)
    models.save(path, loud("voxelmorph"), Card())
    assert run.resume(client=thread_client).status().state == "finished"


def test_weights_of_other_voxels_are_refused_before_any_work(tiny, small_config, tmp_path):
    path = tmp_path / "w.safetensors"
    models.save(path, loud("sitreg"), Card(spacing=Spacing(low=(1, 1, 1), high=(1, 1, 1))))
    pair = [(image, tiny.spacing) for image in (tiny.fixed, tiny.moving)]
    config = small_config(*LEVELS, *engine("sitreg", str(path)))
    for start in (lambda: register(*pair, out=str(tmp_path / "r.zarr"), config=config),
                  lambda: plan(*pair, config=config)):  # fmt: skip
        with pytest.raises(ConfigError, match=r"trained on voxels of \(1, 1, 1\)"):
            start()
    assert not (tmp_path / "r.zarr").exists()


def test_the_plan_knows_what_a_network_needs(tiny, small_config):
    pair = [(image, tiny.spacing) for image in (tiny.fixed, tiny.moving)]
    memory = {}
    for engines in ("optimise", "sitreg", "[sitreg, optimise]"):
        weights = ["engine_options.sitreg.weights=random"] if "sitreg" in engines else []
        made = plan(*pair, config=small_config("blocks.core=96", f"engine={engines}", *weights))
        memory[engines] = made.memory_per_worker
    assert memory["optimise"] < memory["sitreg"] == memory["[sitreg, optimise]"]


def test_the_packaged_network_does_no_harm_to_images_of_another_kind(thread_client, tmp_path):
    """Procedural ones: what it gains on tissue is measured in tests/benchmarks/networks.py."""
    pair = make_pair((48, 72, 80), SPACING, seed=101)
    index = np.argwhere(pair.mask)[::7]
    truth = pair.truth[(slice(None), *index.T)].T
    errors = {}
    for preset in ("rounds", "rounds-learned"):
        run = register(
            (pair.fixed, SPACING), (pair.moving, SPACING), out=str(tmp_path / preset),
            config=load_config(preset=preset, overrides=["output.warped=false"]), client=thread_client,
        )  # fmt: skip
        errors[preset] = np.nanmean(np.linalg.norm(run.map_points(index * np.asarray(SPACING)) - truth, axis=1))
        assert all(figure(run, f"folds, {direction}") == 0 for direction in ("fixed_to_moving", "moving_to_fixed"))
        assert figure(run, "99.9th percentile") < 0.1
    print(errors)
    assert errors["rounds-learned"] < 1.1 * errors["rounds"]
