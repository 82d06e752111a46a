"""A small brain, turned and shifted against its atlas by what is known, through the whole workflow."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner

from bigreg import load_config, open_volume
from bigreg.atlases import Structures, atlas, chosen_atlas, local_atlas
from bigreg.atlases import workflow as working
from bigreg.atlases.halves import halves_of, warning_of_halves
from bigreg.cli import app
from bigreg.errors import ConfigError, InputError, OutputError

SPACING = (20.0, 20.0, 20.0)
SHAPE = (36, 32, 40)
SHIFT = (2, -1, 1)  # voxels, of the brain against the atlas along the brain's axes
TREE = Structures([(997, "root", "root", None), (10, "A", "front", 997), (20, "B", "back", 997), (21, "b", "b", 20)])
CONFIG = [
    "affine.voxels=64", "affine.rotations_deg=0", "affine.kind=translation", "blocks.core=48", "blocks.halo=8",
    "ladder.finest=2", "ladder.coarsest=2", "ladder.iterations=[3]", "ladder.repeats=[1]",
]  # fmt: skip


@pytest.fixture(scope="module")
def scene():
    """(template, labels) in asr, and (brain, labels) in psl: both first axes and the last one turned round."""
    rng = np.random.default_rng(3)
    z, y, x = np.indices(SHAPE)
    body = ((z - 17.5) / 13) ** 2 + ((y - 15.5) / 11) ** 2 + ((x - 19.5) / 15) ** 2 < 1
    labels = np.where(z < 14, 10, np.where(y < 16, 20, 21)).astype(np.uint32) * body
    texture = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.6)
    template = (body * (300 + 2000 * np.abs(texture)) + 20).astype("f4")
    brain, inside = (np.roll(a[::-1, :, ::-1], SHIFT, (0, 1, 2)) for a in (template, labels))
    return template, labels, np.ascontiguousarray(brain), np.ascontiguousarray(inside)


@pytest.fixture(scope="module")
def known(scene):
    return local_atlas((scene[0], SPACING), (scene[1], SPACING), TREE, orientation="asr", name="phantom")


@pytest.fixture(scope="module")
def made(scene, known, tmp_path_factory, thread_client_module):
    folder = tmp_path_factory.mktemp("atlas")
    inside = scene[3]
    index = np.argwhere((inside == 21) & (np.indices(SHAPE)[2] < 18))[::7]  # the brain's x starts on the left
    with open(folder / "cells.csv", "w", newline="") as file:
        write = csv.writer(file)
        write.writerow(["name", "x", "y", "z"])
        write.writerows([f"c{i}", *(v[::-1] * 20.0)] for i, v in enumerate(index))
        write.writerow(["far", 1e6, 0, 0])
    brain = open_volume(scene[2], spacing=SPACING, orientation="psl", name="brain")
    config = load_config(preset="brain-to-atlas", overrides=CONFIG)
    call = {"out": str(folder / "out"), "config": config, "client": thread_client_module, "cells": folder / "cells.csv"}
    return atlas(brain, known, **call), brain, call, len(index)


@pytest.fixture(scope="module")
def thread_client_module():
    from distributed import Client, LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster, Client(cluster, set_as_default=False) as client:  # fmt: skip
        yield client


def test_the_annotation_lies_on_the_turned_brain(made, scene):
    annotation = made[0].annotation
    found, truth = annotation.read((0, 0, 0), annotation.shape), scene[3]
    for label in (10, 20, 21):
        dice = 2 * ((found == label) & (truth == label)).sum() / ((found == label).sum() + (truth == label).sum())
        assert dice > 0.93, label
    assert set(np.unique(found)) == {0, 10, 20, 21}


def test_cells_are_taken_back_to_their_places_in_the_brain(made):
    result, _, call, number = made
    places = result.cell_places()
    with open(call["cells"]) as file:
        given = np.array([[float(row[a]) for a in "zyx"] for row in csv.DictReader(file)])[:-1]  # the last is far away
    assert places.shape == (number, 3) and np.abs(places - given).max() < 0.1 * SPACING[0]


def test_volumes_are_those_of_the_brain_on_the_right_side(made, scene):
    rows = {r["acronym"]: r for r in made[0].regions}
    truth = scene[3]
    left = np.indices(SHAPE)[2] < 20 + SHIFT[2]
    for name, labels in (("A", [10]), ("B", [20, 21]), ("b", [21]), ("root", [10, 20, 21])):
        there = np.isin(truth, labels)
        assert rows[name]["volume_left_mm3"] == pytest.approx((there & left).sum() * 8e-6, rel=0.08)
        assert rows[name]["volume_right_mm3"] == pytest.approx((there & ~left).sum() * 8e-6, rel=0.08)
    assert rows["B"]["parent"] == 997 and rows["b"]["depth"] == 2


def test_cells_are_in_their_region_and_half_and_keep_their_columns(made):
    result, _, call, number = made
    rows = {r["acronym"]: r for r in result.cells}
    assert rows["b"]["cells_left"] == rows["b"]["cells"] and rows["b"]["cells"] >= 0.93 * number
    assert rows["root"]["cells"] >= rows["B"]["cells"] >= rows["b"]["cells"]
    assert 0 < rows["b"]["cells_p5"] < rows["b"]["cells"] <= rows["b"]["cells_p95"]  # some lie at its borders
    assert rows["A"]["cells"] == 0 and rows["A"]["cells_p95"] < number / 4
    assert rows["b"]["density_per_mm3"] == pytest.approx(
        rows["b"]["cells"] / next(r for r in result.regions if r["acronym"] == "b")["volume_mm3"], rel=1e-4
    )
    with open(f"{call['out']}/cells_in_atlas.csv") as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines][-2:] == [f"c{number - 1}", "far"] and lines[-1]["z"] == "nan"
    assert dict(result.summary())["cells: outside"] == "1"
    assert (lines[-1]["atlas_region"], lines[-1]["atlas_side"]) == ("0", "0")
    places = [(int(line["atlas_region"]), int(line["atlas_side"])) for line in lines]
    for row in result.cells:
        assert row["own_cells"] == sum(region == row["id"] for region, _ in places)
    for side, number in (("left", 1), ("right", 2)):
        assert rows["b"][f"cells_{side}"] == places.count((rows["b"]["id"], number))


def test_halves_that_are_alike_are_not_warned_of(made, known):
    result = made[0]
    assert result.warning == "" and "Left and right differ" not in Path(result.report).read_text(encoding="utf-8")
    rows = [{**row, "volume_left_mm3": 0.7 * row["volume_right_mm3"]} for row in result.regions]
    found = warning_of_halves(rows, known)
    assert "though the atlas is symmetric" in found and "local_atlas's orientation, now asr" in found
    assert warning_of_halves([{**r, "volume_left_mm3": 0.9 * r["volume_right_mm3"]} for r in rows], known) == ""


def test_halves_of_an_atlas_that_is_not_symmetric_say_nothing(scene, made):
    labels = scene[1].copy()
    labels[:, :, 30:] = 0
    one_sided = local_atlas((scene[0], SPACING), (labels, SPACING), TREE, orientation="asr")
    left, right = halves_of(one_sided)
    index = np.argwhere(labels)
    assert (left, right) == tuple(int(n) for n in ((index[:, 2] >= 20).sum(), (index[:, 2] < 20).sum()))
    rows = [{**row, "volume_left_mm3": 0.5 * row["volume_right_mm3"]} for row in made[0].regions]
    assert warning_of_halves(rows, one_sided) == ""


def test_the_page_shows_borders_over_the_tissue(made):
    with open(made[0].report, encoding="utf-8") as file:
        page = file.read()
    assert page.count("data:image/png") >= 7 and "Coronal planes" in page and "front" in page
    assert "http://" not in page and "https://" not in page


def test_the_same_call_makes_nothing_again_and_other_cells_only_their_tables(made, known, monkeypatch, tmp_path):
    _result, brain, call, _ = made
    made_again = []
    for name in ("write_borders", "count_voxels", "map_points_file", "write_atlas_report"):
        before = getattr(working, name)
        monkeypatch.setattr(
            working, name, lambda *a, _b=before, _n=name, **k: made_again.append(_n) or _b(*a, **k)
        )  # fmt: skip
    atlas(brain, known, **call)
    assert made_again == []
    other = tmp_path / "other.csv"
    other.write_text("z,y,x\n300,300,300\n")
    atlas(brain, known, **(call | {"cells": other}))
    assert made_again == ["map_points_file", "count_voxels", "write_atlas_report"]
    assert next(iter(working.AtlasResult(call["out"]).cells))["cells"] == 1


def test_what_an_interruption_left_is_made_anew(made, known):
    from bigreg import storage

    result, brain, call, _ = made
    state = storage.read_attributes(result.url)
    del state[working.KEY]["done"]["borders"]
    storage.write_attributes(result.url, state)
    storage.remove(storage.join(result.url, "borders.ome.zarr", "0"))
    atlas(brain, known, **{k: v for k, v in call.items() if k != "cells"})
    assert result.borders.read((0, 0, 0), SHAPE).any()


def test_an_output_of_another_brain_is_not_touched(made, known, scene):
    other = open_volume(scene[2] + 1, spacing=SPACING, orientation="psl", name="brain")
    with pytest.raises(OutputError, match="made with another brain"):
        atlas(other, known, **made[2])


def test_a_brain_of_unknown_orientation_is_refused(known, scene, tmp_path):
    with pytest.raises(InputError, match="no orientation"):
        atlas((scene[2], SPACING), known, out=tmp_path / "o")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, "t", None, "s"), "annotation is missing"),
        (("allen_mouse_25um", "t", None, None), "leave out template"),
    ],
)
def test_half_an_atlas_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        chosen_atlas(*given)


def test_the_command_says_what_is_missing(tmp_path):
    np.save(tmp_path / "b.npy", np.zeros((4, 4, 4)))
    answer = CliRunner().invoke(app, ["atlas", str(tmp_path / "none.ome.zarr"), str(tmp_path / "out"), "--atlas", "x"])
    assert answer.exit_code == 3
    assert not (tmp_path / "out").exists()


def test_a_browser_shows_brain_and_named_regions_where_they_lie(made, scene):
    result = made[0]
    from bigreg.browser import layers_at

    brain, regions = layers_at(result.url)
    assert (brain.name, brain.labels, regions.name, regions.labels) == ("brain", False, "annotation", True)
    assert regions.names[21] == "b b" and regions.names[997] == "root root"
    assert brain.levels[0].grid == result.run.moving.grid() and regions.levels[0].grid == result.annotation.grid()
    whole = brain.levels[0].read((0, 0, 0), SHAPE)
    assert np.array_equal(brain.shown(whole), scene[2])
