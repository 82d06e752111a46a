"""Tables as spreadsheets and people save them, and what is added to them; written here byte for byte."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from bigreg.atlases import Structures
from bigreg.errors import ConfigError, InputError
from bigreg.geometry import Grid
from bigreg.points import inside_column, map_points_file, text
from bigreg.transforms.landmarks import read_landmarks
from bigreg.transforms.maps import Affine, Frame, Map

SHIFT = (10.0, -20.0, 5.5)
BOX = Grid.from_spacing((10, 10, 10), (10.0, 10.0, 10.0), (5.0, 5.0, 5.0))  # 0 to 100 um
OTHER = Grid.from_spacing((5, 10, 10), (10.0, 10.0, 10.0), (5.0, 5.0, 5.0))  # z only to 50


def shifted(target=BOX):
    matrix = np.eye(4)
    matrix[:3, 3] = SHIFT
    return Map((Affine(matrix),), Frame(BOX), Frame(target))


def through(tmp_path, content, **options):
    (tmp_path / "in.csv").write_bytes(content)
    (tmp_path / "out.csv").unlink(missing_ok=True)
    counts = map_points_file(tmp_path / "in.csv", tmp_path / "out.csv", options.pop("map_", shifted()), **options)
    return (tmp_path / "out.csv").read_bytes(), counts


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("separator", [b";", b"\t"])
def test_decimal_commas_are_read_and_written(tmp_path, separator, newline):
    rows = [b"name", b"z", b"y", b"x"], [b"a,b", b"1,25", b"30", b"2,5"], [b"c", b"70", b"40,125", b"1"]
    out, counts = through(tmp_path, newline.join(separator.join(row) for row in rows))
    lines = [line.split(separator) for line in out.rstrip().split(newline)]
    assert lines[0] == [b"name", b"z", b"y", b"x"]
    assert lines[1] == [b"a,b", b"11,2500", b"10,0000", b"8,0000"]
    assert lines[2] == [b"c", b"80,0000", b"20,1250", b"6,5000"]
    assert (counts.points, counts.outside, counts.beyond) == (2, 0, 0)


def test_decimal_commas_without_a_header(tmp_path):
    out, _ = through(tmp_path, b"1,5;30,5;2,5\n2;40;3\n", columns=["0", "1", "2"])
    assert out.splitlines() == [b"11,5000;10,5000;8,0000", b"12,0000;20,0000;8,5000"]


def test_a_sign_that_changes_after_numbers_were_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE", 32)
    with pytest.raises(InputError, match="one decimal sign"):
        through(tmp_path, b"z;y;x\n" + b"1.5;30;2\n" * 9 + b"1,5;30;2\n")
    assert [p.name for p in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize("header", [b"y;x;z\n", b""])
def test_the_line_of_a_spreadsheet_that_names_the_separator(tmp_path, header):
    out, _ = through(tmp_path, b"sep=;\n" + header + b"30;2;1\n", columns=None if header else ["2", "0", "1"])
    assert out == b"sep=;\n" + header + b"10.0000;7.5000;11.0000\n"


@pytest.mark.parametrize("first", [b"z,y,x\n", b""])
def test_an_empty_cell_is_a_point_without_a_place(tmp_path, first):
    out, counts = through(tmp_path, first + b"1,,3\n1,30,2\n,,\n", columns=["0", "1", "2"])
    assert out == first + b"nan,nan,nan\n11.0000,10.0000,7.5000\nnan,nan,nan\n"
    assert (counts.points, counts.outside, counts.beyond) == (3, 2, 0)


def test_latin_1_is_kept_byte_by_byte(tmp_path):
    out, _ = through(tmp_path, "größe µm,z,y,x\nä,1,30,2\n".encode("latin-1"))
    assert out == "größe µm,z,y,x\nä,11.0000,10.0000,7.5000\n".encode("latin-1")
    out, _ = through(tmp_path, "z µm,y,x\n1,30,2\n".encode("latin-1"), columns=["z µm", "y", "x"])
    assert out.endswith(b"\n11.0000,10.0000,7.5000\n")
    (tmp_path / "n.swc").write_bytes("# für\n1 1 2 30 1 5 -1\n".encode("latin-1"))
    map_points_file(tmp_path / "n.swc", tmp_path / "o.swc", shifted())
    assert (tmp_path / "o.swc").read_bytes().startswith("# für\n1 1 7.5".encode("latin-1"))


def test_utf_16_is_named(tmp_path):
    with pytest.raises(InputError, match="UTF-16"):
        through(tmp_path, "z\ty\tx\n1\t2\t3\n".encode("utf-16"))


def test_points_outside_of_each_frame_are_counted_and_marked(tmp_path):
    content = b'note,z,y,x\r\n"a ""b""\n1",1,30,2\r\nout,-50,30,2\r\nfar,60,30,2\r\nlast,39,30,2'
    risk = {"inside": inside_column, "risk": lambda given, mapped, there: given[:, 0] / 100}
    out, counts = through(tmp_path, content, map_=shifted(OTHER), added=risk)
    assert (counts.points, counts.outside, counts.beyond) == (4, 1, 1)
    rows = list(csv.reader(out.decode().splitlines(keepends=True)))
    assert rows[0] == ["note", "z", "y", "x", "inside", "risk"]
    assert rows[1] == ['a "b"\n1', "11.0000", "10.0000", "7.5000", "1", "0.0100"]
    assert [row[4] for row in rows[1:]] == ["1", "0", "0", "1"] and out.count(b"\r\n") == 4
    assert rows[4][1:] == ["49.0000", "10.0000", "7.5000", "1", "0.3900"]


def test_added_columns_are_for_tables_that_lack_them(tmp_path):
    with pytest.raises(InputError, match="column inside already"):
        through(tmp_path, b"z,y,x,inside\n1,2,3,4\n", added={"inside": inside_column})
    (tmp_path / "n.swc").write_text("1 1 2 30 1 5 -1\n")
    with pytest.raises(ConfigError, match="'n.swc' is none"):
        map_points_file(tmp_path / "n.swc", tmp_path / "o.swc", shifted(), added={"inside": inside_column})


def test_parquet_gets_the_columns_too(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="needs the extra 'test'")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"z": [1.0, 60.0], "y": [30.0, 30.0], "x": [2.0, None]}), tmp_path / "in.parquet")
    counts = map_points_file(
        tmp_path / "in.parquet", tmp_path / "out.parquet", shifted(OTHER), added={"inside": inside_column}
    )
    assert (counts.outside, counts.beyond) == (1, 0)
    assert pq.read_table(tmp_path / "out.parquet")["inside"].to_pylist() == [1.0, 0.0]


def test_landmarks_and_structures_of_spreadsheets(tmp_path):
    header = "sep=;\r\nname;fixed_z;fixed_y;fixed_x;moving_z;moving_y;moving_x\r\n"
    (tmp_path / "pairs.csv").write_bytes((header + "ä;1,5;2;3;4;5,25;6\r\nb;1;2;3;;;\r\n").encode("latin-1"))
    found = read_landmarks(tmp_path / "pairs.csv")
    assert found.names == ("ä", "b") and found.fixed[0].tolist() == [1.5, 2, 3]
    assert found.moving[0].tolist() == [4, 5.25, 6] and found.used.tolist() == [True, False]
    table = "id;acronym;name;parent_structure_id\n997;root;root;\n5;Ä;Größe;997\n"
    (tmp_path / "tree.csv").write_bytes(table.encode("latin-1"))
    assert [(s.acronym, s.name, s.parent) for s in Structures.read(tmp_path / "tree.csv")][1] == ("Ä", "Größe", 997)
