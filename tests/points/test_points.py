"""Points in files: what a map does to each format, and that the rest of a file stays as it was."""

from __future__ import annotations

import csv
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from bigreg.errors import ConfigError, CorruptDataError, InputError, OutputError
from bigreg.geometry import Grid
from bigreg.points import Counts, map_points_file, text
from bigreg.points.text_cpu import find, replace
from bigreg.transforms.affine import about
from bigreg.transforms.maps import Affine, Field, Frame, Map

FIXED = Grid.from_spacing((20, 30, 40), (10.0, 4.0, 4.0), (100.0, -20.0, 5.0))
MOVING = Grid.from_spacing((25, 33, 38), (9.0, 5.0, 3.0), (90.0, -10.0, 0.0))


def a_map(linear=None):
    noise = [gaussian_filter(np.random.default_rng(i).normal(size=FIXED.shape), 3) for i in range(3)]
    values = (np.stack(noise) / np.std(noise) * 6).astype(np.float32)
    affine = about(np.diag([1.1, 0.95, 1.05]) if linear is None else linear, np.mean(FIXED.bounds(), 0))

    def read(start, stop):
        return values[(slice(None), *(slice(a, b) for a, b in zip(start, stop, strict=True)))]

    return Map((Field(read, FIXED, FIXED), Affine(affine)), Frame(FIXED, "ipl"), Frame(MOVING, "iar"))


def inside(count, seed=0):
    return FIXED.index_to_world(np.random.default_rng(seed).uniform(-0.4, np.asarray(FIXED.shape) - 0.6, (count, 3)))


def counted(points):
    """All lie in the fixed frame; how many leave the moving one."""
    index = MOVING.world_to_index(a_map().points(points))
    there = ((index >= -0.5) & (index <= np.array(MOVING.shape) - 0.5)).all(1)
    return Counts(len(points), 0, int((~there).sum()))


def rows_of(path, delimiter=","):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file, delimiter=delimiter))


# ---------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [",", "\t", ";"])
@pytest.mark.parametrize("piece", [64, 1 << 20])
def test_a_table_keeps_all_but_its_three_columns(separator, newline, piece, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE", piece)
    points = inside(40)
    lines = [separator.join(["name", "x", "note", "z", " y", "n"])]
    for i, (z, y, x) in enumerate(points):
        lines.append(
            separator.join([f"cell {i}", f"{x:.6f}", f'"a{separator} ""{i}"" é"', f'"{z:.6e}"', f" {y:.6f} ", "007"])
        )
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(newline.join(lines), encoding="utf-8-sig", newline="")
    assert map_points_file(source, target, a_map()) == counted(points)
    before, after = rows_of(source, separator), rows_of(target, separator)
    expected = a_map().points(points)
    got = np.array([[float(row[3]), float(row[4]), float(row[1])] for row in after[1:]])
    np.testing.assert_allclose(got, expected, atol=2e-4)
    assert [(r[0], r[2], r[5]) for r in after[1:]] == [(r[0], r[2], r[5]) for r in before[1:]]
    assert b"\r\n" in target.read_bytes() if newline == "\r\n" else b"\r" not in target.read_bytes()


def test_columns_are_chosen_by_name_or_by_number(tmp_path):
    points = inside(5)
    expected = a_map().points(points)
    named, bare = tmp_path / "named.csv", tmp_path / "bare.csv"
    named.write_text("axis-0,axis-1,axis-2\n" + "".join(f"{z},{y},{x}\n" for z, y, x in points))
    bare.write_text("".join(f"{i},{x},{y},{z}\n" for i, (z, y, x) in enumerate(points)))
    map_points_file(named, tmp_path / "a.csv", a_map(), columns=["axis-0", "axis-1", "axis-2"])
    map_points_file(bare, tmp_path / "b.csv", a_map(), columns=["3", "2", "1"])
    np.testing.assert_allclose(np.loadtxt(tmp_path / "a.csv", delimiter=",", skiprows=1), expected, atol=1e-4)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "b.csv", delimiter=",")[:, [3, 2, 1]], expected, atol=1e-4)
    assert rows_of(tmp_path / "a.csv")[0] == ["axis-0", "axis-1", "axis-2"]


def test_points_that_napari_saved_need_no_names_of_columns(tmp_path):
    points = inside(5)
    saved, moving = tmp_path / "points.csv", tmp_path / "in_time.csv"
    rows = "".join(f"{i},{z},{y},{x}\n" for i, (z, y, x) in enumerate(points))
    saved.write_text("index,axis-0,axis-1,axis-2\n" + rows)
    map_points_file(saved, tmp_path / "out.csv", a_map())
    found = np.loadtxt(tmp_path / "out.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(found[:, 1:], a_map().points(points), atol=1e-4)
    moving.write_text("axis-0,axis-1,axis-2,axis-3\n0,1,2,3\n")
    with pytest.raises(InputError, match="no column z"):
        map_points_file(moving, tmp_path / "no.csv", a_map())


def test_units_are_turned_on_both_sides(tmp_path):
    points = inside(20)
    expected = a_map().points(points)
    other = MOVING.downsampled((2, 2, 2))
    cases = (
        ("mm", points / 1000, expected / 1000, None, None),
        ("voxel", FIXED.world_to_index(points), MOVING.world_to_index(expected), None, None),
        ("voxel", FIXED.world_to_index(points), expected, "um", None),
        ("um", points, other.world_to_index(expected), "voxel", other),
    )
    for number, (units, given_, wanted, to, onto) in enumerate(cases):
        source, target = tmp_path / f"in{number}.csv", tmp_path / f"out{number}.csv"
        np.savetxt(source, given_, delimiter=",", header="z,y,x", comments="", fmt="%.9f")
        map_points_file(source, target, a_map(), units=units, to=to, grids=(None, onto))
        atol = 1e-6 if units == "mm" else 2e-4
        np.testing.assert_allclose(np.loadtxt(target, delimiter=",", skiprows=1), wanted, atol=atol)


def test_points_outside_are_nan_and_counted(tmp_path):
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    z, y, x = inside(1)[0]
    source.write_text(f"z,y,x\n{z},{y},{x}\n0,0,0\nnan,{y},{x}\n1e9,{y},inf\n")
    assert map_points_file(source, target, a_map()) == Counts(4, 3, counted(inside(1)).beyond)
    assert rows_of(target)[2:] == [["nan"] * 3] * 3


def test_an_empty_table_and_blank_lines_stay_so(tmp_path):
    for number, content in enumerate(("z,y,x\n", "z,y,x", "z,y,x\n\n\n")):
        source, target = tmp_path / f"in{number}.csv", tmp_path / f"out{number}.csv"
        source.write_text(content)
        assert map_points_file(source, target, a_map()).points == 0
        assert target.read_text().strip() == "z,y,x"


@given(
    st.lists(st.floats(-1e9, 1e9) | st.integers(-(10**15), 10**15), min_size=1, max_size=20), st.sampled_from("rfeg")
)
def test_numbers_are_read_as_python_reads_them(numbers, style):
    words = [repr(v) if style == "r" else f"{v:.9{style}}" for v in numbers]
    data = np.frombuffer("".join(f"{w},{w},{w}\n" for w in words).encode(), np.uint8)
    values, spans = np.empty((len(words), 3)), np.empty((len(words), 3, 2), np.int64)
    rest = np.empty(len(words), np.int64), np.zeros(2, np.int64)
    assert find(data, ord(","), np.arange(3), False, values, spans, *rest) == (len(words), len(data), -1)
    np.testing.assert_allclose(values[:, 1], [float(w) for w in words], rtol=1e-14, atol=1e-300)


@given(st.lists(st.floats(-1e8, 1e8), min_size=1, max_size=20), st.integers(0, 7))
def test_numbers_are_written_as_python_writes_them(numbers, decimals):
    data = np.frombuffer(b"a,b,c\n" * len(numbers), np.uint8)
    spans = (np.arange(len(numbers)) * 6)[:, None, None] + np.array([[0, 1], [2, 3], [4, 5]])
    out = np.empty(100 * len(numbers), np.uint8)
    values, ends = np.repeat(np.array(numbers)[:, None], 3, 1), np.arange(len(numbers)) * 6 + 5
    none = np.empty((len(numbers), 0)), np.empty(0, np.int64)
    size = replace(data, len(data), spans, values, decimals, out, ends, *none, ord(","), ord("."))
    written = [float(line.split(b",")[2]) for line in out[:size].tobytes().splitlines()]
    np.testing.assert_allclose(written, numbers, rtol=0, atol=0.5001 * 10.0**-decimals + 1e-7)
    assert all(len(line.split(b",")) == 3 for line in out[:size].tobytes().splitlines())


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("z,y\n1,2\n", {}, "no column x; it has z, y"),
        ("z,y,x\n1,2,3\n1,-,3\n", {}, "line 3: '1,-,3' has no three numbers"),
        ("z;y;x\n1,5;2;3\n1.5;2;3\n", {}, "one decimal sign"),
        ('z,y,x\n"1,5",2,3\n', {}, "line 2"),
        ("z;y;x\n1,234,5;2;3\n", {}, "line 2"),
        ("z,y,x\n1,2,3\n1,2\n", {}, "line 3: '1,2'"),
        ("z,y,x\n1,2,3x\n", {}, "line 2: '1,2,3x'"),
        ("z,y,x\n1,2,1e\n", {}, "line 2"),
        ("z,y,x\n1,2,3\n", {"columns": ["a", "y", "x"]}, "no column a"),
        ('z,y,x,n\n1,2,3,"a\n' + "1,2,3,4\n" * 40, {}, "line 2: a quotation mark"),
        ("", {}, "no column z"),
        ("\xff\xfe", {}, "UTF-16"),
    ],
)
def test_what_is_no_table_of_points_is_named(content, options, message, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE", 64)
    (tmp_path / "in.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        map_points_file(tmp_path / "in.csv", tmp_path / "out.csv", a_map(), **options)
    assert [p.name for p in tmp_path.iterdir()] == ["in.csv"]


def test_memory_does_not_grow_with_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE", 1 << 16)
    peaks = []
    for count in (4_000, 4_000, 40_000):  # the first compiles
        source = tmp_path / "in.csv"
        np.savetxt(source, inside(count), delimiter=",", header="z,y,x", comments="", fmt="%.4f")
        tracemalloc.start()
        map_points_file(source, tmp_path / f"out{len(peaks)}.csv", a_map())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.3 * peaks[1]


def test_nothing_is_overwritten_and_formats_are_not_mixed(tmp_path):
    (tmp_path / "in.csv").write_text("z,y,x\n")
    (tmp_path / "there.csv").write_text("thesis")
    with pytest.raises(OutputError, match="exists already"):
        map_points_file(tmp_path / "in.csv", tmp_path / "there.csv", a_map())
    assert (tmp_path / "there.csv").read_text() == "thesis"
    with pytest.raises(ConfigError, match="another format"):
        map_points_file(tmp_path / "in.csv", tmp_path / "out.swc", a_map())
    with pytest.raises(InputError, match="unknown format"):
        map_points_file(tmp_path / "in.doc", tmp_path / "out.doc", a_map())
    with pytest.raises(InputError, match="no such file"):
        map_points_file(tmp_path / "none.csv", tmp_path / "out.csv", a_map())
    with pytest.raises(ConfigError, match="units 'furlong'"):
        map_points_file(tmp_path / "in.csv", tmp_path / "out.csv", a_map(), units="furlong")
    with pytest.raises(InputError, match="voxels of which image"):
        map_points_file(tmp_path / "in.csv", tmp_path / "out.csv", Map(), units="voxel")


# ---------------------------------------------------------------------------------------------------- the others


def test_a_parquet_table_keeps_its_other_columns(tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow", reason="needs the extra 'test'")
    import pyarrow.parquet as pq

    from bigreg.points import parquet

    monkeypatch.setattr(parquet, "ROWS", 7)
    points = inside(20)
    given_ = np.round(points).astype(np.int32)
    table = pa.table(
        {"id": range(20), "x": given_[:, 2], "kind": ["a", None] * 10, "z": points[:, 0], "y": points[:, 1]}
    )
    pq.write_table(table.replace_schema_metadata({"who": "me"}), tmp_path / "in.parquet")
    assert map_points_file(tmp_path / "in.parquet", tmp_path / "out.parquet", a_map()).points == 20
    out = pq.read_table(tmp_path / "out.parquet")
    expected = a_map().points(np.column_stack([points[:, :2], given_[:, 2]]))
    np.testing.assert_allclose(np.column_stack([out[n] for n in "zyx"]), expected, atol=1e-4)
    assert out.column_names == table.column_names and out["kind"].to_pylist() == table["kind"].to_pylist()
    assert out.schema.metadata[b"who"] == b"me"
    with pytest.raises(InputError, match="holds string"):
        map_points_file(tmp_path / "in.parquet", tmp_path / "no.parquet", a_map(), columns=["z", "y", "kind"])
    (tmp_path / "bad.parquet").write_text("hello")
    with pytest.raises(CorruptDataError, match="bad.parquet"):
        map_points_file(tmp_path / "bad.parquet", tmp_path / "no.parquet", a_map())


@pytest.mark.parametrize("kind", ["point", "index"])
@pytest.mark.parametrize("to", [None, "voxel"])
def test_points_of_elastix_are_lps_in_mm_or_voxels(kind, to, tmp_path):
    points = inside(12)
    signs = np.array([-1, -1, 1]) / 1000  # "ipl" is RAS
    given_ = points[:, ::-1] * signs if kind == "point" else FIXED.world_to_index(points)[:, ::-1]
    source = tmp_path / "in.txt"
    source.write_text(f"{kind}\n12\n" + "".join(f"{x:.9f} {y:.9f} {z:.9f}\n" for x, y, z in given_))
    map_points_file(source, tmp_path / "out.txt", a_map(), to=to)
    lines = (tmp_path / "out.txt").read_text().splitlines()
    expected = a_map().points(points)
    assert lines[:2] == ["index" if to else "point", "12"]
    # "iar" runs as LPS does.
    wanted = MOVING.world_to_index(expected)[:, ::-1] if to else expected[:, ::-1] / 1000
    np.testing.assert_allclose(np.loadtxt(lines[2:]), wanted, atol=1e-4 if to else 1e-6)


@pytest.mark.parametrize("content", ["hello\n", "point\nx\n", "point\n2\n1 2 3\n", "point\n1\n1 2\n"])
def test_what_is_no_file_of_elastix_is_named(content, tmp_path):
    (tmp_path / "in.txt").write_text(content)
    with pytest.raises(InputError, match=r"in\.txt"):
        map_points_file(tmp_path / "in.txt", tmp_path / "out.txt", a_map())


def test_the_radius_of_a_neurite_grows_as_the_tissue_does(tmp_path):
    source, target = tmp_path / "in.swc", tmp_path / "out.swc"
    z, y, x = np.mean(FIXED.bounds(), 0)
    source.write_text(f"# traced by hand\n1 1 {x} {y} {z} 5.0 -1\n2 3 {x + 4} {y} {z} 2 1\n\n3 3 9e9 0 0 1 2\n")
    scale = np.diag([2.0, 1.0, 4.0])
    map_ = Map((Affine(about(scale, (z, y, x))),), Frame(FIXED), Frame(MOVING))
    assert map_points_file(source, target, map_) == Counts(3, 1, 0)
    lines = target.read_text().splitlines()
    assert lines[0] == "# traced by hand" and lines[3] == "" and "nan nan nan nan" in lines[4]
    nodes = np.loadtxt([lines[1], lines[2]])
    np.testing.assert_allclose(nodes, [[1, 1, x, y, z, 10.0, -1], [2, 3, x + 16, y, z, 4.0, 1]], atol=1e-3)
    source.write_text("1 1 0 0\n")
    with pytest.raises(InputError, match="not an SWC"):
        map_points_file(source, tmp_path / "no.swc", map_)


def test_the_local_volume_is_that_of_a_small_box_that_is_mapped():
    map_, points = a_map(), inside(30)
    edge = 1e-2
    box = points[:, None, None] + np.concatenate([np.eye(3), -np.eye(3)]).reshape(2, 3, 3) * edge
    sides = map_.points(box.reshape(-1, 3), beyond=True).reshape(len(points), 2, 3, 3)
    exact = np.linalg.det((sides[:, 0] - sides[:, 1]) / (2 * edge))
    # The field's derivative jumps at its samples; over half a sample it is a mean of both sides.
    assert np.median(np.abs(map_.determinant(points) / exact - 1)) < 0.1
    assert np.isnan(map_.determinant(np.zeros((1, 3))))


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl"])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_mesh_keeps_its_faces_and_its_outside(suffix, mirror, tmp_path):
    trimesh = pytest.importorskip("trimesh", reason="needs the extra 'test'")
    centre = np.mean(FIXED.bounds(), 0)
    ball = trimesh.creation.icosphere(subdivisions=2, radius=30)
    ball.vertices += centre[::-1]
    ball.export(tmp_path / f"in.{suffix}")
    map_ = a_map(np.diag([1.1, 0.95, -1.05]) if mirror else None)
    counts = map_points_file(tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}", map_)
    assert counts.outside == 0
    before, after = (
        trimesh.load(tmp_path / f"{n}.{suffix}", process=False, maintain_order=True) for n in ("in", "out")
    )
    assert len(after.faces) == len(before.faces)
    expected = map_.points(before.vertices[:, ::-1])[:, ::-1]
    here, there = (
        np.sort(v[f].reshape(-1, 3), 0) for v, f in ((expected, before.faces), (after.vertices, after.faces))
    )
    np.testing.assert_allclose(there, here, atol=1e-2)
    assert after.volume > 0.5 * ball.volume  # faces that look inwards give a negative one


def test_vertices_outside_are_left_out_with_their_faces(tmp_path):
    trimesh = pytest.importorskip("trimesh", reason="needs the extra 'test'")
    low = FIXED.bounds()[0]
    ball = trimesh.creation.icosphere(subdivisions=2, radius=30)
    ball.vertices += low[::-1]
    ball.export(tmp_path / "in.ply")
    counts = map_points_file(tmp_path / "in.ply", tmp_path / "out.ply", a_map())
    assert 0 < counts.outside < counts.points
    after = trimesh.load(tmp_path / "out.ply", process=False)
    assert len(after.vertices) == counts.points - counts.outside and np.isfinite(after.vertices).all()
    (tmp_path / "bad.ply").write_text("hello")
    with pytest.raises(CorruptDataError, match=r"bad\.ply"):
        map_points_file(tmp_path / "bad.ply", tmp_path / "no.ply", a_map())
