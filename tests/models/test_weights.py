"""Weights and their cards: what is written comes back, and what is wrong is refused by name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from bigreg import models
from bigreg.cli import app
from bigreg.errors import ConfigError, OutputError
from bigreg.models import Card, Spacing
from bigreg.networks import architectures, build

SMALL = {"encoder": [4, 6], "update": [4, 6]}
CARD = Card(
    data="two mouse brains", spacing=Spacing(low=(4, 2, 2), high=(8, 4, 4)), contrast="autofluorescence",
    figures={"tre_um": 3.25, "folds": 0.0}, licence="BSD-3-Clause",
)  # fmt: skip


@pytest.fixture
def kept(tmp_path):
    torch.manual_seed(3)
    network = build("sitreg", **SMALL).eval()
    path = tmp_path / "brains.safetensors"
    return network, path, models.save(path, network, CARD)


def edited(path, **values):
    card = path.with_suffix(".json")
    data = json.loads(card.read_text()) | values
    card.write_text(json.dumps(data))


def test_weights_and_card_come_back(kept):
    network, path, card = kept
    again, found = models.load(str(path), "sitreg")
    assert found == card and not again.training
    assert (found.data, found.figures, found.spacing) == (CARD.data, CARD.figures, CARD.spacing)
    assert found.architecture == "sitreg" and found.settings == network.settings
    assert found.versions["torch"] == torch.__version__.partition("+")[0] or found.versions["torch"]
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert sorted(p.name for p in path.parent.iterdir()) == ["brains.json", "brains.safetensors"]


def test_half_precision_halves_the_file_and_loads_as_float32(kept, tmp_path):
    network, _, card = kept
    other = models.save(tmp_path / "half.safetensors", network, CARD, half=True)
    again, _ = models.load(tmp_path / "half.safetensors", "sitreg")
    assert other.digest != card.digest
    assert all(p.dtype == torch.float32 for p in again.parameters())
    for a, b in zip(network.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
    sizes = [sum(t.numel() * t.element_size() for t in load_file(p).values()) for p in tmp_path.glob("*.safetensors")]
    assert max(sizes) == 2 * min(sizes)


@pytest.mark.parametrize("architecture", architectures())
def test_random_weights_are_the_same_each_time_and_leave_the_seed_alone(architecture):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    (a, one), (b, other) = models.load("random", architecture), models.load("random", architecture)
    assert torch.equal(torch.rand(1), expected)
    assert one.digest == other.digest and one.architecture == architecture
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_what_is_neither_packaged_nor_a_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"weights 'brainz' are neither packaged .* nor a file"):
        models.load("brainz", "sitreg")
    (tmp_path / "a.pt").write_bytes(b"pickle")
    with pytest.raises(ConfigError, match=r"a\.pt.*neither"):
        models.load(tmp_path / "a.pt", "sitreg")


def test_another_architecture_is_refused(kept):
    with pytest.raises(ConfigError, match="'sitreg', not 'invgan'; use the engine 'sitreg'"):
        models.load(kept[1], "invgan")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": 7}, r"of format 7, this bigreg reads 1"),
        ({"format": 7, "unheard": 1}, r"of format 7, this bigreg reads 1"),
        ({"unheard": 1}, r"brains\.json' is not valid: unheard"),
        ({"digest": "0" * 64}, "digest .* their card says 000000000000"),
        ({"settings": {"encoder": [4, 8], "update": [4, 6]}}, r"do not fit .* has the shape"),
        ({"settings": {"encoder": [4, 6, 6], "update": [4, 6, 6]}}, r"do not fit .* is missing"),
        ({"settings": {"encoder": [4], "update": [4]}}, r"do not fit .* is not part of it"),
        ({"settings": {"wings": 2}}, "wings"),
        ({"spacing": {"low": [2, 2, 2], "high": [1, 1, 1]}}, "spacing.*at most high"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(kept, values, message):
    edited(kept[1], **values)
    with pytest.raises(ConfigError, match=message):
        models.load(kept[1], "sitreg")


def test_a_changed_tensor_is_found(kept):
    _, path, _ = kept
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] += 1e-3
    save_file(tensors, path)
    with pytest.raises(ConfigError, match="digest"):
        models.load(path, "sitreg")


def test_missing_and_broken_files_are_named(kept, tmp_path):
    _, path, _ = kept
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"brains\.safetensors' cannot be read"):
        models.load(path, "sitreg")
    path.with_suffix(".json").write_text("{")
    with pytest.raises(ConfigError, match=r"brains\.json' is not valid"):
        models.load(path, "sitreg")
    path.with_suffix(".json").unlink()
    with pytest.raises(ConfigError, match=r"no card 'brains\.json' beside them"):
        models.load(path, "sitreg")


def test_places_that_cannot_be_written_are_named(kept, tmp_path):
    with pytest.raises(ConfigError, match="must end in"):
        models.save(tmp_path / "a.pt", kept[0], CARD)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        models.save(tmp_path / "file" / "a.safetensors", kept[0], CARD)


def test_a_spacing_holds_within_its_slack():
    assert CARD.spacing.holds((4, 2, 2), 1.0) and CARD.spacing.holds((8, 4, 4), 1.0)
    assert not CARD.spacing.holds((9, 4, 4), 1.0) and CARD.spacing.holds((9, 4, 4), 1.2)
    assert not CARD.spacing.holds((4, 2, 1.9), 1.0)


def test_the_verb_lists_and_describes(kept, monkeypatch):
    from bigreg.models import weights

    verb = lambda *a: CliRunner().invoke(app, ["models", *map(str, a)], env={"COLUMNS": "150"})  # noqa: E731
    described = verb(kept[1]).output
    for text in ("sitreg", "two mouse brains", "4 x 2 x 2 to 8 x 4 x 4 µm", "tre_um", "BSD-3-Clause", kept[2].digest):
        assert text in described
    assert verb("nothing").exit_code == ConfigError.exit_status
    monkeypatch.setattr(weights, "PACKAGED", kept[1].parent)
    assert all(text in verb().output for text in ("brains", "sitreg", "two mouse brains", "tre_um 3.25"))
    assert "two mouse brains" in verb("brains").output
    monkeypatch.setattr(weights, "PACKAGED", kept[1].parent / "none")
    assert "no packaged weights" in verb().output


def test_every_packaged_network_loads_and_is_small():
    for name in models.packaged_names():
        card = models.card_of(name)
        models.load(name, card.architecture)
        assert card.data and card.licence and card.figures and models.weight_bytes(name) <= 5e6
