"""Pairs of landmarks, and 4 x 4 matrices as CSV."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bigreg.errors import InputError
from bigreg.transforms.affine import apply_affine
from bigreg.transforms.files import open_maps, read_csv
from bigreg.transforms.landmarks import bigwarp_text, fit, landmarks, read_landmarks, read_pairs, write_bigwarp

POINTS = np.random.default_rng(0).uniform(0, 1000, (8, 3))


def an_affine(rigid=False):
    out = np.eye(4)
    turn = Rotation.from_rotvec((0.3, -0.2, 0.5)).as_matrix()
    out[:3, :3] = turn if rigid else turn @ np.diag([1.1, 0.9, 1.05]) + 0.05
    out[:3, 3] = (30.0, -400.0, 12.0)
    return out


def test_bigwarps_file_round_trips_and_its_inactive_pairs_are_left_out(tmp_path):
    moved = apply_affine(an_affine(), POINTS)
    path = tmp_path / "l.csv"
    write_bigwarp(path, POINTS, moved)
    first = path.read_text().splitlines()[0].split(",")
    # BigWarp has moving before fixed, x before z.
    assert first[:2] == ['"Pt-0"', '"true"'] and float(first[2].strip('"')) == pytest.approx(moved[0, 2], abs=1e-5)
    with open(path, "a") as file:
        file.write(
            '"Pt-8","false","1","2","3","4","5","6"\n"Pt-9","true","1","2","3","Infinity","Infinity","Infinity"\n'
        )
    fixed, moving = read_pairs(path)
    np.testing.assert_allclose(fixed, POINTS, atol=1e-5)
    np.testing.assert_allclose(moving, moved, atol=1e-5)
    np.testing.assert_allclose(read_csv(path), an_affine(), atol=1e-5)


def test_named_columns_stand_in_any_order(tmp_path):
    moved = apply_affine(an_affine(), POINTS)
    rows = "".join(f"{m[2]},{m[1]},{m[0]},p,{f[0]},{f[1]},{f[2]}\n" for f, m in zip(POINTS, moved, strict=True))
    (tmp_path / "l.csv").write_text("moving_x,moving_y,moving_z,name,fixed_z,fixed_y,fixed_x\n" + rows)
    map_, back = open_maps(str(tmp_path / "l.csv"))
    np.testing.assert_allclose(map_.points(POINTS), moved, atol=1e-8)
    np.testing.assert_allclose(back.points(moved), POINTS, atol=1e-8)


@pytest.mark.parametrize(("count", "rigid"), [(3, True), (4, False), (8, False)])
def test_the_fit_is_exact_where_the_pairs_are(count, rigid):
    matrix = an_affine(rigid)
    np.testing.assert_allclose(fit(POINTS[:count], apply_affine(matrix, POINTS[:count])), matrix, atol=1e-8)


def test_three_mirrored_pairs_still_give_a_rotation():
    matrix = fit(POINTS[:3], POINTS[:3] * (1, 1, -1))
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1.0)


def test_pairs_that_say_too_little_are_refused(tmp_path):
    flat, line = POINTS * (1, 1, 0), np.outer(np.arange(3.0), (1, 2, 3))
    with pytest.raises(InputError, match="2 pairs of landmarks are too few"):
        fit(POINTS[:2], POINTS[:2])
    with pytest.raises(InputError, match="fixed landmarks lie in one plane"):
        fit(flat, POINTS)
    with pytest.raises(InputError, match="moving landmarks lie in one line"):
        fit(POINTS[:3], line)
    for content, message in (
        ("a,b\n1,2\n", "no pairs"),
        ("fixed_z\n", "no pairs"),
        ('"P","true",1,2,3,4,5,x\n', "six"),
    ):
        (tmp_path / "l.csv").write_text(content)
        with pytest.raises(InputError, match=message):
            read_pairs(tmp_path / "l.csv")


def test_a_matrix_of_four_lines_is_read(tmp_path):
    np.savetxt(tmp_path / "m.csv", an_affine(), delimiter=",")
    np.testing.assert_allclose(read_csv(tmp_path / "m.csv"), an_affine())


def test_names_and_unset_points_come_back_from_the_file(tmp_path):
    moved = apply_affine(an_affine(), POINTS[:3])
    moved[1] = np.nan
    pairs = landmarks(POINTS[:3], moved, ["soma, left", 'the "big" one', "n"], [True, True, False])
    path = tmp_path / "l.csv"
    path.write_text(bigwarp_text(pairs))
    back = read_landmarks(path)
    assert back.names == pairs.names and back.active.tolist() == [True, True, False]
    np.testing.assert_allclose(back.fixed, pairs.fixed, atol=1e-6)
    np.testing.assert_allclose(back.moving, pairs.moving, atol=1e-6)
    assert back.used.tolist() == [True, False, False]
    assert len(read_pairs(path)[0]) == 1


def test_as_many_names_as_points():
    with pytest.raises(ValueError, match="2 names"):
        landmarks(POINTS, POINTS, ["a", "b"])
