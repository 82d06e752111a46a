"""A run measured against landmarks, labels and an annotation, and runs side by side."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner

from bigreg.cli import app
from bigreg.errors import InputError
from bigreg.pipeline.compare import compare_runs
from bigreg.pipeline.judging import evaluate as evaluating
from bigreg.pipeline.judging import figures
from bigreg.quality.evaluation import read_evaluation
from bigreg.quality.metrics import min_jacobian
from bigreg.transforms.landmarks import read_pairs


@pytest.fixture(scope="module")
def given(pair, tmp_path_factory):
    """Landmarks, labels of both frames and an annotation of the pair, as they lie in its truth."""
    folder = tmp_path_factory.mktemp("given")
    rows = np.concatenate([pair.cells_fixed, pair.cells_moving], axis=1)[:60]
    with open(folder / "pairs.csv", "w") as file:
        file.write("fixed_z,fixed_y,fixed_x,moving_z,moving_y,moving_x\n")
        file.writelines(",".join(f"{v:.6f}" for v in row) + "\n" for row in rows)
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(pair.moving.shape), 5)
    moving = np.digitize(noise / noise.std(), [-0.6, 0.6]).astype(np.uint32)
    moving[moving == 2] = 312782616
    index = pair.truth / np.reshape(pair.spacing, (3, 1, 1, 1))
    place = tuple(np.clip(np.rint(i).astype(int), 0, n - 1) for i, n in zip(index, moving.shape, strict=True))
    fixed = moving[place]
    annotation = np.where(np.arange(fixed.shape[2]) < 30, 5, 9) * np.ones(fixed.shape, np.uint16)
    images = {
        "labels": ((fixed, pair.spacing), (moving, pair.spacing)),
        "annotation": (annotation.astype("u2"), pair.spacing),
    }
    return str(folder / "pairs.csv"), images, rows


@pytest.fixture(scope="module")
def evaluated(registered, given, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("evaluated"))
    return registered.run.evaluate(landmarks=given[0], **given[1], out=out), out


def test_landmark_errors_are_the_distances_of_mapped_points(evaluated, registered, given):
    rows = given[2]
    expected = np.linalg.norm(registered.run.map_points(rows[:, :3]) - rows[:, 3:], axis=1)
    found = np.array([row["error_after"] for row in evaluated[0].landmarks])
    assert np.allclose(found, expected, atol=1e-3, equal_nan=True)
    assert evaluated[0].value("landmarks", "TRE mean after the deformation") == pytest.approx(
        np.nanmean(expected), abs=1e-3
    )
    assert np.nanmean(found) < np.nanmean([row["error_affine"] for row in evaluated[0].landmarks])
    assert {row["region"] for row in evaluated[0].landmarks} <= {5, 9}


def test_labels_through_the_map_are_those_of_the_warped_label_image(evaluated, registered, given, pair, tmp_path):
    (fixed, _), moving = given[1]["labels"]
    warped = registered.run.warp(moving, out=str(tmp_path / "labels.ome.zarr"), interpolation="nearest")
    values = warped.read((0, 0, 0), warped.shape)
    inside = registered.run.warp(
        (np.ones(pair.moving.shape, "u1"), pair.spacing), out=str(tmp_path / "in.ome.zarr"), interpolation="nearest"
    )
    known = inside.read((0, 0, 0), inside.shape) > 0
    assert [row["label"] for row in evaluated[0].labels] == [1, 312782616]
    for row in evaluated[0].labels:
        a, b = (fixed == row["label"]) & known, (values == row["label"]) & known
        assert row["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-3)
        assert row["dice"] > row["dice_affine"]
        assert 0 < row["surface_distance_um"] < row["hd95_um"] <= row["hausdorff_um"]


def test_boxes_change_no_figure(evaluated, registered, given, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluating, "BOX", 19)
    again = registered.run.evaluate(landmarks=given[0], **given[1], out=str(tmp_path))
    for table in ("labels", "regions"):
        for a, b in zip(getattr(evaluated[0], table), getattr(again, table), strict=True):
            # Places are float32 relative to their box: by rounding a voxel or two between labels goes to the other one,
            # which moves a surface by its share of a voxel.
            if table == "labels":
                assert abs(a["voxels_warped"] - b["voxels_warped"]) <= 2
            assert a == pytest.approx(b, rel=5e-4 if table == "labels" else 1e-4, abs=1e-6, nan_ok=True)
    for a, b in zip(evaluated[0].figures, again.figures, strict=True):
        few = 5e-4 if a[0] == "labels" else 1e-4
        assert a[:2] == b[:2] and a[2] == pytest.approx(b[2], rel=few, abs=1e-6, nan_ok=True)


def test_regions_add_up_to_the_whole(evaluated, registered):
    regions = evaluated[0].regions
    assert [row["region"] for row in regions] == [5, 9]
    folds = registered.run.store.array("transforms", "fixed_to_moving", "0")
    field = folds.read((0, 0, 0, 0), folds.shape)
    assert sum(row["folds"] for row in regions) == 0 and min_jacobian(field, (4.0, 2.6, 2.6)).min() > 0
    assert all(0 < row["smallest_jacobian"] < 1.5 and row["sd_log_jacobian"] > 0 for row in regions)
    assert all(row["inverse_error_voxels"] < 0.1 for row in regions)
    for name in ("ncc", "lncc", "ssim", "mi"):
        assert all(row[f"{name}_after"] > row[f"{name}_affine"] for row in regions), name


def test_a_run_has_no_seams(evaluated):
    assert evaluated[0].value("regularity", "seam ratio") < 1.5


def test_pairs_that_a_run_began_with_are_not_counted_as_held_out(registered, given, monkeypatch):
    context = registered.run._context()
    monkeypatch.setattr(context, "config", context.config.model_copy(
        update={"affine": context.config.affine.model_copy(update={"start": given[0]})}
    ))  # fmt: skip
    table, rows = evaluating._landmarks(context, registered.run.map(), read_pairs(given[0]), None)
    assert all(row["seen"] for row in table)
    assert {group for group, *_ in rows} == {"landmarks of the run"}


def test_patches_that_are_followed_without_detail_are_counted(registered, monkeypatch):
    kept = {"agreement": np.array([0.9, 0.8, 1.0, np.nan]), "smoothed": np.array([1.0, 1.0, 0.0, np.nan])}
    read = figures._metrics
    monkeypatch.setattr(figures, "_metrics", lambda *a: read(*a) | (kept if a[1] == "levels/0" else {}))
    found = {row[1]: row for row in figures.figures(registered.run._context())}
    assert found["finest level without detail"][2] == 2 and "of 3 patches" in found["finest level without detail"][4]


def test_the_stiffness_that_was_chosen_is_said(registered, monkeypatch):
    read = figures._metrics
    kept = {"regularisation": np.array([0.2, np.nan, 0.4, 1.6])}
    monkeypatch.setattr(figures, "_metrics", lambda *a: read(*a) | (kept if a[1] == "levels/0" else {}))
    found = {row[1]: row for row in figures.figures(registered.run._context())}["stiffness that was chosen"]
    assert found[2] == pytest.approx(0.4) and found[4].startswith("0.2 to 1.6 in 3 patches")


def test_landmarks_that_cannot_be_read_end_it_before_the_images_are_compared(registered, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluating, "_images", lambda *_: pytest.fail("the images were compared"))
    with pytest.raises(InputError, match=r"landmarks '.*none.csv' cannot be read: No such file or directory; check"):
        registered.run.evaluate(landmarks=str(tmp_path / "none.csv"))


def test_files_hold_every_row(evaluated):
    found, out = evaluated
    with open(f"{out}/landmarks.csv") as file:
        assert len(list(csv.DictReader(file))) == 60
    data = json.loads(Path(out, "evaluation.json").read_text())
    assert len(data["labels"]) == 2 and len(data["regions"]) == 2
    assert read_evaluation(out).value("evaluation", "LNCC after the deformation") == pytest.approx(
        found.value("evaluation", "LNCC after the deformation")
    )


def test_the_command_puts_figures_into_the_run_and_its_report_and_compares(registered, given, tmp_path):
    url = registered.run.url
    done = CliRunner().invoke(app, ["evaluate", url, "--landmarks", given[0]])
    assert done.exit_code == 0, done.output
    assert "TRE mean after the deformation" in done.output
    page = Path(url, "report", "index.html").read_text()
    assert "TRE mean after the deformation" in page and "Where not to trust it" in page
    done = CliRunner().invoke(app, ["compare", url, url, "--out", str(tmp_path / "c")])
    assert done.exit_code == 0, done.output
    data = json.loads((tmp_path / "c" / "comparison.json").read_text())
    same = {p["quantity"]: p for p in data["paired"]}
    assert same["landmark error"]["difference"] == 0 and same["landmark error"]["p"] == 1.0
    assert same["local correlation per block"]["pairs"] > 1


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.zarr.*neither a run"):
        compare_runs([str(tmp_path / "nothing.zarr"), str(tmp_path)])


def test_an_evaluation_of_another_image_cannot_be_paired(evaluated, registered, tmp_path):
    other = replace(evaluated[0], fixed={**evaluated[0].fixed, "shape": [1, 2, 3]})
    other.write(str(tmp_path / "other"))
    with pytest.raises(InputError, match="differ"):
        compare_runs([evaluated[1], str(tmp_path / "other")])
    assert not compare_runs([evaluated[1], str(tmp_path / "other")], aggregate=True).paired
