"""What a short look says of pairs of every kind, and what a run without a preset makes of it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy import ndimage

import bigreg
from bigreg import storage
from bigreg.errors import InputError
from bigreg.pipeline.choosing import copies
from bigreg.pipeline.choosing.choice import Choice, choose, chosen_config
from bigreg.pipeline.choosing.diagnosis import Measured, diagnose
from bigreg.pipeline.choosing.motion import Motion
from bigreg.pipeline.context import looked
from bigreg.quality.relation import Relation
from bigreg.volumes import convert
from bigreg.volumes.described import VolumeDescription

from .. import phantoms
from ..phantoms import light, other_contrast, rotation, see, through, tissue

AS_THEY_LIE = ["affine.kind=none"]  # no start is searched
KEYS = {
    "preset", "settings", "sure", "candidates", "why", "similarity", "contrast", "structure", "start", "affine", "bent",
    "motion", "strain", "padding", "channels", "cost", "warnings", "seconds",
}  # fmt: skip


def another_shape(points: np.ndarray) -> np.ndarray:
    z, y, x = points.T
    return points * (1, 1.03, 0.98) + np.stack(
        [150 * np.sin(y / 900 + 1), 160 * np.sin(x / 800), 150 * np.cos(z / 1000)], axis=1
    )


def another_grain(points: np.ndarray) -> np.ndarray:
    lattice = np.random.default_rng(77).standard_normal((34, 34, 34))
    index = points.T / 300.0 + lattice.shape[0] / 2
    return ndimage.map_coordinates(lattice, index, order=3, prefilter=False, mode="nearest")


def relative(points: np.ndarray) -> np.ndarray:
    """Another brain: the same parts in another shape, but the finest structure is its own."""
    points = another_shape(points)
    grain = another_grain(points) - phantoms._texture(points, 300.0)
    return np.clip(light(points) + 0.22 * tissue(points) * grain, 0, 1)


def relative_of_other_contrast(points: np.ndarray) -> np.ndarray:
    return other_contrast(points, of=relative)


def volumes(first, second) -> dict[str, bigreg.Volume]:
    return {"fixed": first.volume("fixed"), "moving": second.volume("moving")}


def of(second, gamma: float = 1.0) -> dict[str, bigreg.Volume]:
    near = through(rotation(1.0), (20.0, -20.0, 10.0))
    return volumes(see(seed=1, gamma=gamma), see(near, of=second, seed=2))


@pytest.mark.parametrize(
    ("second", "gamma", "preset", "contrast"),
    [
        (light, 0.8, "rounds", "same"),
        (relative, 0.9, "individuals", "same"),
        (other_contrast, 1.0, "rounds", "other"),
        (relative_of_other_contrast, 1.0, "brain-to-atlas", "other"),
    ],
)
def test_the_preset_follows_from_contrast_and_structure(second, gamma, preset, contrast):
    pair = of(second, gamma)
    found = bigreg.doctor(pair["fixed"], pair["moving"], overrides=AS_THEY_LIE)
    assert (found.preset, found.contrast) == (preset, contrast), found.rows()
    assert found.similarity == ("lncc" if contrast == "same" else "mi")
    assert bool(found.settings) == (contrast == "other" and preset == "rounds")
    told = json.loads(json.dumps(found.to_json()))
    assert set(told) == KEYS
    assert told["cost"]["seconds"] > 0 and told["cost"]["disk_bytes"] > 0


def test_two_skulls_are_told_from_two_rounds_of_one_tissue(data_folder):
    heads = [bigreg.open_volume(data_folder / "mouse_heads" / f"{name}_.nii.gz") for name in ("DBA_2J", "TALLYHO_JNGJ")]
    found = bigreg.doctor(*heads)
    assert found.candidates == ("individuals", "rounds"), found.rows()
    assert "differ in shape" in found.why
    folder, spacing = data_folder / "easifish", (1.68, 1.84, 1.84)
    rounds = [
        bigreg.open_volume(folder / f"{name}.n5", dataset="lowres", spacing=spacing, name=name)
        for name in ("fix", "mov")
    ]
    assert bigreg.doctor(*rounds).candidates == ("rounds", "individuals")


def test_a_turned_pair_is_found_and_its_turn_is_told():
    pair = volumes(see(seed=1), see(through(rotation(120.0)), seed=2))
    found = bigreg.doctor(pair["fixed"], pair["moving"])
    assert found.preset == "rounds" and found.measured.start.turn_deg == pytest.approx(120, abs=2)
    assert any("turn 120 degrees" in text or "turn 119 degrees" in text for _, text in found.rows())


def test_an_unrelated_pair_gets_no_preset():
    noise = ndimage.gaussian_filter(np.random.default_rng(5).standard_normal((48, 48, 48)), 2.0)
    other = bigreg.open_volume((3000 + 20000 * noise).clip(0).astype(np.uint16), spacing=(100.0,) * 3, name="moving")
    found = bigreg.doctor(see(seed=1).volume("fixed"), other)
    assert found.preset is None and found.candidates == () and found.measured.doubtful
    assert "doubtful" in dict(found.rows())["preset"]
    assert choose({"fixed": see(seed=1).volume("fixed"), "moving": other}, AS_THEY_LIE).preset != "demo"


# ---------------------------------------------------------------------------------------------------- conclusions


def measured(sign: float | None, left: float | None, bent: float | None, **more) -> Measured:
    known = {
        "confidence": 0.99, "least_confidence": 0.5, "overlap": 0.9, "start": None, "warnings": (), "template": False,
        "affine": Relation(sign, 0.9, left, 0.5), "bent": Relation(sign, 0.9, bent, 0.5),
    }  # fmt: skip
    return Measured(**{**known, **more})


@pytest.mark.parametrize(
    ("seen", "candidates"),
    [
        (measured(1.0, 0.03, 0.02), ("rounds",)),
        (measured(1.0, 0.18, 0.13), ("rounds", "individuals")),
        (measured(0.99, 0.27, 0.1), ("rounds", "individuals")),
        (measured(0.99, 0.27, 0.1, strain=0.2), ("rounds", "individuals")),
        (measured(0.99, 0.27, 0.1, strain=0.45), ("individuals", "rounds")),
        (measured(0.99, 0.6, 0.1, strain=0.45), ("rounds", "individuals")),  # one specimen that moved far, with noise
        (measured(1.0, 0.5, 0.03, strain=0.45), ("rounds", "individuals")),
        (measured(1.0, 0.1, 0.09, strain=0.45), ("rounds",)),
        (measured(1.0, 0.53, 0.07), ("rounds", "individuals")),  # bent and noisy, and yet one specimen
        (measured(0.97, 0.46, 0.27), ("individuals",)),
        (measured(0.99, 0.5, 0.41), ("individuals", "brain-to-atlas")),
        (measured(0.99, 0.5, 0.41, template=True), ("brain-to-atlas", "individuals")),
        (measured(0.4, 0.7, 0.8), ("brain-to-atlas",)),
        (measured(-0.9, 0.1, 0.05), ("rounds",)),
        (measured(-0.6, 0.56, 0.44), ("brain-to-atlas", "rounds")),
        (measured(0.8, 0.6, 0.5), ("brain-to-atlas", "individuals")),
        (measured(None, None, None), ("rounds", "individuals", "brain-to-atlas")),
        (measured(1.0, 0.9, 0.9, confidence=0.1), ()),
        (measured(1.0, 0.7, 0.05, confidence=0.1), ("rounds", "individuals")),
    ],
)
def test_where_it_is_not_sure_every_candidate_is_named(seen, candidates):
    found = diagnose(seen)
    assert found.candidates == candidates and found.preset == (candidates[0] if candidates else None)
    text = dict(found.rows())["preset"]
    assert all(name in text for name in candidates)
    assert ("not certain" in text) == (len(candidates) > 1)
    assert ("warning" in dict(found.rows())) == (seen.doubtful and bool(candidates))


# -------------------------------------------------------------------------------------------------------- copies


def test_a_copy_is_what_a_run_makes_of_an_image(registered):
    store, volume = registered.run.store, registered.run._context().volumes["fixed"]
    array = bigreg.open_volume(registered.fixed[0], spacing=registered.fixed[1], name="fixed")  # it has no pyramid
    made = [name for name in storage.children(store.path("images", "fixed")) if name != "zarr.json"]
    kept = {name: store.array("images", "fixed", name)[...] for name in made}
    for level in range(1, len(volume.levels)):  # that of the image as it was kept in the run
        factors = "x".join(str(round(f)) for f in volume.levels[level].factors)
        kept[factors] = volume.read((0, 0, 0), volume.grid(level).shape, level)
    assert kept
    for name, expected in kept.items():
        found, known, grid = copies.small_copy(array, tuple(map(int, name.split("x"))), finite=False)
        np.testing.assert_array_equal(found, expected.astype(np.float32))
        assert known is None and grid.shape == expected.shape


def test_slabs_make_the_same_copy(monkeypatch):
    data = np.random.default_rng(0).integers(0, 60000, (37, 21, 18)).astype(np.uint16)
    volume = bigreg.open_volume(data, spacing=(1.0,) * 3, name="fixed")
    whole = copies.small_copy(volume, (4, 2, 4), finite=False)[0]
    monkeypatch.setattr(copies, "SLAB_BYTES", 1)
    np.testing.assert_array_equal(copies.small_copy(volume, (4, 2, 4), finite=False)[0], whole)


def test_what_is_no_number_is_refused_as_a_run_refuses_it():
    data = np.ones((16, 16, 16), np.float32)
    data[9, 2, 3] = np.nan
    volume = bigreg.open_volume(data, spacing=(1.0,) * 3, name="moving")
    with pytest.raises(InputError, match=r"moving: voxel \(9, 2, 3\).*masks.moving=finite"):
        copies.small_copy(volume, (1, 1, 1), finite=False)
    assert copies.small_copy(volume, (2, 2, 2), finite=True)[1] is None  # most of each block is known
    assert not copies.small_copy(volume, (1, 1, 1), finite=True)[1][9, 2, 3]


# -------------------------------------------------------------------------------------------------------- choices

QUICK = [
    "affine.voxels=64", "affine.rotations_deg=0", "blocks.core=24", "blocks.halo=8", "output.chunk=16",
    "output.shard=32", "ladder.finest=2", "ladder.repeats=[1]", "ladder.iterations=[4]", "output.report=false",
    "affine.least_confidence=0",
]  # fmt: skip


def test_a_run_without_a_preset_keeps_what_was_chosen_and_its_bits(
    pair, thread_client, tmp_path, same_bits, monkeypatch
):
    images = {
        "fixed": bigreg.open_volume(pair.fixed, spacing=pair.spacing, name="fixed"),
        "moving": bigreg.open_volume(pair.moving, spacing=pair.spacing, name="moving"),
    }
    out = str(tmp_path / "run.zarr")
    config, choice = chosen_config(images, QUICK, out=out)
    assert config == choice.config(QUICK) and config.affine.voxels == 64
    answered = []
    known = looked.known
    monkeypatch.setattr(looked, "known", lambda *a: answered.append(known(*a)) or answered[-1])
    run = bigreg.register(*images.values(), out=out, config=config, choice=choice, client=thread_client)
    assert answered[0] is not None  # the start of the look is that of the run
    assert run.choice.to_json() == choice.to_json()
    assert run.status().to_json()["choice"]["line"] == choice.line
    alone = bigreg.register(*images.values(), out=str(tmp_path / "alone.zarr"), config=config, client=thread_client)
    assert answered[1] is None and alone.choice is None
    assert same_bits(run, alone)

    # Nothing is chosen a second time: not even looked at.
    monkeypatch.setattr(
        "bigreg.pipeline.choosing.choice.look", lambda *a: pytest.fail("the images were looked at again")
    )
    again, kept = chosen_config(images, QUICK, out=out)
    assert again == config and kept.to_json() == choice.to_json()
    assert chosen_config(images, QUICK, out=str(tmp_path / "alone.zarr"))[1] is None


def test_what_a_user_sets_wins(monkeypatch):
    choice = Choice("rounds", ("affine.similarity=mi", "engine_options.optimise.similarity=mi"), "", True)
    config = choice.config(["engine_options.optimise.similarity=ngf", "ladder.finest=4"])
    assert config.affine.similarity == "mi" and config.ladder.finest == 4
    assert config.engine_options["optimise"]["similarity"] == "ngf"
    other = dataclasses.replace(measured(-0.9, 0.1, 0.05), engines=("discrete",))
    assert diagnose(other).settings == ()  # they would be options of an engine that is not used


def test_images_that_need_not_exist_are_rounds_and_it_is_told():
    images = {w: VolumeDescription((100,) * 3, (1.0,) * 3, name=w) for w in ("fixed", "moving")}
    choice = choose(images)
    assert choice.preset == "rounds" and "not inspected" in choice.line and "pass config" in choice.line


def test_an_image_too_large_to_look_at_is_not_read(monkeypatch):
    monkeypatch.setattr(copies, "MOST_BYTES", 1000)
    pair = of(light)
    choice = choose(pair)
    assert choice.preset == "rounds" and "bigreg convert" in choice.line
    with pytest.raises(InputError, match="fixed has no coarse level"):
        bigreg.doctor(pair["fixed"], pair["moving"])


def test_a_coarse_level_makes_a_large_image_readable(monkeypatch, tmp_path):
    seen = see(seed=1)
    convert(seen.data, tmp_path / "a.ome.zarr", spacing=seen.spacing)
    volume = bigreg.open_volume(tmp_path / "a.ome.zarr", name="fixed")
    monkeypatch.setattr(copies, "MOST_BYTES", 10**5)
    assert copies.unreadable(volume, (1, 1, 1)) is not None
    factors = tuple(round(f) for f in volume.levels[-1].factors)
    assert copies.unreadable(volume, factors) is None or len(volume.levels) == 1


@pytest.mark.parametrize(
    ("motion", "free", "looked_for"),
    [
        (Motion(100, 90, 8.0, 6.0), True, True),
        (Motion(100, 90, 8.0, 6.0), False, False),
        (Motion(100, 90, 2.0, 0.5), True, False),
        (Motion(100, 0), True, False),
    ],
)
def test_pairs_are_looked_for_where_points_moved_far(motion, free, looked_for):
    found = diagnose(measured(1.0, 0.18, 0.13, motion=motion, free=free))
    assert ("landmarks.path=auto" in found.settings) == looked_for
    assert ("pairs of points" in found.why) == looked_for
    assert found.to_json()["motion"]["size"] == motion.size


def test_far_motion_is_seen_and_what_a_user_says_of_pairs_wins():
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.standard_normal((40, 64, 64)), 1.5)
    z, y, x = np.indices(image.shape).astype(float)
    bent = ndimage.map_coordinates(image, [z, y + 9 * np.sin(x / 10), x], order=3, mode="nearest")
    pair = tuple(((i / i.std() * 3000 + 20000).astype(np.uint16), (4.0,) * 3) for i in (bent, image))
    found = bigreg.doctor(*pair, overrides=AS_THEY_LIE)
    assert found.measured.motion.size > 5 and "landmarks.path=auto" in found.settings
    said = bigreg.doctor(*pair, overrides=[*AS_THEY_LIE, "landmarks.path=null"])
    assert not any(s.startswith("landmarks") for s in said.settings)
    assert not any(s.startswith("landmarks") for s in bigreg.doctor(pair[1], pair[1], overrides=AS_THEY_LIE).settings)


# ------------------------------------------------------------------------------------------------------ channels


def stacked(*channels):
    """Images of one place as the channels of one, as `register` takes it."""
    return np.stack([one.data for one in channels]), channels[0].spacing


CHANNELS = "channels=[{fixed: 0, moving: 0}, {fixed: 1, moving: 1}]"


def test_all_channels_are_looked_at_and_one_that_is_wrong_is_named():
    near = through(rotation(1.0), (20.0, -20.0, 10.0))
    fixed = stacked(see(seed=1), see(seed=3, of=other_contrast))
    right = stacked(see(near, seed=2), see(near, seed=4, of=other_contrast))
    wrong = right[0].copy()
    noise = ndimage.gaussian_filter(np.random.default_rng(5).standard_normal(wrong.shape[1:]), 2.0)
    wrong[0] = (3000 + 20000 * noise).clip(0)  # the first: what is concluded is that of the second
    both = bigreg.doctor(fixed, right, overrides=[CHANNELS, *AS_THEY_LIE])
    other = bigreg.doctor(fixed, (wrong, right[1]), overrides=[CHANNELS, *AS_THEY_LIE])
    assert both.preset == other.preset == "rounds"
    assert not any("channel" in text for text in both.measured.warnings)
    assert [one["structure"] for one in both.to_json()["channels"]] == ["shared", "shared"]
    assert [one["structure"] for one in other.to_json()["channels"]] == ["partly", "shared"], other.rows()
    assert any(text.startswith("channel pair 1 shows other structure") for text in other.measured.warnings)
    rows = dict(other.rows())
    assert "the structure differs" in rows["channel pair 1"] and "the structure agrees" in rows["channel pair 2"]


def test_the_start_of_a_look_at_several_channels_is_that_of_the_run(thread_client, tmp_path, monkeypatch):
    near = through(rotation(1.0), (20.0, -20.0, 10.0))
    pair = {
        which: bigreg.open_volume(image, spacing=spacing, name=which, channel=0)
        for which, (image, spacing) in (
            ("fixed", stacked(see(seed=1), see(seed=3, of=other_contrast))),
            ("moving", stacked(see(near, seed=2), see(near, seed=4, of=other_contrast))),
        )
    }
    config, choice = chosen_config(pair, [CHANNELS, *QUICK, "deformation=false", "output.warped=false"])
    answered = []
    known = looked.known
    monkeypatch.setattr(looked, "known", lambda *a: answered.append(known(*a)) or answered[-1])
    out = str(tmp_path / "run.zarr")
    bigreg.register(*pair.values(), out=out, config=config, choice=choice, client=thread_client)
    assert len(config.channels) == 2 and answered[0] is not None
