"""Padding: a constant around the data is found, and its edge pulls nothing; other constants are left alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

import bigreg
from bigreg import load_config, open_volume, register
from bigreg.errors import InputError
from bigreg.pipeline.choosing.choice import chosen_config
from bigreg.pipeline.choosing.copies import small_copy
from bigreg.pipeline.context import looked
from bigreg.pipeline.context.images import LevelImage
from bigreg.pipeline.context.masks import given_masks
from bigreg.pipeline.context.padding import padded, padding_of
from bigreg.pipeline.context.weights import WHOLE
from bigreg.quality.metrics import target_registration_error
from bigreg.transforms.affine import about
from bigreg.volumes import convert

from ..phantoms import SPACING, Beginning, Reached, Seen, begin, rotation, see, through, zeros
from .test_weights import LEVELS, made, whole
from .test_weights import given as mask_of

BACKGROUND = 1300  # of `see`: its camera's offset


def turned(seen: Seen, degrees: float, *, fill: float = 0.0, axis=(1.0, 0.0, 0.0)) -> Seen:
    """Rotated by scipy about its middle, `fill` around."""
    matrix, centre = rotation(degrees, axis), (np.array(seen.data.shape) - 1) / 2
    data = ndimage.affine_transform(
        seen.data, matrix, centre - matrix @ centre, order=1, mode="grid-constant", cval=fill
    )
    return Seen(data, seen.matrix @ about(matrix, centre * SPACING, centre * SPACING))


def deskewed(data: np.ndarray) -> np.ndarray:
    """Planes shifted one after the other, as a stage scan at an angle is."""
    wide = np.zeros((data.shape[0], data.shape[1], data.shape[2] + data.shape[0]), data.dtype)
    for z, plane in enumerate(data):
        wide[z, :, z : z + plane.shape[1]] = plane
    return wide


def missing_tile(data: np.ndarray) -> np.ndarray:
    return np.where(np.indices(data.shape)[1:].min(0) < 20, 0, data).astype(data.dtype)


PADDED = {
    "turned in the plane": lambda data: turned(Seen(data, np.eye(4)), 8).data,
    "turned about any axis": lambda data: turned(Seen(data, np.eye(4)), 20, axis=(1, 2, 0.7)).data,
    "turned, another value": lambda data: turned(Seen(data, np.eye(4)), 8, fill=100).data,
    "deskewed": deskewed,
    "a tile is missing": missing_tile,
    "planes at one side": lambda data: np.pad(data, ((5, 0), (0, 0), (0, 0))),
    "a larger canvas": lambda data: np.pad(data, 6),
    "white": lambda data: np.pad(data, 6, constant_values=65535),
    "a grey of tissue": lambda data: np.pad(data, 6, constant_values=9000),
}


def masked_out(data: np.ndarray) -> np.ndarray:
    """Background set to 0 around the tissue."""
    return np.where(ndimage.gaussian_filter(data.astype(float), 1) > BACKGROUND * 2, data, 0).astype(data.dtype)


def clipped_offset(data: np.ndarray) -> np.ndarray:
    """The camera's offset was subtracted: half the background is 0."""
    return np.clip(data.astype(int) - BACKGROUND, 0, None).astype(data.dtype)


NOT_PADDED = {
    "as recorded": lambda data: data,
    "background set to 0": masked_out,
    "offset subtracted": clipped_offset,
    "8 bits, dark background": lambda data: (masked_out(data) // 257).astype(np.uint8),
    "8 bits, a background of few values": lambda data: (data // 700).astype(np.uint8),
    "a canvas as bright as the background": lambda data: np.pad(data.astype(np.float32) - BACKGROUND, 6),
    "constant": lambda data: np.full_like(data, 7),
    "dead corner": lambda data: np.where((np.indices(data.shape) < 5).all(0), 0, data).astype(data.dtype),
    "saturated bubble in a corner": lambda data: np.where(
        (np.indices(data.shape) ** 2).sum(0) < 400, 65535, data
    ).astype(data.dtype),
}


def volume_of(data: np.ndarray, folder=None):
    if folder is None:
        return open_volume(data, spacing=(SPACING,) * 3, name="fixed")
    return open_volume(convert(data, folder / "fixed.ome.zarr", spacing=(SPACING,) * 3).spec, name="fixed")


@pytest.mark.parametrize("kind", PADDED)
def test_padding_is_found(kind, tmp_path):
    data = PADDED[kind](see().data)
    expected = {"turned, another value": 100.0, "white": 65535.0, "a grey of tissue": 9000.0}.get(kind, 0.0)
    assert padding_of(volume_of(data)) == expected
    assert padding_of(volume_of(np.pad(data, 40, mode="edge"), tmp_path)) == expected  # with a pyramid


@pytest.mark.parametrize("kind", NOT_PADDED)
def test_what_is_no_padding_is_left_alone(kind):
    volume = volume_of(NOT_PADDED[kind](see().data))
    assert padding_of(volume) is None
    config, found = given_masks(load_config(preset="demo"), {"fixed": volume, "moving": volume})
    assert (config.masks.fixed, config.masks.moving, found) == ("none", "none", {})


def test_who_insists_on_padding_is_told_that_there_is_none():
    volume = volume_of(see().data)
    config = load_config(preset="demo", overrides=["masks.fixed=padding"])
    with pytest.raises(InputError, match="masks.fixed=padding: fixed has no padding.*give a mask image, or none"):
        given_masks(config, {"fixed": volume, "moving": volume})


def test_boxes_are_as_the_whole():
    data = turned(see(), 8).data
    data[20:24, 30:33, 28] = 0
    data[:: data.shape[0] - 1, 20, 20] = 0
    every = padded(lambda a, b: data[a[0] : b[0], a[1] : b[1], a[2] : b[2]], data.shape, (0, 0, 0), data.shape, 0)
    for start, stop in (((0, 0, 0), (9, 20, 17)), ((19, 29, 20), (30, 56, 56)), ((3, 1, 40), (4, 2, 41))):
        box = tuple(map(slice, start, stop))
        found = padded(lambda a, b: data[a[0] : b[0], a[1] : b[1], a[2] : b[2]], data.shape, start, stop, 0)
        np.testing.assert_array_equal(found, every[box])


def test_neither_the_value_nor_a_mixture_with_it_counts():
    """The rotation mixes data and fill between them. What stays of it is where a wedge is thinner than two voxels."""
    data = turned(Seen(np.full((20, 60, 60), 1000, np.uint16), np.eye(4)), 5).data
    mixed = (data > 0) & (data < 1000)
    assert mixed.sum() > 0.02 * data.size
    found = padded(lambda a, b: data[a[0] : b[0], a[1] : b[1], a[2] : b[2]], data.shape, (0, 0, 0), data.shape, 0)
    inner = np.zeros(data.shape, bool)
    inner[:, 2:-2, 2:-2] = True  # a wedge lies along the border
    assert (data[~found] > 0).all() and (mixed & inner).any() and not (mixed & inner & ~found).any()
    assert not (found & ~ndimage.binary_dilation(data < 1000, np.ones((3, 3, 3)))).any()  # no more than is next to it


def test_a_dead_voxel_is_no_padding():
    data = turned(see(), 8).data
    data[28, 28, 28] = 0
    found = padded(lambda a, b: data[a[0] : b[0], a[1] : b[1], a[2] : b[2]], data.shape, (0, 0, 0), data.shape, 0)
    assert not found[27:30, 27:30, 27:30].any()


@pytest.mark.parametrize("pyramid", [True, False])
def test_no_level_shows_padding(pyramid, tmp_path):
    data = np.pad(np.full((24, 40, 44), 1000, np.uint16), ((0, 6), (5, 5), (3, 9)))
    data[::3, ::3, ::3] += (data[::3, ::3, ::3] > 0) * np.uint16(2)  # not one value only
    volume = volume_of(data, tmp_path if pyramid else None)
    mask = mask_of("padding", volume)
    store = made(volume, mask, tmp_path)
    for factors in LEVELS:
        image = LevelImage(store, volume, factors, mask)
        seen, weights = whole(image)
        assert seen[weights > WHOLE / 2].min() >= 1000 and 0.3 < (weights > WHOLE / 2).mean() < 0.7
        copy, known, _ = small_copy(volume, factors, finite=False, padding=0.0)
        np.testing.assert_array_equal(copy, seen.astype(np.float32))
        np.testing.assert_array_equal(known, image.weights.counted((0, 0, 0), image.grid.shape))


@pytest.mark.parametrize(
    ("fixed", "moving"),
    [
        (see(seed=1), turned(see(through(rotation(6)), seed=2), 9)),
        (turned(see(seed=1), -7), turned(see(through(rotation(6)), seed=2), 9)),
        (see(seed=1, spoil=zeros(7)), see(through(rotation(6)), seed=2, spoil=zeros(9))),
    ],
    ids=["moving turned", "both turned", "planes missing"],
)
def test_a_start_between_padded_images_is_found(fixed, moving, monkeypatch, thread_client, tmp_path):
    began = begin(monkeypatch, thread_client, str(tmp_path / "r.zarr"), fixed, moving, load_config(preset="rounds"))
    assert began.error is None and began.confidence > 0.9
    assert began.off(fixed, moving) < 0.5


def test_a_look_names_padding_and_a_run_begins_with_its_start(monkeypatch, thread_client, tmp_path):
    images = {
        "fixed": see(seed=1).volume("fixed"),
        "moving": turned(see(through(rotation(6)), seed=2), 9).volume("moving"),
    }
    found = bigreg.doctor(images["fixed"], images["moving"])
    assert found.to_json()["padding"] == {"fixed": None, "moving": 0.0}
    assert "moving: 0;" in dict(found.rows())["padding"]
    out = str(tmp_path / "r.zarr")
    config, choice = chosen_config(images, out=out)
    monkeypatch.setattr("bigreg.pipeline.run.Stages", Beginning)
    answered, known = [], looked.known
    monkeypatch.setattr(looked, "known", lambda *a: answered.append(known(*a)) or answered[-1])
    with pytest.raises(Reached):
        register(*images.values(), out=out, config=config, choice=choice, client=thread_client)
    assert answered[0] is not None


def test_padding_is_looked_for_once(registered, small_config, thread_client, monkeypatch):
    """Who goes on with a run, reads nothing for it, and a run begun before padding was looked for goes on as it was."""
    monkeypatch.setattr("bigreg.pipeline.context.masks.padding_of", lambda *a, **k: pytest.fail("looked for again"))
    fixed, moving, out = registered.fixed, registered.moving, registered.run.store.url
    assert register(fixed, moving, out=out, config=registered.config, client=thread_client).status().state == "finished"


def test_an_edge_of_padding_does_not_pull(pair, registered, thread_client, small_config, tmp_path):
    """Both images end within the canvas, at other places: the map is as good as without canvas."""
    fixed, moving = (np.asarray(image) + image.dtype.type(200) for image in (pair.fixed, pair.moving))
    fixed[:, :12], moving[:, :6], moving[:, -5:] = 0, 0, 0
    run = register((fixed, pair.spacing), (moving, pair.spacing), out=str(tmp_path / "r.zarr"),
                   config=small_config(), client=thread_client)  # fmt: skip
    assert [run.config.masks.fixed, run.config.masks.moving] == ["padding", "padding"]
    index = np.argwhere(pair.mask & (np.indices(fixed.shape)[1] >= 15) & (np.indices(fixed.shape)[1] < 47))[::7]
    points, known = index * np.asarray(pair.spacing), pair.truth[:, *index.T].T.astype(float)
    there, plain = (target_registration_error(r.map_points(points), known).mean for r in (run, registered.run))
    assert there < 1.15 * plain
