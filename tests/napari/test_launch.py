"""Starting a registration: what the form says, what is wrong with it, its preview, and the process."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from napari_bigreg.launch_model import Choice, FieldError, Launch, check, keys
from napari_bigreg.launch_panel import LaunchPanel
from napari_bigreg.linked_views import centre_on
from napari_bigreg.preview import Previewer, levels_of
from napari_bigreg.threads import Cancelled
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QFileDialog
from typer.testing import CliRunner

import bigreg
from bigreg.cli.app import app
from bigreg.phantom import make_pair

QUICK = ("affine.voxels=32", "affine.rotations_deg=0", "ladder.finest=2", "ladder.iterations=[12]", "blocks.core=32",
         "blocks.halo=8", "output.chunk=16", "output.shard=32")  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Paths of a small pair with a known map."""
    folder = tmp_path_factory.mktemp("launch")
    pair = make_pair((32, 44, 48), (4.0, 2.6, 2.6), seed=3, max_displacement_um=6.0)
    for name in ("fixed", "moving"):
        bigreg.convert(getattr(pair, name), str(folder / f"{name}.ome.zarr"), spacing=pair.spacing)
    return {name: str(folder / f"{name}.ome.zarr") for name in ("fixed", "moving")}


@pytest.fixture
def launch(images, tmp_path):
    return Launch(
        Choice(images["fixed"]), Choice(images["moving"]), str(tmp_path / "run.zarr"), "demo", QUICK, workers=1
    )


def silent(done, total, text):
    pass


# --------------------------------------------------------------------------------------------------------- the model


def changed(launch, **values):
    from dataclasses import replace

    return replace(launch, **values)


def test_a_good_form_has_a_plan(launch):
    found = check(launch)
    assert found.plan.blocks >= 1 and not found.goes_on
    names = [name for name, _ in found.rows]
    assert {"blocks", "memory a worker", "time"} <= set(names)


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
    assert "--fixed-channel 0 --fixed-spacing 4 2.6 2.6" in full.text()


def test_every_key_of_the_configuration_can_be_chosen():
    assert {"blocks.core", "engine", "engine_options", "affine.start", "cluster.workers"} <= set(keys())


# ------------------------------------------------------------------------------------------------------- the preview


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
    names = [name for name, _, _ in found.figures]
    assert "NCC, deformation" in names and "smallest Jacobian" in names
    assert any("affine" in text for _, _, text in told) and any("block" in text for _, _, text in told)


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


# --------------------------------------------------------------------------------------------------------- the panel


def press(qtbot, button):
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def wait(qtbot, condition):
    qtbot.waitUntil(condition, timeout=400000)


@pytest.fixture
def panel(launch, make_napari_viewer, qtbot):
    """The panel with the form filled in, as a person types."""
    viewer = make_napari_viewer()
    panel = LaunchPanel(viewer)
    viewer.window.add_dock_widget(panel, name="Launch")
    form = panel.form
    for side in ("fixed", "moving"):
        qtbot.keyClicks(form.images[side].path, getattr(launch, side).path)
    qtbot.keyClicks(form.run, launch.run)
    form.config.setCurrentText(launch.config)
    for item in launch.overrides:
        press(qtbot, form.overrides.add)
        _, key, value = form.overrides.rows[-1]
        key.setCurrentText(item.partition("=")[0])
        qtbot.keyClicks(value, item.partition("=")[2])
    form.workers.setValue(1)
    assert form.launch == launch
    yield panel
    wait(qtbot, lambda: not panel._work._jobs)
    panel.close()


def test_the_plan_is_shown_and_mistakes_stand_at_their_field(panel, qtbot):
    press(qtbot, panel.plan)
    assert not panel.plan.isEnabled()
    wait(qtbot, panel.plan.isEnabled)
    assert "memory a worker" in panel.rows.text() and "ready to start" in panel.message.text()
    assert "4 x 2.6 x 2.6 um" in panel.level.itemText(0)
    form = panel.form
    value = form.overrides.rows[4][2]
    value.clear()
    assert panel.rows.text() == ""
    qtbot.keyClicks(value, "none")
    press(qtbot, panel.plan)
    wait(qtbot, lambda: form.overrides.error.text() != "")
    assert "blocks.core" in form.overrides.error.text() and "ff7b6b" in value.styleSheet()
    press(qtbot, form.overrides.rows[4][0].layout().itemAt(2).widget())
    assert len(form.launch.overrides) == len(QUICK) - 1
    form.images["fixed"].path.setText("nowhere.tif")
    assert form.overrides.error.text() == ""
    press(qtbot, panel.plan)
    wait(qtbot, lambda: "nowhere.tif" in form.images["fixed"].error.text())


def test_paths_can_be_looked_for(panel, qtbot, monkeypatch):
    image = panel.form.images["fixed"]
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a, **k: "/data/a.zarr")
    press(qtbot, image.browse)
    assert image.path.text() == "/data/a.zarr"
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a, **k: "")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a, **k: ("/data/b.tif", ""))
    press(qtbot, image.browse)
    assert image.path.text() == "/data/b.tif"
    image.channel.setValue(1)
    qtbot.keyClicks(image.texts["spacing"], "2 1 1")
    qtbot.keyClicks(image.texts["orientation"], "psl")
    assert panel.form.launch.fixed == Choice("/data/b.tif", channel=1, spacing="2 1 1", orientation="psl")
    before = panel.form.launch
    panel.form.fill(Launch())
    assert panel.form.launch == Launch()
    panel.form.fill(before)
    assert panel.form.launch == before
    press(qtbot, panel.copy)
    assert QApplication.clipboard().text().startswith("bigreg register /data/b.tif")


def test_a_preview_is_shown_before_and_after_and_again_after_a_change(panel, qtbot):
    panel.level.setCurrentIndex(0)
    press(qtbot, panel.try_it)
    assert panel.cancel.isEnabled()
    wait(qtbot, lambda: "preview: after" in panel.viewer.layers)
    layers = panel.viewer.layers
    assert layers["preview: after"].visible and not layers["preview: before"].visible
    assert "NCC, deformation" in panel.figures.text()
    press(qtbot, panel.after)
    assert not layers["preview: after"].visible and layers["preview: before"].visible
    wait(qtbot, lambda: panel._previewing is None)
    old = panel.viewer.layers["preview: after"]
    panel.live.setChecked(True)
    panel.form.overrides.rows[3][2].setText("[3]")
    wait(qtbot, lambda: "preview: after" in layers and layers["preview: after"] is not old)
    wait(qtbot, lambda: panel._previewing is None)
    panel.live.setChecked(False)
    centre_on(panel.viewer, np.array((60.0, 900.0, 60.0)))
    press(qtbot, panel.try_it)
    wait(qtbot, lambda: "outside of fixed" in panel.message.text())


def test_a_preview_is_cancelled(panel, qtbot):
    press(qtbot, panel.try_it)
    press(qtbot, panel.cancel)
    assert panel.figures.text() == "cancelled"
    wait(qtbot, lambda: panel._previewing is None)
    assert not [layer for layer in panel.viewer.layers if layer.name.startswith("preview")]


def test_the_run_is_a_process_of_its_own_that_the_monitor_watches(panel, qtbot, launch):
    press(qtbot, panel.go)
    wait(qtbot, lambda: panel.started is not None)
    process = panel.started.process
    try:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
        wait(qtbot, lambda: panel.monitor is not None)
        assert bigreg.is_run(launch.run) and panel.monitor.choice.url == launch.run
        assert panel.started.log.exists()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        panel.monitor.close()


def test_a_process_that_ends_at_once_says_why(panel, qtbot, launch):
    from bigreg.pipeline.store import RunStore

    RunStore(launch.run).create({"state": "incomplete", "updated": 0.0, "config": {}, "images": {}})
    press(qtbot, panel.go)
    wait(qtbot, lambda: "ended with status" in panel.message.text() or panel.monitor is not None)
    assert "ended with status" in panel.message.text() and "error" in panel.message.text().lower()
