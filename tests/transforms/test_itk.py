"""ITK's files: what SimpleITK (and ANTsPy, where it is) makes of what we write, and we of what it writes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from bigreg.errors import ConfigError, CorruptDataError, InputError, OutputError
from bigreg.geometry import Grid
from bigreg.pipeline.results.export import export
from bigreg.transforms import itk, ngff
from bigreg.transforms.affine import apply_affine
from bigreg.transforms.files import open_maps
from bigreg.transforms.itk_fields import read_field
from bigreg.transforms.maps import Affine, Field, Frame, Map
from bigreg.transforms.positions import Positions

sitk = pytest.importorskip("SimpleITK", reason="needs the extra 'test'")

CODES = [("ipl", "ipl"), (None, None), ("psl", "iar"), ("asr", None)]


def oblique(shape, spacing, origin, seed):
    """A grid whose axes are turned by up to 25 degrees."""
    turn = Rotation.from_rotvec(np.random.default_rng(seed).uniform(-0.25, 0.25, 3)).as_matrix()
    return Grid(shape, np.column_stack([turn * spacing, origin]))


def smooth_field(grid, amplitude, seed):
    random = np.random.default_rng(seed)
    noise = np.stack([gaussian_filter(random.normal(size=grid.shape), 2.0) for _ in range(3)])
    return (noise / noise.std() * np.reshape(amplitude, (3, 1, 1, 1))).astype(np.float32)


def reader(values):
    return lambda start, stop: values[(slice(None), *(slice(a, b) for a, b in zip(start, stop, strict=True)))]


def a_map(codes=("ipl", "ipl"), seed=0):
    """An asymmetric map between two oblique, anisotropic images: a field, then an affine with shear and shift."""
    fixed = oblique((19, 25, 31), (50.0, 21.0, 20.0), (300.0, -200.0, 90.0), seed)
    moving = oblique((23, 28, 33), (46.0, 22.0, 19.0), (260.0, -230.0, 60.0), seed + 1)
    inner = ngff.field_grid(fixed, (70.0, 45.0, 40.0))
    grid = inner.cropped((-1, -1, -1), np.add(inner.shape, 1))
    values = smooth_field(grid, (30.0, 18.0, 22.0), seed)
    affine = np.eye(4)
    affine[:3, :3] += np.random.default_rng(seed + 2).uniform(-0.06, 0.06, (3, 3))
    affine[:3, 3] = (12.0, -17.0, 25.0)
    return Map((Field(reader(values), grid, fixed), Affine(affine)), Frame(fixed, codes[0]), Frame(moving, codes[1]))


def inside(grid, count=400, seed=5):
    index = np.random.default_rng(seed).uniform(-0.4, np.asarray(grid.shape) - 0.6, (count, 3))
    return grid.index_to_world(index)


def to_itk(points, code, unit=1000.0):
    return apply_affine(itk.to_lps(code), points)[:, ::-1] / unit


def sitk_transform(path):
    if str(path).endswith((".h5", ".txt", ".tfm", ".mat")):
        return sitk.ReadTransform(str(path))
    return sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))


def sitk_image(values, grid, code, unit=1000.0):
    """An image as ITK would have read it from a file that lies in the same world."""
    size, origin, spacing, direction = itk.itk_grid(grid.transformed(itk.to_lps(code)), unit)
    image = sitk.GetImageFromArray(values)
    image.SetOrigin(origin.tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    assert image.GetSize() == tuple(size)
    return image


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("name", ["map.h5", "map.nii.gz", "map.nii", "map.nrrd"])
def test_simpleitk_takes_points_where_the_map_does(name, codes, tmp_path):
    map_ = a_map(codes)
    export(map_, str(tmp_path / name), None, "mm", "lps", 0)
    points = inside(map_.source.grid)
    transform = sitk_transform(tmp_path / name)
    theirs = np.array([transform.TransformPoint(p) for p in to_itk(points, codes[0]).tolist()])
    ours = to_itk(map_.points(points), codes[1])
    assert np.abs(theirs - ours).max() < 0.01 * min(map_.target.grid.spacing) / 1000


@pytest.mark.parametrize(("unit", "axes"), [("um", "lps"), ("mm", "xyz")])
def test_units_and_axes_are_those_that_are_asked_for(unit, axes, tmp_path):
    map_ = a_map(("psl", "ipl"))
    export(map_, str(tmp_path / "map.h5"), None, unit, axes, 0)
    scale = 1.0 if unit == "um" else 1000.0
    codes = ("psl", "ipl") if axes == "lps" else (None, None)
    points = inside(map_.source.grid, 50)
    transform = sitk_transform(tmp_path / "map.h5")
    theirs = np.array([transform.TransformPoint(p) for p in to_itk(points, codes[0], scale).tolist()])
    np.testing.assert_allclose(theirs, to_itk(map_.points(points), codes[1], scale), atol=0.05 / scale)


def phantom(grid, seed=9):
    texture = gaussian_filter(np.random.default_rng(seed).normal(size=grid.shape), 1.5).astype(np.float32)
    return texture / texture.std() + np.linspace(0, 3, grid.shape[0], dtype=np.float32)[:, None, None]


def ours_resampled(map_, image):
    there, known = map_.follow(Positions.of_grid(map_.source.grid))
    index = map_.target.grid.world_to_index(there.points())
    values = map_coordinates(image, index.T, order=1, mode="nearest").reshape(map_.source.grid.shape)
    within = ((index >= 0) & (index <= np.asarray(image.shape) - 1)).all(1).reshape(values.shape)
    return values, within & known.numpy()


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("name", ["map.h5", "map.nii.gz", "map.nrrd"])
def test_simpleitk_resamples_oblique_images_as_the_map_does(name, codes, tmp_path):
    map_ = a_map(codes, seed=3)
    image = phantom(map_.target.grid)
    export(map_, str(tmp_path / name), None, "mm", "lps", 0)
    theirs = sitk.Resample(
        sitk_image(image, map_.target.grid, codes[1]),
        sitk_image(np.zeros(map_.source.grid.shape, np.float32), map_.source.grid, codes[0]),
        sitk_transform(tmp_path / name),
        sitk.sitkLinear,
        0.0,
    )
    values, within = ours_resampled(map_, image)
    assert within.mean() > 0.4
    # The steepest neighbours differ by several units: 0.01 voxel is 0.01 of that.
    steepest = max(float(np.abs(np.diff(image, axis=a)).max()) for a in range(3))
    assert np.abs(sitk.GetArrayFromImage(theirs) - values)[within].max() < 0.01 * steepest


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("name", ["map.h5", "map.nii.gz", "map.nii", "map.nrrd"])
def test_what_is_exported_is_read_back_as_the_same_map(name, codes, tmp_path):
    map_ = a_map(codes, seed=6)
    export(map_, str(tmp_path / name), None, "mm", "lps", 0)
    again, back = open_maps(str(tmp_path / name), map_.source, map_.target)
    points = inside(map_.source.grid)
    assert np.abs(again.points(points) - map_.points(points)).max() < 0.01
    assert back is None
    outside = map_.source.grid.index_to_world(np.array([[-90.0, 0, 0], [0, 90.0, 0]]))
    assert np.isnan(again.points(outside)).all()


@pytest.mark.parametrize("name", ["a.txt", "a.tfm", "a.mat", "a.h5"])
def test_an_affine_round_trips_and_simpleitk_agrees(name, tmp_path):
    full = a_map(("psl", "iar"))
    map_ = Map((Affine(full.affine),), full.source, full.target)
    export(map_, str(tmp_path / name), "affine", "mm", "lps", 0)
    again, back = open_maps(str(tmp_path / name), map_.source, map_.target)
    np.testing.assert_allclose(again.matrix, full.affine, atol=1e-9)
    np.testing.assert_allclose(back.matrix @ again.matrix, np.eye(4), atol=1e-9)
    points = inside(map_.source.grid, 20)
    transform = sitk.ReadTransform(str(tmp_path / name))
    theirs = np.array([transform.TransformPoint(p) for p in to_itk(points, "psl").tolist()])
    np.testing.assert_allclose(theirs, to_itk(map_.points(points), "iar"), atol=1e-9)


def itk_transforms():
    centre = (0.3, -0.2, 0.5)
    euler = sitk.Euler3DTransform(centre, 0.1, -0.2, 0.3, (0.4, 0.5, -0.6))
    zyx = sitk.Euler3DTransform(euler)
    zyx.SetComputeZYX(True)
    versor = sitk.VersorRigid3DTransform((0.1, -0.2, 0.15, 0.9), (0.4, 0.5, -0.6), centre)
    similar = sitk.Similarity3DTransform(1.1, (0.1, -0.2, 0.15, 0.9), (0.4, 0.5, -0.6), centre)
    shift = sitk.TranslationTransform(3, (0.4, 0.5, -0.6))
    affine = sitk.AffineTransform(3)
    affine.SetCenter(centre)
    affine.SetMatrix((1.1, 0.2, -0.1, 0.05, 0.9, 0.1, 0.0, -0.1, 1.05))
    affine.SetTranslation((0.4, 0.5, -0.6))
    chained = sitk.CompositeTransform([affine, euler, shift])
    return [euler, zyx, versor, similar, shift, affine, chained]


@pytest.mark.parametrize("transform", itk_transforms(), ids=lambda t: t.GetName())
@pytest.mark.parametrize("suffix", ["txt", "mat", "h5"])
def test_matrices_of_every_kind_are_read(transform, suffix, tmp_path):
    if suffix == "mat" and transform.GetName().startswith("Composite"):
        pytest.skip("a .mat holds one transform")
    path = tmp_path / f"t.{suffix}"
    sitk.WriteTransform(transform, str(path))
    (map_, _) = open_maps(str(path), Frame(None, "iar"), Frame(None, "iar"))
    points = np.random.default_rng(0).normal(size=(20, 3)) * 1000
    theirs = np.array([transform.TransformPoint(p) for p in (points[:, ::-1] / 1000).tolist()])
    np.testing.assert_allclose(map_.points(points)[:, ::-1] / 1000, theirs, atol=1e-8)


def test_fields_that_simpleitk_writes_are_read(tmp_path):
    map_ = a_map(("iar", "iar"))
    export(map_, str(tmp_path / "ours.nrrd"), None, "mm", "lps", 0)
    image = sitk.ReadImage(str(tmp_path / "ours.nrrd"), sitk.sitkVectorFloat64)
    points = inside(map_.source.grid, 100)
    for name in ("theirs.nii.gz", "theirs.nrrd", "packed.nrrd"):
        sitk.WriteImage(image, str(tmp_path / name), name.startswith("packed"))
        again, _ = open_maps(str(tmp_path / name), map_.source, map_.target)
        np.testing.assert_allclose(again.points(points), map_.points(points), atol=0.01)
    sitk.WriteTransform(sitk.DisplacementFieldTransform(sitk.Image(image)), str(tmp_path / "theirs.h5"))
    again, _ = open_maps(str(tmp_path / "theirs.h5"), map_.source, map_.target)
    np.testing.assert_allclose(again.points(points), map_.points(points), atol=0.01)


def test_a_chain_of_fields_is_one_composite_and_one_field(tmp_path):
    first, second = a_map(seed=10), a_map(seed=20)
    both = first.then(second)
    points = inside(first.source.grid, 300)
    expected = both.points(points)
    known = np.isfinite(expected).all(1)
    assert 0.3 < known.mean() < 1.0  # a chain knows nothing where the first map leaves the second's frame
    export(both, str(tmp_path / "both.h5"), None, "mm", "lps", 0)
    transform = sitk_transform(tmp_path / "both.h5")
    theirs = np.array([transform.TransformPoint(p) for p in to_itk(points, "ipl").tolist()])
    ours = to_itk(expected, "ipl")
    assert np.abs(theirs - ours)[known].max() < 0.01 * 19 / 1000
    export(both, str(tmp_path / "both.nrrd"), None, "mm", "lps", 0)
    field = read_field(tmp_path / "both.nrrd", 1000.0)
    assert field.grid.shape == first.fields[0].grid.shape


def test_the_order_of_the_steps_is_the_order_of_the_chain():
    a, b = np.diag([2.0, 2.0, 2.0, 1.0]), np.eye(4)
    b[:3, 3] = 1.0
    chained = Map((Affine(a),)).then(Map((Affine(b),)))
    np.testing.assert_allclose(chained.points(np.ones((1, 3))), 3.0)
    np.testing.assert_allclose(chained.affine, b @ a)
    assert Map().matrix.tolist() == np.eye(4).tolist()


def test_pieces_follow_one_another_and_cover_everything(monkeypatch):
    monkeypatch.setattr(itk, "PIECE", 60)
    for shape in ((3, 4, 5), (7, 9, 11), (2, 70, 3), (5, 1, 90)):
        index = np.arange(np.prod(shape)).reshape(shape)
        boxes = [tuple(map(slice, *box)) for box in itk.pieces(shape)]
        assert np.array_equal(np.concatenate([index[box].ravel() for box in boxes]), index.ravel())
        ends = [index[box].ravel()[[0, -1]] for box in boxes]
        assert all(b[0] == a[1] + 1 for a, b in pairwise(ends))


def test_a_field_is_written_in_pieces_as_in_one(tmp_path, monkeypatch):
    map_ = a_map()
    for suffix in ("h5", "nii.gz", "nrrd"):
        export(map_, str(tmp_path / f"one.{suffix}"), None, "mm", "lps", 0)
    monkeypatch.setattr(itk, "PIECE", 50)
    points = inside(map_.source.grid, 50)
    for suffix in ("h5", "nii.gz", "nrrd"):
        export(map_, str(tmp_path / f"many.{suffix}"), None, "mm", "lps", 0)
        one, many = (open_maps(str(tmp_path / f"{n}.{suffix}"), map_.source, map_.target)[0] for n in ("one", "many"))
        np.testing.assert_allclose(one.points(points), many.points(points), atol=1e-3)


def test_nothing_is_overwritten_and_nothing_is_left_of_an_error(tmp_path):
    (tmp_path / "there.h5").write_text("thesis")
    with pytest.raises(OutputError, match="exists already"):
        export(a_map(), str(tmp_path / "there.h5"), None, "mm", "lps", 0)
    assert (tmp_path / "there.h5").read_text() == "thesis"
    with pytest.raises(OutputError, match="memory address"):
        export(a_map(), "memory://bucket/a.h5", None, "mm", "lps", 0)
    with pytest.raises(OutputError, match="no folder"):
        export(a_map(), str(tmp_path / "no" / "a.h5"), None, "mm", "lps", 0)
    broken = Map((Field(lambda a, b: 1 / 0, a_map().fields[0].grid),))
    for name in ("a.h5", "a.nii.gz", "a.nrrd"):
        with pytest.raises(ZeroDivisionError):
            export(broken, str(tmp_path / name), None, "mm", "lps", 0)
    assert [p.name for p in tmp_path.iterdir()] == ["there.h5"]


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("a.csv", None, "give format matrix or bigwarp"),
        ("a.zarr", None, "scene"),
        ("a.txt", "field", "formats are"),
        ("a.x", None, "composite"),
    ],
)
def test_a_format_that_is_unclear_is_asked_for(name, format, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        export(a_map(), str(tmp_path / name), format, "mm", "lps", 0)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("none.h5", None, InputError, "does not exist"),
        ("a.txt", b"hello", CorruptDataError, "Insight"),
        ("a.mat", b"hello", CorruptDataError, "a.mat"),
        ("a.h5", b"hello", CorruptDataError, "a.h5"),
        ("a.nii.gz", b"hello", CorruptDataError, "a.nii.gz"),
        ("a.nrrd", b"hello", CorruptDataError, "a.nrrd"),
        ("a.csv", b"1,2,3\n", InputError, "4 x 4"),
        ("a.csv", b"0,0,0,0\n0,0,0,0\n0,0,0,0\n0,0,0,1\n", InputError, "inverted"),
        ("a.doc", b"", InputError, "known are"),
        (
            "b.txt",
            b"#Insight Transform File V1.0\nTransform: BSplineTransform_double_3_3\nParameters: 1\nFixedParameters: 1",
            InputError,
            "BSplineTransform cannot be read",
        ),
        (
            "c.txt",
            b"#Insight Transform File V1.0\nTransform: AffineTransform_double_2_2\nParameters: 1\nFixedParameters: 1\n",
            InputError,
            "three-dimensional",
        ),
    ],
)
def test_a_file_that_is_no_transform_is_named(name, content, error, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        open_maps(str(tmp_path / name))


def test_an_image_is_no_displacement_field(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6), np.float32))
    for name in ("a.nii.gz", "a.nrrd"):
        sitk.WriteImage(image, str(tmp_path / name))
        with pytest.raises(InputError, match="not a displacement field"):
            open_maps(str(tmp_path / name))


def test_ants_agrees_on_points_and_images(tmp_path):
    ants = pytest.importorskip("ants", reason="needs ANTsPy")
    import pandas

    map_ = a_map(("ipl", "ipl"), seed=3)
    image = phantom(map_.target.grid)
    values, within = ours_resampled(map_, image)
    steepest = max(float(np.abs(np.diff(image, axis=a)).max()) for a in range(3))
    for name, grid, data in (("fixed", map_.source.grid, np.zeros(map_.source.grid.shape, np.float32)),
                             ("moving", map_.target.grid, image)):  # fmt: skip
        sitk.WriteImage(sitk_image(data, grid, "ipl"), str(tmp_path / f"{name}.nii.gz"))
    fixed, moving = (ants.image_read(str(tmp_path / f"{n}.nii.gz")) for n in ("fixed", "moving"))
    affine = Map((Affine(map_.affine),), map_.source, map_.target)
    residual = Map(map_.steps[:1], map_.source, map_.source)
    for name, part in (("map.h5", map_), ("map.nii.gz", map_), ("affine.mat", affine), ("residual.nii.gz", residual)):
        export(part, str(tmp_path / name), None, "mm", "lps", 0)
    points = inside(map_.source.grid, 200)
    table = pandas.DataFrame(to_itk(points, "ipl"), columns=list("xyz"))
    # ANTs' order: points go through the first of a list first.
    for chosen in (["map.h5"], ["map.nii.gz"], ["residual.nii.gz", "affine.mat"]):
        files = [str(tmp_path / name) for name in chosen]
        theirs = ants.apply_transforms(fixed, moving, files, interpolator="linear").numpy().T
        assert np.abs(theirs - values)[within].max() < 0.01 * steepest
        there = ants.apply_transforms_to_points(3, table, files)[list("xyz")].to_numpy()
        assert np.abs(there - to_itk(map_.points(points), "ipl")).max() < 0.01 * 19 / 1000
