"""Landmarks: what is kept of pairs, measured and snapped, without Qt."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from matplotlib.path import Path

import bigreg
from bigreg.errors import InputError
from bigreg.transforms.landmarks import read_landmarks

pytest.importorskip("napari", reason="needs bigreg[napari]")
from napari_bigreg.landmarks.ellipses import PIECES, outlines
from napari_bigreg.landmarks.model import Expected, LandmarksModel


@pytest.fixture
def run(run_copy):
    """A run without landmarks, to be changed."""
    return bigreg.open_run(str(run_copy))


@pytest.fixture
def cells(pair):
    """(fixed, moving) of some cells well inside."""
    inside = (np.abs(pair.cells_fixed / (np.array(pair.fixed.shape) * pair.spacing) - 0.5) < 0.25).all(1)
    return pair.cells_fixed[inside][:5], pair.cells_moving[inside][:5]


def test_the_errors_are_the_distances_after_the_affine_and_after_the_whole_map(run, cells):
    model = LandmarksModel(run)
    for number, (fixed, moving) in enumerate(zip(*cells, strict=True)):
        model.place(model.add("fixed", fixed, f"cell {number}"), "moving", moving)
    model.activate(model.pairs[0], False)
    errors = model.errors()
    np.testing.assert_allclose(errors.mapped, np.linalg.norm(run.map_points(cells[0]) - cells[1], axis=1))
    assert errors.after.points == len(cells[0]) - 1
    assert errors.after.mean == pytest.approx(errors.mapped[1:].mean())
    assert errors.before.median == pytest.approx(np.median(errors.affine[1:]))
    assert errors.after.mean < errors.before.mean
    assert f"mean {errors.after.mean:.2f}" in errors.text()


def test_a_proposal_counts_for_nothing_until_it_is_taken(run, cells):
    model = LandmarksModel(run)
    pair = model.add("fixed", cells[0][0])
    assert (pair.name, pair.lacks) == ("Pt-0", "moving")
    model.propose(pair, model.partner("fixed", pair.fixed))
    np.testing.assert_allclose(pair.shown("moving"), run.map_points(cells[0][:1])[0])
    assert model.errors().after is None and not model.landmarks.used.any()
    model.accept([pair])
    assert pair.lacks is None and model.errors().after.mean == pytest.approx(0)
    other = model.add("moving", cells[1][1])
    np.testing.assert_allclose(
        model.partner("moving", other.moving), run.map_points(cells[1][1:2], "moving_to_fixed")[0]
    )


def test_snapping_brings_a_displaced_cell_back(run, cells, pair):
    model = LandmarksModel(run)
    spacing = np.array(pair.spacing)
    mark = model.add("fixed", cells[0][0])
    model.place(mark, "moving", cells[1][0] + (4.0, -6.0, 5.0))
    found = model.snapped(mark, within=15)
    assert (np.abs(found.point - cells[1][0]) / spacing).max() < 0.6
    with pytest.raises(InputError, match="no fixed point"):
        model.snapped(model.add("moving", cells[1][1]), within=15)


def test_names_are_unique_and_pairs_survive_the_files_and_the_run(run, cells, tmp_path):
    model = LandmarksModel(run)
    changes = []
    model.changed.connect(lambda: changes.append(1))
    for fixed, moving in zip(*cells, strict=True):
        model.place(model.add("fixed", fixed), "moving", moving)
    model.rename(model.pairs[1], "soma, left")
    with pytest.raises(InputError, match="another one is"):
        model.rename(model.pairs[2], "soma, left")
    model.remove([model.pairs[0]])
    model.add("moving", cells[1][0], "half")
    assert changes and not model.saved
    model.export(str(tmp_path / "out.csv"))
    assert read_landmarks(tmp_path / "out.csv").names == ("soma, left", "Pt-2", "Pt-3", "Pt-4", "half")
    model.save()
    assert model.saved
    again = LandmarksModel(run)
    assert [p.name for p in again.pairs] == [p.name for p in model.pairs]
    np.testing.assert_allclose(again.pairs[0].fixed, cells[0][1], atol=1e-6)
    assert again.pairs[-1].lacks == "fixed"
    again.load(str(tmp_path / "out.csv"))
    assert len(again.pairs) == 10 and again.pairs[5].name == "soma, left (2)"


def test_a_run_without_fields_goes_by_its_affine(run_copy, cells):
    shutil.rmtree(run_copy / "stages" / "check")
    model = LandmarksModel(str(run_copy))
    assert "no fields yet" in model.missing
    pair = model.add("fixed", cells[0][0])
    np.testing.assert_allclose(
        model.partner("fixed", pair.fixed), model.affine[:3, :3] @ pair.fixed + model.affine[:3, 3]
    )
    model.place(pair, "moving", cells[1][0])
    assert model.errors().after is None and np.isnan(model.errors().mapped).all()
    assert "has none yet" in model.errors().text()


def test_what_is_expected_is_where_the_map_leads_and_as_sure_as_sigma(run, cells):
    model = LandmarksModel(run)
    for fixed, moving in zip(*cells, strict=True):
        model.place(model.add("fixed", fixed), "moving", moving)
    model.add("moving", cells[1][0])
    found = model.expected()
    back = run.map_points(cells[1], "moving_to_fixed")
    np.testing.assert_allclose(found["fixed"].places[:5], back)
    np.testing.assert_allclose(found["fixed"].places[5], back[0])
    for number, sigma in enumerate(run.sigma_at(back)):
        np.testing.assert_allclose(found["fixed"].covariances[number], np.diag(sigma.astype(float) ** 2))
    ahead, sigma = found["moving"], run.sigma_at(cells[0][:1])[0]
    np.testing.assert_allclose(ahead.places[:5], run.map_points(cells[0]))
    assert np.isnan(ahead.places[5]).all()
    turn = model.affine[:3, :3]
    np.testing.assert_allclose(ahead.covariances[0], turn @ np.diag(sigma.astype(float) ** 2) @ turn.T, rtol=1e-6)


def test_a_run_without_sigma_says_so_and_expects_nothing(run_copy, cells):
    shutil.rmtree(run_copy / "sigma")
    model = LandmarksModel(str(run_copy))
    model.add("fixed", cells[0][0])
    assert "sigma" in model.no_sigma and model.expected() == {}


@pytest.mark.parametrize("axes", [(0, 1), (0, 2), (1, 2)])
def test_an_ellipse_holds_95_percent_of_errors_in_the_plane_in_um(axes):
    rng = np.random.default_rng(5)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    covariance = turn @ np.diag((9.0, 1.0, 0.2)) @ turn.T
    centre = np.array((40.0, -7.0, 300.0))
    places, covariances = np.stack([centre, centre * np.nan]), np.stack([covariance] * 2)
    found = outlines(Expected(places, covariances), axes)
    assert found.shape == (PIECES, 2, 3)
    starts, ends = found[:, 0], found.sum(1)
    np.testing.assert_allclose(np.roll(starts, -1, 0), ends, atol=1e-9)
    (across,) = set(range(3)) - set(axes)
    np.testing.assert_allclose(starts[:, across], centre[across])
    errors = rng.multivariate_normal(centre, covariance, size=40_000)[:, axes]
    assert Path(starts[:, axes]).contains_points(errors).mean() == pytest.approx(0.95, abs=0.006)
