"""Several channels and labels in one run: what each shows counts where it shows something."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from typer.testing import CliRunner

import bigreg
from bigreg import load_config, register, storage
from bigreg.cli.app import app
from bigreg.cli.options import channel_overrides
from bigreg.errors import ConfigError, InputError, OutputError
from bigreg.pipeline.context.channels import IMAGES
from bigreg.pipeline.context.inputs import chosen_channels
from bigreg.pipeline.planning.plan import plan

BOTH = "channels=[{fixed: 0, moving: 0}, {fixed: 1, moving: 1}]"


def halves(image: np.ndarray, y: np.ndarray, middle: float) -> np.ndarray:
    """(2, z, y, x): the anatomy on either side of a place in moving, and the camera's noise on the other."""
    dark = np.percentile(image, 1)
    noise = np.random.default_rng(0).normal(dark, 20, (2, *image.shape)).clip(0)
    far = 1 / (1 + np.exp(-(y - middle) / 2))
    return np.stack([image * (1 - far) + noise[0] * far, image * far + noise[1] * (1 - far)]).astype(image.dtype)


@pytest.fixture(scope="module")
def split(pair):
    """The pair in two channels that each show one half of it: (fixed, moving), each (array, spacing)."""
    y = np.broadcast_to(np.arange(pair.moving.shape[1])[None, :, None] * pair.spacing[1], pair.moving.shape)
    middle = float(np.median(pair.truth[1][pair.mask]))
    return (
        (halves(pair.fixed, pair.truth[1], middle), pair.spacing),
        (halves(pair.moving, y, middle), pair.spacing),
    )


@pytest.fixture(scope="module")
def both(split, thread_client, tmp_path_factory, small_config):
    out = str(tmp_path_factory.mktemp("both") / "run.zarr")
    return register(*split, out=out, config=small_config(BOTH, "output.report=true"), client=thread_client)


def error(run, pair) -> float:
    """Mean distance to the truth in the tissue, in voxels."""
    found = run.map_points(np.argwhere(pair.mask) * pair.spacing)
    apart = np.linalg.norm(found - pair.truth[:, pair.mask].T, axis=1)
    return float(np.nanmean(apart)) / min(pair.spacing)


def test_two_halves_are_as_good_as_the_whole(both, registered, pair):
    assert error(both, pair) < 1.05 * error(registered.run, pair)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_one_half_alone_is_worse(number, split, both, pair, thread_client, tmp_path, small_config):
    images = [(array[number], spacing) for array, spacing in split]
    alone = register(*images, out=str(tmp_path / "run.zarr"), config=small_config(), client=thread_client)
    assert error(alone, pair) > 1.4 * error(both, pair)


def test_a_map_of_two_channels_does_not_fold(both):
    rows = {(group, name): value for group, name, value, _, _ in both.summary()}
    assert rows["regularity", "folds, fixed_to_moving"] == rows["regularity", "folds, moving_to_fixed"] == 0
    assert rows["inverse error", "largest"] < 0.1


def test_exchanging_two_channels_exchanges_the_maps(both, split, thread_client, tmp_path, small_config):
    swapped = register(*split[::-1], out=str(tmp_path / "run.zarr"), config=small_config(BOTH), client=thread_client)
    np.testing.assert_allclose(swapped.affine @ both.affine, np.eye(4), atol=1e-6)
    for mine, theirs in (("fixed_to_moving", "moving_to_fixed"), ("moving_to_fixed", "fixed_to_moving")):
        a, b = both.store.array("transforms", mine, "0")[...], swapped.store.array("transforms", theirs, "0")[...]
        assert np.abs(a - b).max() < 0.02


def test_two_workers_give_the_same_bits(both, split, same_bits, tmp_path, small_config):
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        other = register(*split, out=str(tmp_path / "run.zarr"), config=small_config(BOTH), client=client)
    assert same_bits(both, other)


def test_a_run_says_which_channels_it_compares(both):
    images = both.status().images
    assert set(images) == {"fixed", "moving", "fixed-2", "moving-2"}
    assert [images[w]["channel"] for w in ("fixed", "fixed-2")] == [0, 1]
    named = [name for _, name, *_ in both.summary() if "channel pair" in name]
    assert "local correlation after the deformation, channel pair 2" in named


@pytest.fixture(scope="module")
def wrong(pair, thread_client, tmp_path_factory, small_config):
    """A run of two channels, of whose second moving shows something else: itself upside down."""
    fixed, moving = np.stack([pair.fixed] * 2), np.stack([pair.moving, pair.moving[::-1, ::-1, ::-1]])
    channels = BOTH.replace("moving: 1", "moving: 1, weight: 0.01")
    config = small_config(channels, "affine.kind=none", "masks.noncorrespondence=false", "output.report=true")
    images = (fixed, pair.spacing), (moving, pair.spacing)
    return register(
        *images, out=str(tmp_path_factory.mktemp("wrong") / "run.zarr"), config=config, client=thread_client
    )


def test_the_risk_is_told_of_each_channel(both, wrong):
    name = "textured tiles off, channel pair {}"
    right, other = ({n: (v, note) for _, n, v, _, note in run.summary()} for run in (both, wrong))
    assert other[name.format(1)][0] < 20 < 50 < other[name.format(2)][0]
    assert other[name.format(2)][1] == "channel 1 of fixed and channel 1 of moving"
    assert all(right[name.format(k)][0] < 20 for k in (1, 2))
    page = storage.read_file(wrong.store.path("report"), "index.html").decode()
    assert name.format(2) in page
    assert any(reason.startswith("Channel pair 2 does not fit where another does") for reason in wrong.verdict.reasons)
    assert not any("Channel pair" in reason for reason in both.verdict.reasons)


def test_the_risk_of_one_channel_is_kept_once(registered, both):
    assert set(registered.run.metrics()["stages/confidence"]) == {"tiles", "risky", "structured", "expected"}
    assert {"structured_1", "expected_2"} < set(both.metrics()["stages/confidence"])


def test_a_run_of_other_channels_is_another_run(both, split, small_config, thread_client):
    other = small_config("channels=[{fixed: 0, moving: 0}, {fixed: 1, moving: 1, weight: 2}]", "output.report=true")
    with pytest.raises(OutputError, match="another configuration: channels"):
        register(*split, out=both.url, config=other, client=thread_client)
    same = register(*split, out=both.url, config=small_config(BOTH, "output.report=true"), client=thread_client)
    assert same.url == both.url


def test_weights_similarities_and_corrections_of_one_channel(split, pair, thread_client, tmp_path, small_config):
    config = small_config(
        "channels=[{fixed: 0, moving: 0, weight: 0.5, similarity: lncc_squared, intensity: {high: 99.0}},"
        "{fixed: 1, moving: 1, weight: 2, preprocess: {fixed: {background_um: 60}}}]",
        "landmarks.path=auto",
    )
    run = register(*split, out=str(tmp_path / "run.zarr"), config=config, client=thread_client)
    assert set(bigreg.storage.children(run.store.path("preprocess"))) - {"zarr.json"} == {"fixed-2"}
    low, high = (run.store.attributes["intensity"][w] for w in ("fixed", "fixed-2"))
    assert low != high and error(run, pair) < 0.6


@pytest.fixture
def named(tmp_path):
    """Both images, of three channels with names."""
    shape, channels = (12, 16, 16), ("DAPI", "GFP", "Cy5")
    group = zarr.open_group(tmp_path / "named.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=(len(channels), *shape), dtype="uint16", chunks=(1, *shape))
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    scale = [{"type": "scale", "scale": [1.0, 2.0, 1.0, 1.0]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    group.attrs["omero"] = {"channels": [{"label": n} for n in channels]}
    return {w: bigreg.open_volume(tmp_path / "named.zarr", name=w) for w in ("fixed", "moving")}


def test_channels_are_found_by_name(named):
    config = load_config({"channels": [{"fixed": "Cy5", "moving": 1}, {"fixed": "DAPI", "moving": "DAPI"}]})
    settled, opened = chosen_channels(config, named)
    assert [(p.fixed, p.moving) for p in settled.channels] == [(2, 1), (0, 0)]
    assert [opened[w].settings.channel for w in ("fixed", "moving", "fixed-2", "moving-2")] == [2, 1, 0, 0]


@pytest.mark.parametrize("asked", ["mCherry", 3])
def test_a_channel_that_is_not_there_is_refused_with_those_that_are(asked, named):
    config = load_config({"channels": [{"fixed": asked, "moving": 0}]})
    with pytest.raises(InputError, match=r"has no channel .*0 to 2, by name DAPI, GFP, Cy5"):
        chosen_channels(config, named)


def test_a_pair_without_a_channel_is_refused(named):
    with pytest.raises(ConfigError, match=r"channels\.1\.moving names no channel"):
        chosen_channels(load_config({"channels": [{"fixed": 0, "moving": 0}, {"fixed": 1}]}), named)


def test_an_engine_that_compares_one_channel_is_refused_before_any_work(split, tmp_path, small_config, monkeypatch):
    from bigreg.engines.optimise import Optimise

    monkeypatch.setattr(Optimise, "takes_channels", False)
    with pytest.raises(ConfigError, match="compares one channel, and there are 2"):
        register(*split, out=str(tmp_path / "run.zarr"), config=small_config(BOTH))
    assert not (tmp_path / "run.zarr").exists()


def test_what_is_planned_grows_with_the_channels(split, small_config):
    one, two = (plan(*split, config=small_config(c)) for c in ("channels=[{fixed: 0, moving: 0}]", BOTH))
    finest = [p.work.by_name["levels/0"] for p in (one, two)]
    assert finest[1].memory > finest[0].memory
    read = [sum(amount.total for amount in work.source) for work in finest]
    assert read[1] == 2 * read[0] > 0


def test_the_plan_of_two_channels_names_the_stages_of_the_run(both, split, small_config):
    planned = {s.name for s in plan(*split, config=small_config(BOTH, "output.report=true")).stages}
    assert planned == {name for name, _, _ in both.store.attributes["stages"]}


def on_disk(folder, images) -> list[str]:
    """Images with their channels as files of OME-Zarr, named A and B."""
    paths = [str(folder / f"{which}.ome.zarr") for which in ("fixed", "moving")]
    for path, (array, spacing) in zip(paths, images, strict=True):
        group = zarr.open_group(path, mode="w", zarr_format=2)
        group.create_array("0", data=array, chunks=(1, *array.shape[1:]))
        axes = [{"name": "c", "type": "channel"}]
        axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
        scale = [{"type": "scale", "scale": [1.0, *map(float, spacing)]}]
        datasets = [{"path": "0", "coordinateTransformations": scale}]
        group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
        group.attrs["omero"] = {"channels": [{"label": n} for n in "AB"]}
    return paths


def planned(*options: str) -> dict:
    done = CliRunner().invoke(app, ["plan", *options, "--preset", "rounds", "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout[done.stdout.index("{") :])


def test_the_options_name_channels_by_number_or_name(split, tmp_path):
    paths = on_disk(tmp_path, split)
    numbers = planned(*paths, "--fixed-channel", "0,1", "--moving-channel", "0, 1")
    assert planned(*paths, "--fixed-channel", "A,B", "--moving-channel", "A,1") == numbers
    assert planned(*paths, "--fixed-channel", "B", "--moving-channel", "A")["bytes_read"] < numbers["bytes_read"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--fixed-channel", "0,1", "--moving-channel", "1"), "names 2 and --moving-channel 1 names 1"),
        (("--fixed-channel", "0,C", "--moving-channel", "0,1"), "has no channel 'C'; there are 0 to 1, by name A, B"),
        (("--fixed-channel", "0", "--moving-channel", "0", "--fixed-labels", "x.tif"), "pass --moving-labels too"),
        (("--fixed-channel", "0", "--moving-channel", "0", "--labels-weight", "2"), "--labels-weight is given without"),
    ],
    ids=["unequal", "missing", "labels of one", "weight alone"],
)
def test_options_that_do_not_fit_are_refused(options, said, split, tmp_path):
    paths = on_disk(tmp_path, split)
    done = CliRunner().invoke(app, ["register", *paths, str(tmp_path / "run.zarr"), "--preset", "rounds", *options])
    assert done.exit_code == InputError.exit_status and said in " ".join(done.output.split())
    assert not (tmp_path / "run.zarr").exists()


def test_the_options_keep_what_a_configuration_says_of_each_pair(split, tmp_path):
    images = [bigreg.open_volume(path, name=w) for path, w in zip(on_disk(tmp_path, split), IMAGES, strict=True)]
    known = load_config({"channels": [{"weight": 2.0}, {"similarity": "mi"}]})
    given = {"fixed_channel": "1,0", "moving_channel": "B,A"}
    (override,) = channel_overrides(images, given, known)
    pairs = load_config({}, overrides=[override]).channels
    assert [(p.fixed, p.moving, p.weight, p.similarity) for p in pairs] == [(1, 1, 2.0, None), (0, 0, 1.0, "mi")]
    with pytest.raises(ConfigError, match="the configuration has 2 pairs"):
        channel_overrides(images, {"fixed_channel": "1", "moving_channel": "0"}, known)


def test_networks_and_the_search_compare_all_channels_in_a_run(split, thread_client, tmp_path, small_config):
    options = ["engine=[sitreg, optimise]", "engine_options.sitreg.weights=random", "coarse.engine=discrete"]
    run = register(*split, out=str(tmp_path / "run.zarr"), config=small_config(BOTH, *options), client=thread_client)
    folds = [value for _, name, value, _, _ in run.summary() if name.startswith("folds")]
    assert run.verdict.level != "bad" and folds == [0, 0]


def test_the_start_is_found_by_all_channels(split, pair, registered, thread_client, tmp_path, small_config):
    """Where a first channel shows half of the tissue, the other channel's half is laid on as well as the whole."""
    config = small_config(BOTH, "deformation=false")
    run = register(*split, out=str(tmp_path / "run.zarr"), config=config, client=thread_client)
    whole = registered.run.affine
    points = np.argwhere(pair.mask) * pair.spacing
    apart = [p @ m[:3, :3].T + m[:3, 3] for p, m in ((points, run.affine), (points, whole))]
    assert np.linalg.norm(apart[0] - apart[1], axis=1).mean() < 0.5 * min(pair.spacing)
