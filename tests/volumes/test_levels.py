"""Level shapes against their stated spacings, with the ramp: each voxel of each level lies where the volume says."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import zarr

from bigreg.errors import CorruptDataError, InputError
from bigreg.volumes import open_volume
from bigreg.volumes.levels import factors_by_shape

from .ramps import SPACING, check_ramp, sampled, write_n5

SHAPE = (16, 24, 32)
UNITS = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]


def write(folder, scales, factors=((1, 1, 1), (1, 2, 2)), *, translate=False, shape=SHAPE, axes=UNITS):
    """An image of block means; `scales` are stated (None for none), whatever the factors are."""
    root = zarr.create_group(folder / "a.ome.zarr", zarr_format=2)
    datasets = []
    for number, (f, scale) in enumerate(zip(np.asarray(factors, dtype=float), scales, strict=True)):
        size = tuple(int(n // k) for n, k in zip(shape, f, strict=True))
        data = sampled(size, SPACING * f, (f - 1) / 2 * SPACING)
        root.create_array(str(number), shape=size, chunks=(8, 8, 8), dtype="f4")[:] = data
        dataset = {"path": str(number)}
        if scale is not None:
            dataset["coordinateTransformations"] = [{"type": "scale", "scale": list(map(float, scale))}]
            if translate:
                shift = [float(v) for v in (f - 1) / 2 * SPACING]
                dataset["coordinateTransformations"].append({"type": "translation", "translation": shift})
        datasets.append(dataset)
    root.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    return folder / "a.ome.zarr"


@pytest.mark.parametrize(
    "second",
    [SPACING, SPACING * 2, SPACING * [1, 4, 4], None],
    ids=["the same scale", "halved along z too", "a wrong factor", "no scale"],
)
def test_wrong_or_missing_factors_follow_from_the_shapes_and_are_told(tmp_path, caplog, second):
    with caplog.at_level(logging.WARNING):
        volume = open_volume(write(tmp_path, [SPACING, second]))
    assert volume.levels[1].factors == (1, 2, 2)
    check_ramp(volume)
    assert "(1, 2, 2)" in volume.notes[0] and volume.notes[0] in caplog.text


def test_stated_factors_that_fit_are_kept_and_nothing_is_told(tmp_path):
    volume = open_volume(write(tmp_path, [SPACING, SPACING * [1, 2, 2]], translate=True))
    check_ramp(volume)
    assert not volume.notes


def test_a_level_that_fits_no_whole_factors_is_left_out_and_told(tmp_path):
    path = write(tmp_path, [SPACING, SPACING * 2])
    zarr.open_group(path).create_array("1", shape=(11, 17, 21), chunks=(8, 8, 8), dtype="f4", overwrite=True)
    volume = open_volume(path)
    assert len(volume.levels) == 1 and "left out" in volume.notes[0]


def test_a_matrix_beside_a_level_without_a_scale_is_refused_by_name(tmp_path):
    path = write(tmp_path, [None, SPACING * 2])
    zarr.open_group(path).attrs["bigreg"] = {"matrix": np.eye(4)[:3].tolist()}
    with pytest.raises(CorruptDataError, match="level '0' no scale"):
        open_volume(path)


def test_levels_in_another_order_are_read_finest_first(tmp_path):
    path = write(tmp_path, [SPACING, SPACING * [1, 2, 2]], translate=True)
    group = zarr.open_group(path)
    multiscale = group.attrs["multiscales"][0]
    group.attrs["multiscales"] = [multiscale | {"datasets": multiscale["datasets"][::-1]}]
    volume = open_volume(path)
    assert [level.grid.shape for level in volume.levels] == [SHAPE, (16, 12, 16)]
    check_ramp(volume)


def test_without_units_a_given_spacing_places_all_levels(tmp_path):
    bare = [{"name": n, "type": "space"} for n in "zyx"]
    path = write(tmp_path, [SPACING, SPACING * [1, 2, 2]], axes=bare, translate=True)
    with pytest.raises(InputError, match=r"scale \(3, 1.5, 0.7\) .* has no unit.*open_volume's spacing 3 1.5 0.7"):
        open_volume(path)
    check_ramp(open_volume(path, spacing=SPACING))


def test_n5_levels_without_factors_follow_from_their_shapes(tmp_path):
    for number, f in enumerate(np.array([[1.0, 1, 1], [1, 2, 2], [2, 4, 4]])):
        size = tuple(int(n // k) for n, k in zip(SHAPE, f, strict=True))
        write_n5(tmp_path / f"a.n5/s{number}", sampled(size, SPACING * f, (f - 1) / 2 * SPACING), {})
    (tmp_path / "a.n5/attributes.json").write_text(json.dumps({"pixelResolution": list(SPACING[::-1])}))
    volume = open_volume(tmp_path / "a.n5")
    assert [level.factors for level in volume.levels] == [(1, 1, 1), (1, 2, 2), (2, 4, 4)]
    check_ramp(volume)
    check_ramp(open_volume(tmp_path / "a.n5", dataset="s1"))


@pytest.mark.parametrize(
    ("size", "factor"), [(8, 2), (9, 2), (4, 4), (5, 4), (17, 1), (3, 8), (6, 3), (2, 8), (11, None), (16, None)]
)
def test_factors_by_shape(size, factor):
    found = factors_by_shape((17, 16, 16), (size, 16, 16))
    assert found == (None if factor is None else (factor, 1, 1))
