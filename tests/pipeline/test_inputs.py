"""Bad input: a clear error of its own kind, before any work."""

from __future__ import annotations

import numpy as np
import pytest

from bigreg import load_config, plan, register
from bigreg.cluster import require_memory
from bigreg.config import Cluster
from bigreg.errors import BigregError, ConfigError, InputError, OutputError, ResourceError

SPACING = (2.0, 1.0, 1.0)
GOOD = np.random.default_rng(0).integers(100, 1000, (24, 28, 32)).astype("uint16")


def test_every_kind_of_error_has_an_exit_status_of_its_own():
    kinds = BigregError.__subclasses__()
    assert len({k.exit_status for k in kinds}) == len(kinds) >= 6
    assert all(k.exit_status > 2 for k in kinds)


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ("missing.ome.zarr", "missing.ome.zarr"),
        (GOOD, r"is an array without a spacing; pass \(array, spacing\)"),
        ((GOOD[0], SPACING), "2-D"),
        ((np.stack([GOOD] * 3), SPACING), "axes"),
        ((GOOD.astype(complex), SPACING), "complex"),
        ((GOOD, (1.0, -1.0, 1.0)), "spacing"),
    ],
    ids=["missing file", "missing spacing", "2-D", "wrong axes", "complex", "negative spacing"],
)
def test_an_image_that_cannot_be_used_is_refused_before_anything_is_written(fixed, message, tmp_path):
    out = tmp_path / "run.zarr"
    with pytest.raises(InputError, match=message):
        register(fixed, (GOOD, SPACING), out=str(out))
    assert not out.exists()


def test_an_image_of_one_value_is_called_blank(thread_client, small_config, tmp_path):
    blank = np.full_like(GOOD, 7)
    with pytest.raises(InputError, match="moving is blank: every voxel is 7"):
        register(
            (GOOD, SPACING), (blank, SPACING), out=str(tmp_path / "r.zarr"), config=small_config(), client=thread_client
        )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_voxel_that_is_no_number_is_named(value, thread_client, small_config, tmp_path):
    bad = GOOD.astype("float32")
    bad[5, 6, 7] = value
    with pytest.raises(InputError, match=r"fixed: voxel .* is not a finite number"):
        register(
            (bad, SPACING), (GOOD, SPACING), out=str(tmp_path / "r.zarr"), config=small_config(), client=thread_client
        )


def test_images_that_lie_apart_and_may_not_be_moved_are_refused(thread_client, small_config, tmp_path):
    from bigreg import open_volume

    far = open_volume(GOOD, spacing=SPACING, origin=(1e4, 0, 0), name="moving")
    with pytest.raises(InputError, match="do not overlap"):
        register(
            (GOOD, SPACING),
            far,
            out=str(tmp_path / "r.zarr"),
            config=small_config("affine.kind=none"),
            client=thread_client,
        )


def test_one_orientation_without_the_other_is_refused():
    from bigreg import open_volume

    moving = open_volume(GOOD, spacing=SPACING, orientation="psl", name="moving")
    with pytest.raises(InputError, match="its orientation to open_volume"):
        plan((GOOD, SPACING), moving)


def test_a_memory_limit_below_one_block_is_refused(tmp_path):
    with pytest.raises(ResourceError, match="memory_limit"):
        register(
            (GOOD, SPACING),
            (GOOD, SPACING),
            out=str(tmp_path / "r.zarr"),
            config=load_config(preset="rounds", overrides=["cluster.memory_limit=300MB"]),
        )
    with pytest.raises(ConfigError, match="not a size"):
        require_memory(1, Cluster(memory_limit="plenty"))


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        register((GOOD, SPACING), (GOOD, SPACING), out=str(tmp_path / "file" / "run.zarr"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["engine=magic"], "magic"),
        (["engine_options.optimise.wings=2"], "wings"),
        (["engine_options.optimise.similarity=mattes"], "mattes"),
        (["engine_options.similarity=mi"], "engine_options.similarity"),
        (["engine_options.discrete.noise=0.1"], "discrete.*not used.*optimise"),
        (["coarse.options.discrete.noise=0.1"], "discrete.*not used"),
        (["engine=[optimise, discrete]"], "discrete.*cannot continue.*optimise"),
        (["engine=[optimise, optimise]"], "named twice"),
        (["engine=[]"], "engine = \\[\\]"),
        (["engine=sitreg"], "has no weights"),
        (["engine=sitreg", "engine_options.sitreg.weights=nowhere"], "nowhere.*neither packaged"),
        (["ladder.finest=3"], "power of two"),
        (["blocks.cor=3"], "blocks.cor"),
        (["output.shard=100"], "multiple of chunk"),
        (["nonsense"], "KEY=VALUE"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        config = load_config(preset="rounds", overrides=overrides)
        register((GOOD, SPACING), (GOOD, SPACING), out=str(tmp_path / "r.zarr"), config=config)


def test_every_preset_is_valid_and_the_reference_preset_names_every_key():
    import yaml

    from bigreg.config import Config, preset_folder, preset_names

    assert set(preset_names()) >= {"rounds", "brain-to-atlas", "demo"}
    for name in preset_names():
        load_config(preset=name)
    named = yaml.safe_load((preset_folder() / "rounds.yaml").read_text())
    for key, value in Config().model_dump().items():
        assert key in named
        if key == "cluster":
            assert set(named[key]) == {"kind", "workers", "memory_limit"}  # the others are in clusters/
        elif isinstance(value, dict) and key != "engine_options":
            assert set(named[key]) == set(value)
