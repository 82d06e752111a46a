"""One function of world position seen on two different grids: the true map is known, and half a voxel is not lost.

The images have different shapes, spacings and origins, anisotropic and odd, so that a mistake in axis order, units,
voxel centres or direction moves something by at least half a voxel.
"""

from __future__ import annotations

import numpy as np
import pytest

from bigreg import open_volume, register
from bigreg.volumes import convert

IDENTITY = np.eye(4)
CENTRES = np.random.default_rng(7).uniform(0, 1, (160, 3)) * (120.0, 130.0, 150.0)
WIDTHS = np.random.default_rng(8).uniform(3.5, 7.0, 160)
HEIGHTS = np.random.default_rng(9).uniform(300, 1500, 160)


def anatomy(points: np.ndarray) -> np.ndarray:
    """(..., 3) world um to intensity: blobs of several sizes, asymmetric in every axis."""
    value = np.full(points.shape[:-1], 100.0)
    for centre, width, height in zip(CENTRES, WIDTHS, HEIGHTS, strict=True):
        value += height * np.exp(-((points - centre) ** 2).sum(-1) / (2 * width**2))
    return value


def seen(shape, spacing, origin, matrix=IDENTITY) -> np.ndarray:
    """The anatomy on a grid; `matrix` takes the grid's world to the anatomy's."""
    index = np.moveaxis(np.indices(shape), 0, -1) * np.asarray(spacing) + origin
    return anatomy(index @ matrix[:3, :3].T + matrix[:3, 3]).astype("uint16")


FIXED = ((33, 45, 51), (3.6, 2.8, 2.9), (1.0, 2.0, 0.5))
MOVING = ((41, 39, 63), (2.9, 3.3, 2.4), (-2.0, 4.0, 1.0))


def affine_matrix():
    angle = np.deg2rad(6.0)
    matrix = np.eye(4)
    matrix[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[0, 0] = 1.04
    matrix[:3, 3] = (-3.0, 7.0, -5.0)
    return matrix


def inner(shape, spacing, origin, margin=9):
    """Voxel centres away from the border, world um."""
    axes = [np.arange(margin, n - margin, 3) for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3) * np.asarray(spacing) + origin


@pytest.mark.parametrize("known", ["nothing", "affine"])
def test_the_known_map_between_two_different_grids_is_found(known, thread_client, small_config, tmp_path):
    """moving shows the anatomy through `matrix`: fixed_to_moving must be its inverse, to a tenth of a voxel."""
    matrix = np.eye(4) if known == "nothing" else affine_matrix()
    fixed = open_volume(seen(*FIXED), spacing=FIXED[1], origin=FIXED[2], name="fixed")
    moving = open_volume(seen(*MOVING, matrix), spacing=MOVING[1], origin=MOVING[2], name="moving")
    run = register(fixed, moving, out=str(tmp_path / "r.zarr"), config=small_config(), client=thread_client)
    points = inner(*FIXED)
    truth = (points - matrix[:3, 3]) @ np.linalg.inv(matrix[:3, :3]).T
    inside = moving.grid().contains(truth)
    error = np.linalg.norm(run.map_points(points)[inside] - truth[inside], axis=1)
    assert inside.mean() > 0.5
    assert np.median(error) < 0.1 * min(MOVING[1])
    # The bias is what half a voxel would be: a tenth of that is far from it.
    bias = (run.map_points(points)[inside] - truth[inside]).mean(0)
    assert np.abs(bias / np.asarray(MOVING[1])).max() < 0.05
    back = np.linalg.norm(run.map_points(truth[inside], "moving_to_fixed") - points[inside], axis=1)
    assert np.median(back) < 0.1 * min(FIXED[1])
    # The warped image is the anatomy on the fixed grid, pyramid levels included.
    warped = open_volume(run.store.path("warped"))
    for level, placed in enumerate(warped.levels):
        grid = placed.grid
        data = warped.read((0, 0, 0), grid.shape, level).astype(float)
        world = grid.index_to_world(np.moveaxis(np.indices(grid.shape), 0, -1).reshape(-1, 3))
        expected = anatomy(world).reshape(grid.shape)
        core = tuple(slice(max(1, 9 // 2**level), -max(1, 9 // 2**level)) for _ in range(3))
        both = data[core] > 0
        assert np.corrcoef(data[core][both], expected[core][both])[0, 1] > (0.99 if level == 0 else 0.97)


def test_orientation_codes_bring_a_turned_image_back(thread_client, small_config, tmp_path):
    """moving is stored with permuted and flipped axes; its own world runs along its own axes."""
    fixed = open_volume(seen(*FIXED), spacing=FIXED[1], origin=FIXED[2], orientation="asr", name="fixed")
    upright = seen(*MOVING)
    # Axes of "asr" are (a->p, s->i, r->l); those of "ipl" are (i->s, p->a, l->r).
    turned = upright.transpose(1, 0, 2)[::-1, ::-1, ::-1]
    spacing = tuple(MOVING[1][a] for a in (1, 0, 2))
    path = tmp_path / "turned.ome.zarr"
    convert(turned, path, spacing=spacing)
    moving = open_volume(path, orientation="ipl", name="moving")
    run = register(fixed, moving, out=str(tmp_path / "r.zarr"), config=small_config(), client=thread_client)
    points = inner(*FIXED)
    index = (points - MOVING[2]) / MOVING[1]  # where they are in the upright image
    truth = ((np.array(MOVING[0]) - 1 - index) * [1, 1, 1])[:, [1, 0, 2]] * spacing
    inside = moving.grid().contains(truth)
    error = np.linalg.norm(run.map_points(points)[inside] - truth[inside], axis=1)
    assert inside.mean() > 0.5
    assert np.median(error) < 0.1 * min(spacing)
    assert np.linalg.det(run.affine[:3, :3]) == pytest.approx(1.0, abs=0.05)


def test_an_affine_of_none_leaves_the_images_where_they_lie(thread_client, small_config, tmp_path):
    fixed = open_volume(seen(*FIXED), spacing=FIXED[1], origin=FIXED[2], name="fixed")
    moving = open_volume(seen(*MOVING), spacing=MOVING[1], origin=MOVING[2], name="moving")
    config = small_config("affine.kind=none", "ladder.coarsest=1", "output.warped=false")
    run = register(fixed, moving, out=str(tmp_path / "r.zarr"), config=config, client=thread_client)
    np.testing.assert_array_equal(run.affine, np.eye(4))
    points = inner(*FIXED)
    error = np.linalg.norm(run.map_points(points) - points, axis=1)
    assert np.nanmedian(error) < 0.1 * min(MOVING[1])
