"""Training as its user meets it: from the command line, and on a pair that a run has registered."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from bigreg import register
from bigreg.cli import app
from bigreg.errors import ConfigError, InputError
from bigreg.geometry import Grid
from bigreg.models import load
from bigreg.phantom import make_pair
from bigreg.training.config import load_training
from bigreg.training.sources import Opened
from bigreg.volumes import convert


def in_a_process(*arguments):
    return subprocess.run([sys.executable, "-m", "bigreg.cli", *map(str, arguments)], capture_output=True, text=True)


def bigreg(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_the_command_trains_and_goes_on(settings, tmp_path):
    settings["network"]["settings"] = {"encoder": [4, 8], "decoder": [8], "last": 4}
    settings["schedule"]["steps"] = 2
    file = tmp_path / "train.yaml"
    file.write_text(yaml.safe_dump(settings))
    done = in_a_process("train", file)
    assert done.returncode == 0, done.stderr
    weights = tmp_path / "out" / "weights.safetensors"
    assert f"weights: {weights}" in done.stdout and "step 2: error_um" in done.stdout
    network, card = load(weights, "voxelmorph")
    assert network.settings["encoder"] == [4, 8] and "2 steps on 1 source (image.zarr)" in card.data
    assert "voxelmorph" in bigreg("models", weights).stdout
    again = bigreg("train", file)
    assert again.exit_code == 0 and "resumes after step 2 of 2" in again.stdout
    wrong = bigreg("train", file, "--set", "seed=4")
    assert wrong.exit_code == 4 and "another seed" in wrong.stderr


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """A finished run and the specs of its images."""
    folder = tmp_path_factory.mktemp("registered")
    pair = make_pair((40, 56, 64), (4.0, 2.6, 2.6), seed=3, max_displacement_um=7.0)
    specs = {}
    for name, image in (("fixed", pair.fixed), ("moving", pair.moving)):
        convert(image, folder / f"{name}.ome.zarr", spacing=pair.spacing)
        specs[name] = {"path": str(folder / f"{name}.ome.zarr")}
    options = {
        "affine": {"rotations_deg": 0, "voxels": 32}, "ladder": {"coarsest": 2, "finest": 2, "iterations": [30]},
        "blocks": {"core": 48, "halo": 8}, "output": {"warped": False}, "cluster": {"workers": 1},
    }  # fmt: skip
    register(folder / "fixed.ome.zarr", folder / "moving.ome.zarr", out=str(folder / "run.zarr"), config=options)
    return {**specs, "run": str(folder / "run.zarr")}


def opened(settings, source):
    config = load_training(
        {**settings, "data": {**settings["data"], "sources": [source]}, "losses": [{"name": "lncc"}]}
    )
    return Opened(config.data.sources[0], config.data.intensity, 0)


def likeness(source):
    middle = (source.box[0] + source.box[1]) / 2
    grid = Grid.from_spacing((20, 24, 24), (4.0, 2.6, 2.6), middle - np.array([10, 12, 12]) * [4.0, 2.6, 2.6])
    patch = source.read(grid)
    both = patch.masks.all(0)
    return np.corrcoef(patch.images[0][both], patch.images[1][both])[0, 1]


def test_a_run_says_how_its_images_lie(settings, registered):
    plain = likeness(opened(settings, {k: registered[k] for k in ("fixed", "moving")}))
    affine = likeness(opened(settings, registered))
    level = likeness(opened(settings, {**registered, "after": 0}))
    assert plain < affine < level


def test_a_run_of_other_images_or_levels_is_refused(settings, registered):
    with pytest.raises(ConfigError, match="has no level 7"):
        opened(settings, {**registered, "after": 7})
    other = {**registered, "moving": {**registered["moving"], "spacing": [1.0, 1.0, 1.0]}}
    with pytest.raises(InputError, match="give the same image"):
        opened(settings, other)
