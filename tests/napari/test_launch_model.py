"""Starting a registration: what the form says, what is wrong with it, its preview; without Qt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import bigreg
from bigreg import load_config
from bigreg.cli.app import app
from bigreg.geometry import Grid

pytest.importorskip("napari", reason="needs bigreg[napari]")
from distributed import Client, LocalCluster
from napari_bigreg.launch import preview
from napari_bigreg.launch.boxes import write_box
from napari_bigreg.launch.model import Stiffness, check, stiffness
from napari_bigreg.launch.preview import Previewer, levels_of, settings_of
from napari_bigreg.shared.registration import Choice, FieldError, Launch, keys
from napari_bigreg.shared.threads import Cancelled

from bigreg import models
from bigreg.models import Card
from bigreg.networks import build
from bigreg.transforms.landmarks import read_pairs, write_bigwarp

QUICK = ("affine.voxels=64", "affine.rotations_deg=0", "ladder.finest=2", "ladder.iterations=[12]", "blocks.core=32",
         "blocks.halo=8", "output.chunk=16", "output.shard=32")  # fmt: skip


@pytest.fixture(scope="module")
def images(pair, tmp_path_factory):
    """Paths of a small pair with a known map."""
    folder = tmp_path_factory.mktemp("launch")
    for name in ("fixed", "moving"):
        bigreg.convert(getattr(pair, name), str(folder / f"{name}.ome.zarr"), spacing=pair.spacing)
    return {name: str(folder / f"{name}.ome.zarr") for name in ("fixed", "moving")}


@pytest.fixture
def launch(images, tmp_path):
    return Launch(
        Choice(images["fixed"]), Choice(images["moving"]), str(tmp_path / "run.zarr"), "demo", QUICK, workers=1
    )


def quiet(done, total, text):
    pass


def changed(launch, **values):
    return replace(launch, **values)


def test_a_good_form_has_a_plan(launch):
    found = check(launch)
    assert found.plan.blocks >= 1 and not found.goes_on
    names = [name for name, _ in found.rows]
    assert {"blocks", "memory per worker", "time"} <= set(names)


@pytest.mark.parametrize(
    ("values", "place", "message"),
    [
        ({"fixed": Choice("")}, "fixed", "is missing"),
        ({"moving": Choice("nowhere.tif")}, "moving", "nowhere.tif"),
        ({"config": "nothing"}, "config", "'nothing' is neither"),
        ({"overrides": ("blocks.core=96", "blocks.halo=many")}, "set", "blocks.halo"),
        ({"overrides": ("blocks.core",)}, "set", "KEY=VALUE"),
        ({"cluster": "cloud"}, "cluster", "'cloud' is neither"),
        ({"memory": "much"}, "memory", "memory_limit"),
        ({"memory": "100MB"}, "memory", "limit is"),
        ({"run": ""}, "run", "is missing"),
    ],
)
def test_what_is_wrong_is_said_of_its_field(launch, values, place, message):
    with pytest.raises(FieldError, match=message) as error:
        check(changed(launch, **values))
    assert error.value.place == place
    if values.get("overrides", ()) and len(values["overrides"]) == 2:
        assert error.value.row == 1


def test_an_images_channel_and_spacing_are_checked_too(launch, images):
    for choice, message in (
        (Choice(images["moving"], spacing="1 2"), "spacing"),
        (Choice(images["moving"], spacing="a b c"), "three numbers"),
        (Choice(images["moving"], channel=7), "channel"),
    ):
        with pytest.raises(FieldError, match=message) as error:
            check(changed(launch, moving=choice))
        assert error.value.place == "moving"


def test_a_place_that_is_taken_is_refused(launch, images, tmp_path):
    with pytest.raises(FieldError, match="is no run") as error:
        check(changed(launch, run=images["fixed"]))
    assert error.value.place == "run"


def test_the_command_is_one_that_bigreg_takes(launch):
    full = changed(
        launch,
        fixed=Choice(launch.fixed.path, channel=0, spacing="4 2.6 2.6"),
        cluster="local",
        memory="2GB",
        workers=2,
    )
    result = CliRunner().invoke(app, [*full.arguments(), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert full.text().startswith("bigreg register ")
    assert "--fixed-channel 0 --fixed-spacing 4.0 2.6 2.6" in full.text()


def test_every_key_of_the_configuration_can_be_chosen():
    assert {"blocks.core", "engine", "engine_options", "affine.start", "cluster.workers"} <= set(keys())


def test_the_stiffness_is_that_of_the_last_engine_that_has_one(launch, tmp_path):
    path = str(tmp_path / "range.safetensors")
    models.save(path, build("sitreg", encoder=[4], update=[4], regularisation=[0.05, 3.2]), Card())

    def found(*overrides):
        return stiffness(changed(launch, overrides=overrides, config="rounds"))

    key = "engine_options.optimise.regularisation"
    assert found() == Stiffness(key, 0.8, 0.0, float("inf"), auto=True)
    assert found(f"{key}=1.5") == Stiffness(key, 1.5, 0.0, float("inf"))
    told = ("engine=sitreg", f"engine_options.sitreg.weights={path}")
    key = "engine_options.sitreg.regularisation"
    assert found(*told) == Stiffness(key, pytest.approx(0.4), 0.05, 3.2)
    assert found(*told, f"{key}=9") == Stiffness(key, 9.0, 0.05, 3.2)  # the preview refuses it
    assert found("engine=sitreg", "engine_options.sitreg.weights=sitreg-lightsheet") is None
    assert found("engine=discrete") is None


@pytest.fixture(scope="module")
def previewer():
    made = Previewer()
    yield made
    made.close()


def test_the_preview_registers_a_block_where_it_lies(launch, previewer):
    volumes = {w: getattr(launch, w).open(w) for w in ("fixed", "moving")}
    centre = np.array((60.0, 56.0, 60.0))
    told = []
    found = previewer.run(volumes, launch.settings(), centre, 0, lambda *step: told.append(step))
    assert found.grid.contains(centre[None]).all()
    index = volumes["fixed"].grid().world_to_index(found.grid.index_to_world(np.zeros((1, 3))))[0]
    np.testing.assert_allclose(index, np.round(index), atol=1e-6)
    first = np.round(index).astype(int)
    truth = volumes["fixed"].read(first, first + found.fixed.shape)
    np.testing.assert_allclose(found.fixed, truth, atol=1.0)
    seen = found.before > 0
    before, after = (np.corrcoef(found.fixed[seen], image[seen])[0, 1] for image in (found.before, found.after))
    assert after > before
    for (low, high), image in zip(found.limits, (found.fixed, found.before), strict=True):
        inside = image[image != 0]
        assert abs((inside < low).mean() - 0.01) < 0.005 and abs((inside > high).mean() - 0.002) < 0.002
    names = [name for name, _, _ in found.figures]
    assert "NCC, deformation" in names and "smallest Jacobian" in names
    assert any("affine" in text for _, _, text in told) and any("block" in text for _, _, text in told)


def test_the_preview_is_what_a_whole_run_on_its_block_gives(launch, previewer, tmp_path):
    volumes = {w: getattr(launch, w).open(w) for w in ("fixed", "moving")}
    found = previewer.run(volumes, launch.settings(), None, 0, quiet)
    config = settings_of(launch.settings(), previewer.boxes)
    whole = load_config(config, overrides=["output.confidence=true", "output.warped=false"])
    arrays = [(v.read((0, 0, 0), v.shape), v.grid().spacing) for v in map(bigreg.open_volume, previewer.boxes.paths)]
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster, Client(cluster, set_as_default=False) as client:  # fmt: skip
        run = bigreg.register(*arrays, out=str(tmp_path / "whole.zarr"), config=whole, client=client)
    seen = run.patches("levels/0", (0, 0, 0))
    for ours, theirs in ((found.fixed, seen.fixed), (found.before, seen.moving), (found.after, seen.warped)):
        np.testing.assert_array_equal(ours, theirs)
    values = {name: value for _, name, value, *_ in run.summary()}
    assert [value for _, value, _ in found.figures] == [values[name] for name, _ in preview.SHOWN]


def test_the_preview_registers_all_channels(launch, previewer, pair, tmp_path):
    """The first shows nothing but noise, so what is found is found by the second."""
    rng = np.random.default_rng(0)
    for name in ("fixed", "moving"):
        image = getattr(pair, name)
        noise = rng.normal(500, 20, image.shape).astype(image.dtype)
        grid = Grid.from_spacing(image.shape, pair.spacing, (0, 0, 0))
        write_box(str(tmp_path / f"{name}.ome.zarr"), [noise, image], grid, several=True)
    images = {name: Choice(str(tmp_path / f"{name}.ome.zarr")) for name in ("fixed", "moving")}
    both = "channels=[{fixed: 0, moving: 0}, {fixed: 1, moving: 1, weight: 2}]"
    many = changed(launch, **images, overrides=(*launch.overrides, both))
    volumes = {w: getattr(many, w).open(w) for w in ("fixed", "moving")}
    found = previewer.run(volumes, many.settings(), None, 0, quiet)
    values = {name: value for name, value, _ in found.figures}
    assert values["NCC, deformation, channel pair 2"] > max(0.8, values["NCC, affine, channel pair 2"])
    assert values["NCC, deformation, channel pair 1"] < 0.5
    assert [bigreg.open_volume(path, channel=1).channels for path in previewer.boxes.paths] == [2, 2]
    own = settings_of(many.settings(), previewer.boxes)
    assert [(c.fixed, c.moving, c.weight) for c in own.channels] == [(0, 0, 1), (1, 1, 2)]
    swapped = changed(
        many, overrides=(*launch.overrides, both.replace("fixed: 0", "fixed: 1").replace("moving: 0", "moving: 1"))
    )
    kept = previewer.boxes
    previewer.run(volumes, swapped.settings(), None, 0, quiet)
    assert previewer.boxes is not kept


def test_pairs_of_landmarks_steer_a_preview_where_they_lie(launch, previewer, pair, tmp_path):
    """Of three pairs two lie in the block, which does not begin where the image does."""
    fixed = np.array([(20.0, 20.0, 20.0), (80.0, 80.0, 100.0), (70.0, 75.0, 90.0)])
    index = np.round(fixed / pair.spacing).astype(int)
    moving = pair.truth[(slice(None), *index.T)].T
    write_bigwarp(tmp_path / "pairs.csv", index * np.asarray(pair.spacing), moving)
    pairs = f"landmarks.path={tmp_path / 'pairs.csv'}"
    settings = changed(launch, overrides=(*launch.overrides, pairs, "blocks.core=16", "blocks.halo=4")).settings()
    volumes = {w: getattr(launch, w).open(w) for w in ("fixed", "moving")}
    previewer.run(volumes, settings, fixed[1:].mean(0), 0, quiet)
    own = settings_of(settings, previewer.boxes)
    found = read_pairs(own.landmarks.path)
    assert len(found[0]) == 2
    whole = index[1:] * np.asarray(pair.spacing), moving[1:]
    for points, plain, grid in zip(whole, found, previewer.boxes.grids, strict=True):
        np.testing.assert_allclose(plain, points - grid.origin, atol=1e-5)
    assert own.landmarks.path != str(tmp_path / "pairs.csv") and not own.landmarks.spline
    previewer.run(volumes, settings, np.array((60.0, 90.0, 20.0)), 0, quiet)  # where there are none
    assert settings_of(settings, previewer.boxes).landmarks.path is None


def test_another_parameter_neither_looks_for_the_affine_nor_reads_the_images_again(launch, previewer):
    volumes = {w: getattr(launch, w).open(w) for w in ("fixed", "moving")}
    told: list[str] = []
    previewer.run(volumes, launch.settings(), np.array((60.0, 56.0, 60.0)), 0, quiet)
    kept = previewer.boxes
    stiffer = changed(launch, overrides=(*launch.overrides, "engine_options.optimise.regularisation=3.0"))
    # A view that has hardly moved, as it is brought to the middle of what is shown.
    centre = np.array((61.0, 57.0, 59.0))
    previewer.run(volumes, stiffer.settings(), centre, 0, lambda done, total, text: told.append(text))
    assert previewer.boxes is kept
    assert told and not any("affine:" in text or text.endswith((" block", "coarse")) for text in told)
    previewer.run(volumes, stiffer.settings(), np.array((60.0, 56.0, 120.0)), 0, quiet)
    assert previewer.boxes is not kept and not Path(kept.start).exists()


def test_warming_up_is_done_once_and_ends_when_it_is_told_to(previewer):
    told: list[str] = []

    def stop(done, total, text):
        raise Cancelled

    with pytest.raises(Cancelled):
        previewer.warm(stop)
    previewer.warm(lambda done, total, text: told.append(text))
    assert any("block" in text for text in told)
    told.clear()
    previewer.warm(lambda done, total, text: told.append(text))
    assert not told


def test_closing_removes_what_was_kept(launch):
    volumes = {w: getattr(launch, w).open(w) for w in ("fixed", "moving")}
    made = Previewer()
    no_affine = changed(launch, overrides=(*launch.overrides, "affine.kind=none"))

    def stop(done, total, text):
        if text.startswith("block"):
            raise Cancelled

    with pytest.raises(Cancelled):
        made.run(volumes, no_affine.settings(), None, 0, stop)
    folder = Path(made.boxes.start).parents[1]
    assert folder.exists()
    made.close()
    assert not folder.exists()


def test_the_preview_ends_when_it_is_told_to(launch, previewer):
    volumes = {w: getattr(launch, w).open(w) for w in ("fixed", "moving")}

    def stop(done, total, text):
        if text.startswith("block"):
            raise Cancelled

    with pytest.raises(Cancelled):
        previewer.run(volumes, launch.settings(), None, 0, stop)


def test_levels_of_an_anisotropic_image_grow_towards_isotropic_voxels(launch):
    found = levels_of(launch.fixed.open("fixed"))
    assert found[0] == (4.0, 2.6, 2.6) and found[1] == (4.0, 5.2, 5.2)
