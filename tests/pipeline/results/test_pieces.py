"""Tissue torn apart: runs of its pieces joined by label, through every verb that takes a run."""

from __future__ import annotations

import csv
import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from typer.testing import CliRunner

from bigreg import Pieces, chain, open_volume, pieces, register
from bigreg.cli import app
from bigreg.errors import ConfigError, InputError, OutputError
from bigreg.geometry import Grid
from bigreg.pipeline.pieces import _summary
from bigreg.pipeline.results.transform import Transform
from bigreg.pipeline.run import Run
from bigreg.transforms.landmarks import read_pairs
from bigreg.transforms.maps import Affine, Frame, Map
from bigreg.volumes import convert

BACK = "moving_to_fixed"
# Its thresholds are crossed at single voxels by rounding; swapped runs then differ by .005 um.
SAME = "masks.noncorrespondence=false"


@dataclass(frozen=True)
class Torn:
    """A fixed image that is cut across x and opened to a wedge; moving is whole. labels: 1, 2, and 0 in the gap."""

    folder: Path
    fixed: tuple
    moving: tuple
    labels: np.ndarray
    truth: np.ndarray
    known: np.ndarray
    runs: tuple[Run, Run]
    one: Run
    joined: Pieces

    @property
    def path(self):
        return self.folder / "labels.tif"

    def error(self, mapped, near):
        """Mean error in voxels of the smallest axis, of tissue near the gap or of all other."""
        spacing = np.asarray(self.fixed[1])
        close = ndimage.binary_dilation(self.labels == 0, iterations=5)
        index = np.argwhere(self.known & (close == near))
        found = mapped.map_points(index * spacing)
        return np.nanmean(np.linalg.norm(found - self.truth[:, *index.T].T, axis=1)) / min(spacing)

    def points(self, *labels, inner=False):
        kept = np.isin(self.labels, labels)
        index = np.argwhere(ndimage.binary_erosion(kept, iterations=3) if inner else kept)
        return index[:: max(1, len(index) // 1500)] * np.asarray(self.fixed[1])


@pytest.fixture(scope="module")
def torn(pair, thread_client, small_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("torn")
    z, y, x = np.indices(pair.fixed.shape).astype(float)
    half = 5.0 * np.clip((y / (pair.fixed.shape[1] - 1) - 0.3) / 0.7, 0, 1)
    labels = np.where(x < 32 - half, 1, np.where(x >= 32 + half, 2, 0)).astype(np.uint8)
    before = z, y, np.where(labels == 2, x - half, x + half)

    def cut(values, order=1):
        return ndimage.map_coordinates(values.astype("f4"), before, order=order, mode="nearest")

    image = np.where(labels > 0, cut(pair.fixed, 3).clip(0, 65535), np.percentile(pair.fixed, 5)).astype("u2")
    tifffile.imwrite(folder / "labels.tif", labels)
    fixed, moving = (image, pair.spacing), (pair.moving, pair.spacing)
    for name, (data, spacing) in (("fixed", fixed), ("moving", moving)):
        convert(data, folder / f"{name}.ome.zarr", spacing=spacing)

    def run(name, *overrides):
        images = (str(folder / f"{w}.ome.zarr") for w in ("fixed", "moving"))
        return register(*images, out=str(folder / name), config=small_config(SAME, *overrides), client=thread_client)

    runs = tuple(run(f"{n}.zarr", f"masks.fixed={folder / 'labels.tif'}:{n}") for n in (1, 2))
    joined = pieces(folder / "labels.tif", runs, out=str(folder / "pieces.zarr"))
    known = (labels > 0) & (cut(pair.mask) > 0.99)
    truth = np.stack([cut(part) for part in pair.truth]).astype(float)
    return Torn(folder, fixed, moving, labels, truth, known, runs, run("one.zarr"), joined)


def read(volume):
    return volume.read((0, 0, 0), volume.shape)


def test_pieces_are_right_beside_the_gap_where_one_run_is_not(torn):
    apart, together = (torn.error(mapped, near=True) for mapped in (torn.joined, torn.one))
    assert apart < 0.5 * together and apart < 0.8
    assert torn.error(torn.joined, near=False) < 0.6


def test_no_piece_folds(torn):
    folds = [value for run in torn.runs for _, name, value, *_ in run.summary() if name.startswith("folds")]
    assert folds == [0] * 4


def test_each_point_is_that_of_its_run_and_the_gap_is_nan(torn):
    for label, run in enumerate(torn.runs, start=1):
        points = torn.points(label)
        assert np.array_equal(torn.joined.map_points(points), run.map_points(points), equal_nan=True)
    assert np.isnan(torn.joined.map_points(torn.points(0))).all()


def test_there_and_back_through_pieces_is_the_identity(torn):
    points = torn.points(1, 2, inner=True)
    there = torn.joined.map_points(points)
    inside = np.isfinite(there).all(1) & open_volume(torn.folder / "moving.ome.zarr").grid().contains(there)
    back = torn.joined.map_points(there[inside], BACK)
    assert np.abs(back - points[inside]).max() < 0.1 * min(torn.fixed[1])
    np.testing.assert_array_equal(torn.joined.inverse.map_points(there[inside]), back)
    round_trip = chain(torn.joined, f"{torn.joined.url}:inverse").map_points(points[inside])
    np.testing.assert_allclose(round_trip, back, atol=1e-4)


def test_a_warped_image_is_in_each_piece_that_of_its_run_and_0_in_the_gap(torn, tmp_path):
    image = torn.folder / "moving.ome.zarr"
    out = read(torn.joined.warp(image, out=str(tmp_path / "joined.ome.zarr"))).astype(int)
    for label, run in enumerate(torn.runs, start=1):
        alone = read(run.warp(image, out=str(tmp_path / f"{label}.ome.zarr"))).astype(int)
        own = torn.labels == label
        assert np.abs(out - alone)[own].max() <= 1, "but for the last bit"
        assert (out == alone)[own].mean() > 0.999
    assert (out[torn.labels == 0] == 0).all()


def test_labels_keep_their_ids_and_are_the_same_from_a_worker(torn, thread_client, tmp_path):
    ids = np.where(torn.moving[0] > np.median(torn.moving[0]), 2**24 + 1, 7).astype(np.uint32)
    convert(ids, tmp_path / "ids.ome.zarr", spacing=torn.moving[1], labels=True)
    here = read(torn.joined.warp(tmp_path / "ids.ome.zarr", out=str(tmp_path / "here.ome.zarr")))
    there = read(torn.joined.warp(tmp_path / "ids.ome.zarr", out=str(tmp_path / "t.ome.zarr"), client=thread_client))
    assert set(np.unique(here)) == {0, 7, 2**24 + 1} and np.array_equal(here, there)
    assert (here[torn.labels == 0] == 0).all()


def test_an_image_of_the_fixed_space_comes_together_in_the_moving_one(torn, tmp_path):
    """What was torn is whole again: tissue on both sides of the cut, and no hole along it."""
    out = torn.joined.warp(torn.folder / "fixed.ome.zarr", out=str(tmp_path / "closed.ome.zarr"), direction=BACK)
    closed, moving = read(out).astype(float), torn.moving[0].astype(float)
    points = torn.points(1, 2)
    there = torn.joined.map_points(points) / torn.moving[1]
    index = np.rint(there[np.isfinite(there).all(1)]).astype(int)
    index = index[((index >= 2) & (index < np.array(moving.shape) - 2)).all(1)]
    core = tuple(slice(a, b) for a, b in zip(index.min(0), index.max(0), strict=True))
    assert (closed[tuple(index.T)] == 0).mean() < 0.01
    assert np.corrcoef(closed[core][closed[core] > 0], moving[core][closed[core] > 0])[0, 1] > 0.85


def test_onto_another_grid_and_a_coarser_one(torn, tmp_path):
    grid = Grid.from_spacing((12, 18, 20), (12.0, 8.0, 8.0))
    out = read(torn.joined.warp(torn.folder / "moving.ome.zarr", out=str(tmp_path / "c.ome.zarr"), onto=grid))
    index = np.argwhere(np.ones(grid.shape, bool))
    fine = np.rint(grid.index_to_world(index) / torn.fixed[1]).astype(int)
    inside = (fine < torn.labels.shape).all(1)
    label = torn.labels[tuple(fine[inside].T)]
    values = out[tuple(index[inside].T)]
    assert (values[label == 0] == 0).all() and (values[label > 0] > 0).mean() > 0.5


def test_swapping_images_and_labels_inverts_the_pieces(torn, small_config, thread_client, tmp_path):
    runs = [
        register(torn.folder / "moving.ome.zarr", torn.folder / "fixed.ome.zarr", out=str(tmp_path / f"{n}.zarr"),
                 config=small_config(SAME, f"masks.moving={torn.path}:{n}"), client=thread_client)
        for n in (1, 2)
    ]  # fmt: skip
    swapped = pieces(torn.path, runs, out=str(tmp_path / "swapped.zarr"), frame="moving")
    points = torn.points(1, 2, inner=True)
    there = torn.joined.map_points(points)
    np.testing.assert_allclose(swapped.map_points(points, BACK), there, atol=1e-3)
    known = np.isfinite(there).all(1)
    again = torn.joined.map_points(there[known], BACK)
    np.testing.assert_allclose(swapped.map_points(there[known]), again, atol=1e-3)
    # And the same with runs that are followed backwards.
    by_inverse = pieces(torn.path, [f"{run.url}:inverse" for run in runs], out=str(tmp_path / "inverse.zarr"))
    np.testing.assert_allclose(by_inverse.map_points(points), swapped.map_points(points, BACK), atol=1e-4)


def test_joined_runs_are_opened_again_wherever_a_run_is(torn):
    again = chain(torn.joined.url)
    assert isinstance(again, Pieces) and again.identity() == torn.joined.identity()
    assert pickle.loads(pickle.dumps(again)).map_points(torn.points(1)).shape == torn.points(1).shape
    assert np.array_equal(read(again.label_image()), torn.labels)
    told = again.summary()
    assert [p.label for p in told] == [1, 2] and [p.run for p in told] == [run.url for run in torn.runs]
    assert [p.voxels for p in told] == [int((torn.labels == n).sum()) for n in (1, 2)]
    assert all(p.contested == 0 and p.overlap < 0.05 and p.outside < 0.3 for p in told)


def test_risk_and_sigma_are_those_of_the_piece(torn):
    points = np.concatenate([torn.points(1), torn.points(2), torn.points(0)])
    for ask in ("risk_at", "sigma_at"):
        found = getattr(torn.joined, ask)(points)
        parts = [getattr(run, ask)(torn.points(n)) for n, run in enumerate(torn.runs, start=1)]
        assert np.array_equal(found[: sum(map(len, parts))], np.concatenate(parts), equal_nan=True)
        assert np.isnan(found[sum(map(len, parts)) :]).all() and np.isfinite(found).any()


@pytest.mark.parametrize("direction", ["fixed_to_moving", BACK])
def test_a_table_gets_risk_and_sigma_of_each_points_own_run(torn, direction, tmp_path):
    points = torn.points(2, inner=True)[:200]
    points = points[np.isfinite(torn.runs[1].map_points(points)).all(1)]
    given = points if direction != BACK else torn.runs[1].map_points(points)
    with open(tmp_path / "in.csv", "w") as file:
        file.write("z,y,x\n" + "\n".join(",".join(map(repr, row)) for row in given.tolist()))
    for name, mapped in (("joined", torn.joined), ("alone", torn.runs[1])):
        mapped.map_file(tmp_path / "in.csv", tmp_path / f"{name}.csv", direction=direction, risk=True, sigma=True)
    joined, alone = (np.genfromtxt(tmp_path / f"{n}.csv", delimiter=",", names=True) for n in ("joined", "alone"))
    assert np.isfinite(joined["sigma_um"]).mean() > 0.5 and len(joined.dtype.names) >= 8
    for name in joined.dtype.names:
        np.testing.assert_allclose(joined[name], alone[name], atol=2e-3)


def test_swc_radii_grow_as_the_tissue_of_their_piece(torn, tmp_path):
    lines = [f"{n} 2 {p[2]} {p[1]} {p[0]} 2.0 -1" for n, p in enumerate(torn.points(1, inner=True)[:50], start=1)]
    (tmp_path / "n.swc").write_text("\n".join(lines))
    torn.joined.map_file(tmp_path / "n.swc", tmp_path / "joined.swc")
    torn.runs[0].map_file(tmp_path / "n.swc", tmp_path / "alone.swc")
    assert (tmp_path / "joined.swc").read_text() == (tmp_path / "alone.swc").read_text()


def test_export_writes_landmarks_and_says_why_nothing_else(torn, tmp_path):
    for name in ("map.h5", "map.nii.gz", "affine.mat"):
        with pytest.raises(InputError, match="jumps from piece to piece"):
            torn.joined.export(str(tmp_path / name))
    torn.joined.export(str(tmp_path / "pairs.csv"), format="bigwarp", pairs=100)
    fixed, moving = read_pairs(tmp_path / "pairs.csv")
    assert len(fixed) > 20
    np.testing.assert_allclose(torn.joined.map_points(fixed), moving, atol=1e-3)


def here(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    return done.exit_code, done.output


def test_the_command_line_joins_and_uses_them(torn, tmp_path):
    first, second = (run.url for run in torn.runs)
    status, told = here("pieces", torn.path, f"2={second}", f"1={first}", "--out", tmp_path / "p.zarr")
    assert status == 0, told
    assert "label 2" in told and "2 pieces" in told
    with open(tmp_path / "cells.csv", "w") as file:
        rows = [*torn.points(1)[:5].tolist(), *torn.points(0)[:3].tolist()]
        file.write("z,y,x\n" + "\n".join(",".join(map(str, row)) for row in rows))
    status, told = here(
        "points", tmp_path / "p.zarr", tmp_path / "cells.csv", tmp_path / "out.csv", "--risk", "--sigma"
    )
    assert status == 0 and "8 points, 3 outside the fixed image or in no piece (nan)" in told, told
    found = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert {"risk", "sigma_um"} <= set(found[0]) and found[-1]["z"] == "nan"
    status, told = here("warp", tmp_path / "p.zarr", torn.folder / "moving.ome.zarr", tmp_path / "w.ome.zarr")
    assert status == 0, told
    status, told = here("export", tmp_path / "p.zarr", tmp_path / "map.h5")
    assert status == 3 and "jumps" in told
    status, told = here("pieces", torn.path, first, second, "--out", tmp_path / "q.zarr", "--json")
    assert status == 0 and [p["label"] for p in json.loads(told)["pieces"]] == [1, 2]
    assert here("pieces", torn.path, f"1={first}", second, "--out", tmp_path / "n.zarr")[0] == 2
    assert here("pieces", torn.path, first, tmp_path / "none.zarr", "--out", tmp_path / "n.zarr")[0] == 3


class Shifted(Transform):
    """What a wrong run may be."""

    def __init__(self, grid, by):
        self.grid, self.by = grid, by

    def map(self, direction="fixed_to_moving"):
        matrix = np.eye(4)
        matrix[1, 3] = self.by if direction == "fixed_to_moving" else -self.by
        return Map((Affine(matrix),), Frame(self.grid), Frame(self.grid))


@pytest.mark.parametrize("verb", ["register", "plan"])
def test_a_mask_of_one_label_is_an_option(torn, verb, tmp_path):
    images = torn.folder / "fixed.ome.zarr", torn.folder / "moving.ome.zarr"
    rest = (tmp_path / "r.zarr", "--dry-run") if verb == "register" else ()
    status, told = here(verb, *images, *rest, "--preset", "demo", "--fixed-mask", f"{torn.path}:1", "--json")
    assert status == 0, told
    assert "mask" in told[told.index("{") :]
    status, told = here(verb, *images, *rest, "--preset", "demo", "--moving-mask", f"{tmp_path / 'none.tif'}:1")
    assert status == 3 and "none.tif" in told


def test_runs_that_contradict_each_other_are_told(tmp_path, caplog):
    labels = np.where(np.arange(200)[None, :, None] < 100, 1, 2).repeat(8, 0).repeat(8, 2).astype(np.uint8)
    image = open_volume(labels, spacing=(2, 2, 2))
    told = {}
    for by in (1.0, 80.0):
        parts = [Shifted(image.grid(), by), Shifted(image.grid(), -by)]
        told[by] = list(_summary(image, image.grid(), "fixed", {1: "a", 2: "b"}, parts))
        assert ("another piece is mapped to" in caplog.text) == (by == 80)
    assert all(piece.contested == 0 and piece.overlap < 0.02 for piece in told[1.0])
    assert all(piece.contested == pytest.approx(0.49, abs=0.02) for piece in told[80.0])


def test_labels_without_a_run_are_told(torn, tmp_path, caplog):
    labels = np.where(torn.labels == 2, 3, torn.labels)
    pieces((labels, torn.fixed[1]), torn.runs[:1], out=str(tmp_path / "three.zarr"))
    assert "label 3" in caplog.text and "has no run" in caplog.text


def test_what_cannot_be_joined_is_refused_and_nothing_stays(torn, registered, tmp_path):
    out, runs = str(tmp_path / "p.zarr"), torn.runs
    spacing = torn.fixed[1]
    for labels, given, message in (
        (torn.path, [*runs, runs[0]], r"holds no voxel of 3; its labels are 1, 2"),
        ((np.zeros_like(torn.labels), spacing), runs, "all 0"),
        ((torn.labels.astype("f4"), spacing), runs, "save labels as integers"),
        ((torn.labels, spacing), [runs[0], str(torn.folder / "labels.tif")], "not a bigreg run"),
        (open_volume(torn.labels, spacing=spacing, origin=(1e5, 0, 0)), runs, "do not overlap"),
        ((torn.labels, spacing), {0: runs[0]}, "from 1 on"),
        ((torn.labels, spacing), [], "from 1 on"),
        (torn.folder / "none.tif", runs, "none.tif"),
    ):
        with pytest.raises(InputError, match=message):
            pieces(labels, given, out=out)
        assert not Path(out).exists(), message
    with pytest.raises(ConfigError, match="frame"):
        pieces(torn.path, runs, out=out, frame="both")
    with pytest.raises(OutputError, match="exists already"):
        pieces(torn.path, runs, out=torn.joined.url)
    with pytest.raises(InputError, match="no joined pieces"):
        Pieces(runs[0].url)


def test_runs_of_other_images_are_refused(torn, small_config, thread_client, tmp_path):
    cropped = tuple((image[:, 4:], spacing) for image, spacing in (torn.fixed, torn.moving))
    other = register(
        *cropped, out=str(tmp_path / "o.zarr"), config=small_config("deformation=false"), client=thread_client
    )
    with pytest.raises(InputError, match=r"fixed images of .* differ"):
        pieces(torn.path, [torn.runs[0], other], out=str(tmp_path / "p.zarr"))


@pytest.mark.parametrize("factor", [1, 2], ids=["voxel on voxel", "on a coarser level"])
def test_labels_may_lie_on_any_grid_of_the_frame(torn, factor, tmp_path):
    coarse = torn.labels[::factor, ::factor, ::factor]
    tifffile.imwrite(tmp_path / "l.tif", coarse)
    joined = pieces(tmp_path / "l.tif", torn.runs, out=str(tmp_path / "p.zarr"))
    points = torn.points(1, inner=True)
    assert np.array_equal(joined.map_points(points), torn.runs[0].map_points(points), equal_nan=True)
