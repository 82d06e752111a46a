"""Our fields in the hands of another program: ngff-zarr reads them and resamples an image to where we say it goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import dask.array as da
import ngff_zarr
import numpy as np
import pytest
from ngff_zarr.v06.zarr_metadata import Bijection
from scipy.ndimage import gaussian_filter, map_coordinates

from bigreg import storage
from bigreg.geometry import Grid
from bigreg.transforms import ngff

FIXED = Grid.from_spacing((21, 33, 40), (5.0, 2.0, 2.5), (10.0, -4.0, 3.0))
MOVING = Grid.from_spacing((23, 38, 44), (5.5, 2.2, 2.6), (0.0, -9.0, -4.0))
AFFINE = np.array([[1.02, 0.03, -0.01, 3.0], [-0.02, 0.97, 0.02, -5.0], [0.01, 0.0, 1.01, 4.0], [0.0, 0.0, 0.0, 1.0]])
DIMS = ("z", "y", "x")


@dataclass(frozen=True)
class Way:
    """One direction as it was meant, in memory: x -> affine(x + d(x))."""

    source: Grid
    target: Grid
    grid: Grid
    displacements: np.ndarray
    affine: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        index = self.grid.world_to_index(points).T
        moved = points + np.stack([map_coordinates(d, index, order=1, mode="nearest") for d in self.displacements]).T
        return moved @ self.affine[:3, :3].T + self.affine[:3, 3]


@pytest.fixture(scope="module")
def ways() -> dict[str, Way]:
    """Two smooth fields, each coarser than its image, that move points by many voxels (no inverses of each other)."""
    random = np.random.default_rng(0)
    out = {}
    for name, source, target, affine in (
        ("fixed_to_moving", FIXED, MOVING, AFFINE),
        ("moving_to_fixed", MOVING, FIXED, np.linalg.inv(AFFINE)),
    ):
        grid = source.resampled((9.0, 7.0, 7.0))
        smooth = [gaussian_filter(random.normal(size=grid.shape), 1.5) * length for length in (60.0, 30.0, 30.0)]
        out[name] = Way(source, target, grid, np.stack(smooth).astype(np.float32), affine)
    return out


@pytest.fixture(scope="module")
def transforms(ways: dict[str, Way], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, on disk as a scene."""
    root = tmp_path_factory.mktemp("run") / "transforms"
    for name, way in ways.items():
        url, (source, _, target) = str(root / name), name.split("_")
        levels = [way.grid, way.grid.downsampled((2, 2, 2))]
        ngff.create_field(url, levels, input_name=source, output_name=target, chunks=(8, 8, 8), shards=(16, 16, 16))
        storage.open_array(ngff.level_url(url, 0), write=True).write((0, 0, 0, 0), way.displacements)
    ngff.write_scene(str(root), fixed=FIXED, moving=MOVING, affine=AFFINE)
    return root


def as_ngff(grid: Grid, values: np.ndarray) -> ngff_zarr.NgffImage:
    place = {
        "scale": dict(zip(DIMS, grid.spacing, strict=True)),
        "translation": dict(zip(DIMS, grid.origin, strict=True)),
    }
    return ngff_zarr.NgffImage(data=da.from_array(values, chunks=16), dims=DIMS, **place)


def test_the_schemas_of_the_format_accept_field_and_scene(transforms):
    field = ngff_zarr.from_ome_zarr(str(transforms / "fixed_to_moving"), validate=True)
    assert field.images[0].axes_types == {"c": "displacement"}
    assert [image.data.shape[0] for image in field.images] == [3, 3]
    scene = ngff_zarr.NgffScene.from_ome_zarr(str(transforms), validate=True)
    (bijection,) = scene.coordinateTransformations
    assert isinstance(bijection, Bijection)
    assert (bijection.input.name, bijection.output.name) == ("fixed", "moving")


@pytest.mark.parametrize("direction", ["fixed_to_moving", "moving_to_fixed"])
def test_it_resamples_with_our_files_to_what_we_meant(ways, transforms, direction):
    way = ways[direction]
    (bijection,) = ngff_zarr.NgffScene.from_ome_zarr(str(transforms)).coordinateTransformations
    sequence = bijection.forward if direction == "fixed_to_moving" else bijection.inverse
    # ngff-zarr 0.50 turns each step into an ITK transform but not a sequence that holds a field; ITK applies the last
    # of a list first.
    fields = {direction: ngff_zarr.from_ome_zarr(str(transforms / direction))}
    steps = [ngff_zarr.ngff_transform_to_itk_transform(s, DIMS, fields=fields) for s in sequence.transformations]
    chain = [step for part in reversed(steps) for step in part]

    texture = gaussian_filter(np.random.default_rng(1).normal(size=way.target.shape), 2.0)
    texture = (texture / texture.std()).astype(np.float32)
    blank = np.zeros(way.source.shape, dtype=np.float32)
    theirs = ngff_zarr.resample(chain, as_ngff(way.source, blank), as_ngff(way.target, texture))

    points = way.source.index_to_world(np.indices(way.source.shape).reshape(3, -1).T)
    index = way.target.world_to_index(way(points))
    inside = np.all((index >= 0) & (index <= np.array(way.target.shape) - 1), axis=1)
    expected = map_coordinates(texture, index[inside].T, order=1)
    assert inside.mean() > 0.5
    assert np.abs(np.asarray(theirs.data).ravel()[inside] - expected).max() < 1e-4


def test_a_field_that_it_writes_is_read_in_place(tmp_path):
    random = np.random.default_rng(2)
    values = random.normal(size=(3, 7, 9, 12)).astype(np.float32)
    image = ngff_zarr.NgffImage(
        data=da.from_array(values),
        dims=("c", *DIMS),
        scale={"c": 1.0, "z": 4.0, "y": 1.5, "x": 2.0},
        translation={"c": 0.0, "z": -3.0, "y": 0.25, "x": 8.0},
        axes_units=dict.fromkeys(DIMS, "micrometer"),
        axes_types={"c": "displacement"},
    )
    declared = ngff_zarr.declare_field_transform(ngff_zarr.to_multiscales(image, scale_factors=[]))
    ngff_zarr.to_ome_zarr(str(tmp_path / "field"), declared, version="0.6")
    field = ngff.FieldReader(str(tmp_path / "field"))
    assert field.grids == [Grid.from_spacing((7, 9, 12), (4.0, 1.5, 2.0), (-3.0, 0.25, 8.0))]
    assert np.array_equal(field.read(0, (0, 0, 0), (7, 9, 12)), values)
