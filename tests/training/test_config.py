"""What a training's file may say, and what it is told where it says something wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bigreg.errors import ConfigError
from bigreg.training.config import load_training

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "configs" / "training").glob("*.yaml"))


def test_there_is_an_example_of_each_network():
    assert {p.stem for p in EXAMPLES} == {"sitreg", "invgan", "voxelmorph", "transmorph"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_the_examples_are_valid_and_commented(path):
    config = load_training(path)
    assert config.network.name == path.stem
    lines = path.read_text().splitlines()
    assert sum("#" in line for line in lines) > 0.4 * len(lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.patch=8", "at least 16 voxels"),
        ("data.downsample=[3]", "powers of two"),
        ("losses=[{name: nothing}]", "nothing"),
        ("losses=[{name: supervised}, {name: supervised}]", "named twice"),
        ("losses=[{name: dice}]", "a source with labels"),
        ("losses=[{name: landmarks}]", "a pair with landmarks"),
        ("data.held_out=0", "validation.sources"),
        ("data.sources=[{fixed: {path: a}}]", "both fixed and moving"),
        ("data.sources=[{image: {path: a}, run: b}]", "run does not go with image"),
        ("data.sources=[{fixed: {path: a}, moving: {path: b}, affine: [[1]], run: c}]", "four rows"),
        ("data.sources=[{fixed: {path: a}, moving: {path: b}, after: 1}]", "give run"),
        ("data.sources=[{fixed: {path: a}, moving: {path: b}, run: c, after: 1, landmarks: d}]", "by the affine alone"),
        ("schedule.stepz=3", "stepz"),
        ("losses=[{name: regularisation}]", "go together"),
        ("network.weights=random", "network.weights is left out"),
        ("augment.contrast.greys={}", "greys needs a source with labels"),
        ("augment.contrast.curve.knots=[1, 4]", "at least 2"),
        ("augment.contrast.curve.knots=[2, 2]", "up to 3 or more"),
        ("augment.contrast.curve.probability=0", "greater than 0"),
        ("augment.contrast={greys: {deviation: [0.2, 0.1]}}", "at least 0 and a largest one"),
        ("losses=[{name: adversarial}, {name: adversarial, positive: blend}]", "adversarial pair are named twice"),
        ("network={name: sitreg, settings: {regularisation: [0.1, 1.0]}}", "go together"),
    ],
)
def test_what_is_wrong_is_named(settings, change, message):
    with pytest.raises(ConfigError, match=message):
        load_training(settings, overrides=[change])


CURVE = {"contrast": {"curve": {}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"losses": [{"name": "supervised"}, {"name": "lncc"}], "augment": CURVE}, "lncc wants images of one contrast"),
        ({"losses": [{"name": "supervised"}, {"name": "adversarial"}], "augment": CURVE}, "use kind flow"),
        ({"losses": [{"name": "identity"}], "network": {"name": "sitreg"}}, "by construction"),
    ],
)
def test_what_does_not_go_together_is_named(settings, change, message):
    with pytest.raises(ConfigError, match=message):
        load_training({**settings, **change})


def test_other_contrasts_go_with_what_compares_structure(settings):
    losses = [{"name": "supervised"}, {"name": "mind"}, {"name": "adversarial", "kind": "flow"}]
    assert load_training({**settings, "losses": losses, "augment": CURVE}).augment.contrast.curve.knots == (3, 6)


def test_a_file_and_overrides(settings, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert load_training(path, overrides=["schedule.steps=99"]).schedule.steps == 99
    with pytest.raises(ConfigError, match="cannot be read"):
        load_training(tmp_path / "none.yaml")


def test_where_and_on_what_it_runs_does_not_decide_the_weights(settings, tmp_path):
    one = load_training(settings).result_part()
    other = load_training(
        settings, overrides=[f"output.folder={tmp_path / 'b'}", "readers=5", "device=cpu"]
    ).result_part()
    assert one == other
    assert one != load_training(settings, overrides=["seed=5"]).result_part()
