"""A landmark finds the place where the images agree, on images whose shift is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bigreg.errors import InputError
from bigreg.pipeline.looking.pyramids import Samples
from bigreg.volumes import convert, open_volume

pytest.importorskip("napari", reason="needs bigreg[napari]")
from napari_bigreg.landmarks.snapping import snap

SHIFT = np.array((5.3, -7.1, 4.4))
BLOBS = np.random.default_rng(1)
PLACES, WIDTHS = BLOBS.uniform(-10, 230, (420, 3)), BLOBS.uniform(5, 12, 420)


def scene(points):
    """Blobs of light: a function of the place in um, so that nothing is resampled."""
    out = np.zeros(len(points))
    for place, width in zip(PLACES, WIDTHS, strict=True):
        out += np.exp(-((points - place) ** 2).sum(1) / (2 * width**2))
    return out


def levels(volume):
    return [
        Samples(level.grid, volume.dtype, lambda a, b, n=n: volume.read(a, b, n))
        for n, level in enumerate(volume.levels)
    ]


def image(shape, spacing, origin=(0, 0, 0), linear=1.0, shift=(0, 0, 0)):
    """The scene on a grid, `linear` and `shift` taking the grid's world to the scene's."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    world = index * spacing + np.asarray(origin)
    volume = open_volume(
        (1000 * scene(world @ (linear * np.eye(3) if np.isscalar(linear) else linear).T + shift))
        .reshape(shape)
        .astype("float32"),
        spacing=spacing,
        origin=origin,
    )
    return levels(volume)


@pytest.fixture(scope="module")
def pair():
    """The moving image shows the scene SHIFT further, on an anisotropic grid of another spacing."""
    fixed = image((40, 60, 66), (5.0, 3.1, 3.1))
    moving = image((46, 70, 54), (4.2, 3.0, 3.7), origin=(3.0, -5.0, 2.0), shift=-SHIFT)
    return fixed, moving


def test_a_known_shift_is_found_to_a_tenth_of_a_voxel_on_anisotropic_grids(pair):
    rng = np.random.default_rng(0)
    for point in rng.uniform(60, 120, (6, 3)):
        start = point + SHIFT + rng.uniform(-9, 9, 3)
        found = snap(*pair, point, start, within=16)
        assert np.abs((found.point - point - SHIFT) / pair[1][0].grid.spacing).max() < 0.1
        assert found.correlation > 0.98 and found.correlation > found.before
        assert found.shift == pytest.approx(np.linalg.norm(found.point - start))


def test_what_the_transform_turns_is_turned_back(pair):
    turn = Rotation.from_rotvec((0.5, 0.2, -0.3)).as_matrix() * 1.1
    centre = np.array((90.0, 90.0, 90.0))
    # moving(y) shows the scene at x, with y = turn (x - centre) + centre
    inverse = np.linalg.inv(turn)
    moving = image((50, 66, 66), (4.0, 3.0, 3.0), linear=inverse, shift=centre - inverse @ centre)
    point = centre + np.array((6, -9, 12))
    truth = turn @ (point - centre) + centre
    found = snap(pair[0], moving, point, truth + np.array((4, -5, 3)), derivative=turn, within=14)
    assert np.abs((found.point - truth) / moving[0].grid.spacing).max() < 0.1
    plain = snap(pair[0], moving, point, truth + np.array((4, -5, 3)), within=14)
    assert plain.correlation < found.correlation


def test_a_wide_search_begins_on_a_coarser_level(pair, tmp_path):
    data = pair[1][0].read((0, 0, 0), pair[1][0].grid.shape)
    grid = pair[1][0].grid
    volume = open_volume(data, spacing=grid.spacing, origin=grid.origin)
    moving = levels(convert(volume, str(tmp_path / "m.ome.zarr"), chunks=(16, 16, 16), shards=(16, 16, 16)))
    assert len(moving) > 1
    point = np.array((80.0, 90.0, 100.0))
    found = snap(pair[0], moving, point, point + SHIFT + (12, -14, 13), within=24)
    assert np.abs((found.point - point - SHIFT) / moving[0].grid.spacing).max() < 0.1


def test_where_there_is_nothing_to_compare_it_says_so(pair):
    flat = levels(open_volume(np.ones((30, 30, 30), "float32"), spacing=(4, 4, 4)))
    with pytest.raises(InputError, match="cannot snap"):
        snap(flat, pair[1], np.full(3, 60.0), np.full(3, 60.0))
    with pytest.raises(InputError, match="border of the moving image"):
        snap(*pair, np.full(3, 90.0), np.full(3, -50.0))
    with pytest.raises(InputError, match="border of the fixed image"):
        snap(*pair, np.full(3, -90.0), np.full(3, 90.0))
    with pytest.raises(InputError, match="search within 72 µm at most"):
        snap(*pair, np.full(3, 90.0), np.full(3, 90.0), within=500)
    point = np.full(3, 90.0)
    with pytest.raises(InputError, match="no local optimum within 3 µm"):
        snap(*pair, point, point + SHIFT + (0, 11, 0), within=3)
