"""Patches come from where they say, whichever process reads them, and only their own voxels are read."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from bigreg.errors import ConfigError, InputError
from bigreg.geometry import Grid
from bigreg.training.augment import turned
from bigreg.training.config import Augment, load_training
from bigreg.training.patches import Purpose, Sampler, stream
from bigreg.training.sources import Opened, Patch, Pooled
from bigreg.volumes import Volume, block_mean, open_volume

SPACING = [3.0, 2.0, 2.0]


def save(path, data):
    array = zarr.create_array(str(path), shape=data.shape, chunks=(16, 16, 16), dtype=data.dtype)
    array[:] = data
    return {"path": str(path), "spacing": SPACING}


def sampler(settings, part="train", margin=0, **data):
    data = {**settings["data"], **data}
    config = load_training({**settings, "data": data, "losses": [{"name": "lncc"}]})
    sources = [Opened(s, config.data.intensity, i) for i, s in enumerate(config.data.sources)]
    return Sampler(sources, config.data, margin=margin, part=part)


def draw(sampler, *key):
    return sampler.draw(stream(0, Purpose.DRAW, *key))


def scaled(data):
    low, high = np.percentile(data, [1.0, 99.9])
    return (data - low) / (high - low)


@pytest.mark.parametrize("downsample", [1, 2])
def test_a_patch_of_one_image_is_voxels_of_the_image_exactly(settings, volume, downsample):
    patch = draw(sampler(settings, downsample=[downsample], tissue={"least": 0, "most": 1, "share": 0}), 0, 0)
    data = np.asarray(zarr.open_array(volume, mode="r")).astype(np.float32)
    factors = {1: (1, 1, 1), 2: (1, 2, 2)}[downsample]  # z is coarser already, so y and x are halved first
    image = block_mean(scaled(data), factors)
    assert patch.spacing.tolist() == [3.0 * factors[0], 2.0 * factors[1], 2.0 * factors[2]]
    places = np.lib.stride_tricks.sliding_window_view(image, (16, 16, 16))
    inside = patch.masks[0] > 0
    if inside.all():
        gaps = np.abs(places - patch.images[0]).max((3, 4, 5))
        assert gaps.min() < 2e-3
    else:
        assert downsample == 2  # the image is thinner than the patch there


def test_the_same_key_gives_the_same_patch_and_another_key_another(settings):
    s = sampler(settings, tissue={"least": 0, "most": 1, "share": 0})
    assert np.array_equal(draw(s, 3, 1).images, draw(s, 3, 1).images)
    assert not np.array_equal(draw(s, 3, 1).images, draw(s, 3, 2).images)


@pytest.mark.parametrize("margin", [0, 3])
def test_training_and_held_out_patches_share_no_voxel(settings, tmp_path, margin):
    ramp = np.broadcast_to(np.arange(1, 101, dtype=np.uint16), (30, 30, 100))
    source = {"image": save(tmp_path / "ramp.zarr", np.ascontiguousarray(ramp))}
    rule = {"least": -1, "most": 2, "share": 0}
    values = {}
    for part in ("train", "held_out"):
        s = sampler(settings, part, margin, sources=[source], tissue=rule, held_out=0.3)
        low, high = s.sources[0].scale["image"]
        drawn = np.stack([draw(s, i).images for i in range(20)]) * (high - low) + low
        values[part] = drawn.min(), drawn.max()
    assert values["train"][1] < 70.5 < values["held_out"][0]
    assert values["train"][0] < 8 and values["held_out"][1] > 94


def test_only_the_box_of_the_patch_is_read(settings, monkeypatch):
    s = sampler(settings, tissue={"least": 0, "most": 1, "share": 0})
    boxes = []
    plain = Volume.read
    monkeypatch.setattr(Volume, "read", lambda self, a, b, level=0: boxes.append((a, b)) or plain(self, a, b, level))
    draw(s, 0)
    assert len(boxes) == 1
    assert np.prod(np.subtract(boxes[0][1], boxes[0][0])) <= 17**3


def test_means_are_made_of_the_coarsest_level_that_serves(data_folder):
    volume = open_volume(str(data_folder / "lsfm_mouse" / "brain_25um.ome.zarr"))
    pooled = Pooled(volume, (8, 8, 8))
    assert pooled.level > 0
    plain = Pooled(volume, (8, 8, 8))
    plain.level, plain.rest = 0, (8, 8, 8)
    box = (20, 10, 20), (24, 14, 24)
    assert np.abs(pooled.read(*box).astype(float) - plain.read(*box)).max() <= 2  # each level was rounded


def test_a_real_pair_comes_to_one_frame_by_its_affine_and_its_orientations(settings, tmp_path, volume):
    fixed = np.asarray(zarr.open_array(volume, mode="r"))
    moving = np.ascontiguousarray(np.roll(fixed, (2, 4, 4), (0, 1, 2))[:, ::-1].transpose(0, 2, 1))
    specs = [save(tmp_path / "f.zarr", fixed), save(tmp_path / "m.zarr", moving)]
    # fixed axes start at anterior, superior, right; moving has y and x exchanged, and what was y runs the other way
    specs[0]["orientation"], specs[1]["orientation"] = "asr", "ari"
    plain = Opened(load_training(pair(settings, *specs)).data.sources[0], sampler(settings).data.intensity, 0)
    shift = np.eye(4)
    shift[:3, 3] = np.array([2, 4, 4]) * SPACING  # in axes of fixed, to canonical moving
    affine = plain.frames.canonical @ shift
    s = sampler(settings, sources=[{"fixed": specs[0], "moving": specs[1], "affine": affine.tolist()}], held_out=0.3)
    patch = draw(s, 1)
    both = patch.masks.all(0)
    assert both.mean() > 0.5
    gap = np.abs(patch.images[0] - patch.images[1])[both]
    # half of the shift is a whole number of voxels, so both are the image itself but for the seam of the roll
    assert np.median(gap) < 1e-3 and (gap < 1e-2).mean() > 0.7


def pair(settings, fixed, moving, **more):
    source = {"fixed": fixed, "moving": moving, **more}
    return {**settings, "data": {**settings["data"], "sources": [source]}, "losses": [{"name": "lncc"}]}


def test_labels_and_landmarks_go_with_a_pair(settings, tmp_path, volume):
    fixed = np.asarray(zarr.open_array(volume, mode="r"))
    labels = (np.indices(fixed.shape).sum(0) // 20).astype(np.uint16)
    spec, label = save(tmp_path / "f.zarr", fixed), save(tmp_path / "l.zarr", labels)
    table = tmp_path / "points.csv"
    table.write_text("fixed_z,fixed_y,fixed_x,moving_z,moving_y,moving_x\n30,20,40,33,20,44\n")
    more = {"fixed_labels": label, "moving_labels": label, "landmarks": str(table)}
    opened = Opened(
        load_training(pair(settings, spec, spec, **more)).data.sources[0], sampler(settings).data.intensity, 0
    )
    patch = opened.read(Grid.from_spacing((12, 12, 12), SPACING, (15.0, 10.0, 20.0)))
    assert np.array_equal(patch.labels[0], labels[5:17, 5:17, 10:22])
    assert np.allclose(patch.points, [[[5, 5, 10]], [[6, 5, 12]]])
    table.write_text("fixed_z\n1\n")
    with pytest.raises(InputError, match="landmarks .* need columns"):
        Opened(load_training(pair(settings, spec, spec, **more)).data.sources[0], sampler(settings).data.intensity, 0)


def test_a_blank_image_and_a_patch_that_does_not_fit_are_told(settings):
    with pytest.raises(InputError, match="enough tissue"):
        draw(sampler(settings, tissue={"least": 5.0, "most": 9.0}), 0)
    with pytest.raises(ConfigError, match="make data.patch smaller"):
        sampler(settings, "held_out", patch=64)


def test_mirrored_and_exchanged_axes_take_their_landmarks_along():
    rng = np.random.default_rng(0)
    for _ in range(20):
        images = np.zeros((2, 10, 14, 14), np.float32)
        points = rng.integers(0, 10, (2, 1, 3))
        for image, point in zip(images, points[:, 0], strict=True):
            image[tuple(point)] = 1
        out = turned(
            Patch(images, images.copy(), np.array([4.0, 2.0, 2.0]), points=points.astype(float)), Augment(), rng
        )
        assert out.images.shape == images.shape and out.spacing.tolist() == [4.0, 2.0, 2.0]
        assert all(out.images[side][tuple(out.points[side, 0].astype(int))] == 1 for side in (0, 1))


def test_axes_of_different_spacing_are_never_exchanged():
    rng = np.random.default_rng(0)
    image = np.broadcast_to(np.arange(8.0, dtype=np.float32)[:, None, None], (8, 8, 8))[None]
    for _ in range(20):
        out = turned(Patch(image, image, np.array([4.0, 2.0, 2.0])), Augment(), rng).images[0]
        assert np.ptp(out[0]) == 0
