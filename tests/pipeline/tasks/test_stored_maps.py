"""How maps are stored: chunks that hold little more than is read, values that pack well, nothing verified but that."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bigreg
from bigreg import load_config, storage
from bigreg.geometry import BlockGrid, Lattice
from bigreg.phantom import make_pair
from bigreg.pipeline.context.ladder import LevelPlan
from bigreg.pipeline.tasks.compose import CHUNK, unit_of_maps
from bigreg.transforms.field import min_determinant, rounded

sizes = st.tuples(*[st.integers(1, 60)] * 3)


@given(sizes, st.integers(1, 6))
def test_chunks_fill_a_block_and_are_of_moderate_length(core, samples):
    lattice = Lattice((200,) * 3, (4.0,) * 3, (0.0,) * 3, (samples,) * 3)
    level = LevelPlan(0, 1, (1.0,) * 3, lattice, BlockGrid((200,) * 3, core, (0, 0, 0)), 4, 1)
    chunk, shard = unit_of_maps(level)
    assert shard == tuple(c * samples for c in core)
    for n, whole in zip(chunk, shard, strict=True):
        assert whole % n == 0
        assert n == whole or CHUNK / 2 <= n <= 1.5 * CHUNK


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50), st.integers(-14, 2))
def test_rounding_is_antisymmetric_near_and_stays(values, exponent):
    field, step = torch.tensor(values), 2.0**exponent
    found = rounded(field, step)
    assert torch.equal(rounded(-field, step), -found) and torch.equal(rounded(found, step), found)
    assert float((found - field).abs().max()) <= step / 2


@pytest.mark.parametrize("seed", range(5))
def test_samples_of_a_neighbour_that_are_rounded_the_other_way_change_no_determinant_much(seed):
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, 6, generator=g) - 0.5
    field = torch.nn.functional.interpolate(coarse, size=(24,) * 3, mode="trilinear")[0]
    field *= 2.0 / max(float(torch.diff(field, dim=axis).abs().max()) for axis in (1, 2, 3))  # stretches by up to 3
    other = field.clone()
    signs = torch.randint(0, 2, (3, 24, 24), generator=g) * 2 - 1
    other[:, -1] += signs * 2.0**-12
    before, after = (min_determinant(f, (1.0,) * 3) for f in (field, other))
    assert 0 < float((after - before).abs().max()) < 0.01


@pytest.fixture(scope="module")
def run(thread_client, tmp_path_factory):
    pair = make_pair((40, 48, 56), (4.0, 2.6, 2.6), seed=3, max_displacement_um=10.0)
    settings = ["affine.least_confidence=0", "blocks.core=32", "output.chunk=32", "output.shard=32"]
    images = [(getattr(pair, which), pair.spacing) for which in ("fixed", "moving")]
    out = str(tmp_path_factory.mktemp("stored") / "run.zarr")
    return bigreg.register(
        *images, out=out, config=load_config(preset="rounds", overrides=settings), client=thread_client
    )


PLACES = ["levels/0/maps/fixed", "levels/1/maps/moving", "transforms/fixed_to_moving/0"]


@pytest.mark.parametrize("place", PLACES)
def test_what_is_stored_are_multiples_of_a_small_power_of_two(run, place):
    step = run._context().precision
    finest = min(run._context().levels[0].spacing)
    assert finest / 8192 < step <= finest / 4096
    values = run.store.array(place)[...]
    assert np.abs(values).max() > 0.5
    np.testing.assert_array_equal(values, np.round(values / step) * step)


def test_it_takes_less_space_than_other_digits_would(run, tmp_path):
    array = run.store.array("transforms/fixed_to_moving/0")
    values = array[...]
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, values.shape).astype(np.float32)
    sizes = []
    for name, data in (("rounded", values), ("full", values + run._context().precision * noise)):
        copy = storage.create_array(
            str(tmp_path / name),
            shape=data.shape,
            dtype="float32",
            chunks=array.chunks,
            shards=array.shards,
            codec="lz4",
        )
        copy.write((0, 0, 0, 0), data)
        sizes.append(sum(f.stat().st_size for f in (tmp_path / name).rglob("*") if f.is_file()))
    assert sizes[0] < 0.8 * sizes[1]


def test_the_determinant_that_is_told_is_that_of_what_is_stored(run):
    context = run._context()
    for which in ("fixed", "moving"):
        array, grid = context.half_map(0, which)
        smallest = float(min_determinant(torch.as_tensor(array[...]), grid.spacing).min())
        told = float(np.nanmin(run.store.array("levels/0/compose/0/metrics/min_jacobian")[...]))
        assert told <= smallest + 1e-6 and smallest >= context.config.guarantee.min_determinant
