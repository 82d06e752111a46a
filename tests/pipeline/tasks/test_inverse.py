"""The inverse of a half-way map is what it is, and is found by reading what a block needs, however far things moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from bigreg.geometry import Grid
from bigreg.pipeline.tasks.inverse import AROUND, SPREAD, Half, solve, undone
from bigreg.transforms.positions import Positions

SHAPE, SPACING = (96, 128, 160), (8.0, 4.0, 4.0)
EXTENT = np.multiply(SHAPE, SPACING)
TOLERANCE = 0.01


@dataclass
class Counted:
    """An array that counts the samples that are read of it."""

    values: np.ndarray
    read_samples: int = 0
    largest: int = 0

    def read(self, start, stop):
        box = self.values[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        self.read_samples += box[0].size
        self.largest = max(self.largest, box[0].size)
        return box


def bow(amount_um, wavelength=1.0):
    """A bend: planes shift along y and z as a sine of x, as a tissue that is bowed."""

    def displacement(points):
        phase = np.pi * wavelength * points[:, 2] / EXTENT[2]
        return np.stack([0.3 * amount_um * np.sin(phase + 0.4), amount_um * np.sin(phase), 0 * phase], 1)

    return displacement


def wrinkled(points):
    return 9.0 * np.sin(points[:, [1, 2, 0]] / 30.0 + [0.0, 1.0, 2.0])


def shift(points):
    return np.broadcast_to([150.0, -160.0, 210.0], points.shape)


MAPS = {
    "nothing": lambda points: 0 * points,
    "wrinkles": wrinkled,
    "shift": shift,
    "bow of a third": bow(EXTENT[1] / 3),
    "bow and wrinkles": lambda points: bow(EXTENT[1] / 3)(points) + wrinkled(points),
    "steep": bow(EXTENT[1] / 3, wavelength=2.0),
}


def sampled(displacement, factor):
    grid = Grid.from_spacing(SHAPE, SPACING).downsampled((factor,) * 3)
    points = np.moveaxis(np.indices(grid.shape), 0, -1).reshape(-1, 3) * grid.spacing + grid.origin
    values = displacement(points).T.reshape(3, *grid.shape).astype(np.float32)
    return Half(Counted(values), grid)


def halves_of(displacement, factors=(8, 4, 2, 1)):
    return [sampled(displacement, factor) for factor in factors]


def block(start, stop):
    """Points of a block, a third of a sample off those of the map."""
    grid = Grid.from_spacing(SHAPE, SPACING).cropped(start, stop)
    third = torch.tensor(SPACING).reshape(3, 1, 1, 1) / 3
    return Positions.of_grid(grid).moved(third)


BLOCKS = {"corner": ((0, 0, 0), (32, 32, 32)), "middle": ((32, 48, 64), (64, 80, 96)), "last": ((64, 96, 128), SHAPE)}


@pytest.mark.parametrize("where", BLOCKS)
@pytest.mark.parametrize("kind", MAPS)
def test_it_is_the_inverse_in_the_whole_map(kind, where):
    halves, y = halves_of(MAPS[kind]), block(*BLOCKS[where])
    reach = float(np.abs(halves[-1].array.values).max())
    found, left = undone(halves, y, reach, TOLERANCE)
    everything = torch.as_tensor(halves[-1].array.values)
    expected, _ = solve(y, everything, halves[-1].grid, TOLERANCE)
    step = torch.tensor(SPACING).reshape(3, 1, 1, 1)
    assert left <= TOLERANCE
    assert float(((found - expected) / step).abs().max()) < 4 * TOLERANCE
    back = found + y.moved(found).sample(
        lambda a, b: everything[:, a[0] : b[0], a[1] : b[1], a[2] : b[2]].numpy(), halves[-1].grid
    )
    assert float((back / step).abs().max()) < 2 * TOLERANCE


@pytest.mark.parametrize("kind", MAPS)
def test_reading_does_not_grow_with_the_displacement(kind):
    """What is read is where the inverse lies, and the stated margins."""
    halves, y = halves_of(MAPS[kind]), block(*BLOCKS["middle"])
    reach = float(np.abs(halves[-1].array.values).max())
    found, _ = undone(halves, y, reach, TOLERANCE)
    read = halves[-1].array.read_samples
    step = np.array(SPACING)
    low, high = y.moved(found).bounds()
    moved = found.reshape(3, -1).numpy()
    # On each side: the margins, a sample to interpolate from, and as much again for what a few points can miss.
    margin = AROUND + SPREAD * np.ptp(moved, axis=1) / step + 2
    assert read <= np.prod((high - low) / step + 1 + 2 * margin)
    assert max(half.array.largest for half in halves[:-1]) <= read


def test_three_times_the_bow_of_a_larger_volume_reads_as_much():
    """The same slope over a longer way: displacement grows, what a block needs does not."""
    read = []
    for scale in (2, 6):
        grid = Grid.from_spacing((40, 64 * scale, 160 * scale), SPACING)

        def values(grid, amount=40.0 * scale, length=EXTENT[2] * scale):
            x = np.arange(grid.shape[2]) * grid.spacing[2] + grid.origin[2]
            out = np.zeros((3, *grid.shape), np.float32)
            out[1] = amount * np.sin(np.pi * x / length)
            return out

        halves = []
        for factor in (8, 4, 2, 1):
            coarse = grid.downsampled((factor,) * 3)
            halves.append(Half(Counted(values(coarse)), coarse))
        start = (4, 16 * scale, 40 * scale)
        part = Positions.of_grid(grid.cropped(start, np.add(start, 32)))
        undone(halves, part, 40.0 * scale, TOLERANCE)
        read.append(halves[-1].array.read_samples)
    assert read[1] <= read[0] * (1 + 2 / 32) ** 3  # a sample more or less at each side of 32


def test_without_coarser_maps_it_is_found_too():
    halves, y = halves_of(MAPS["bow and wrinkles"], factors=(1,)), block(*BLOCKS["middle"])
    reach = float(np.abs(halves[-1].array.values).max())
    found, left = undone(halves, y, reach, TOLERANCE)
    expected, _ = solve(y, torch.as_tensor(halves[-1].array.values), halves[-1].grid, TOLERANCE)
    assert left <= TOLERANCE and float((found - expected).abs().max()) < 0.2


def test_coarser_maps_that_say_nothing_or_nonsense_cost_reading_and_no_more():
    y = block(*BLOCKS["middle"])
    right = sampled(MAPS["bow and wrinkles"], 1)
    reach = float(np.abs(right.array.values).max())
    expected, _ = solve(y, torch.as_tensor(right.array.values), right.grid, TOLERANCE)
    for wrong in (MAPS["nothing"], lambda points: -MAPS["bow of a third"](points)):
        found, left = undone([sampled(wrong, 4), right], y, reach, TOLERANCE)
        assert left <= TOLERANCE and float((found - expected).abs().max()) < 0.2


def test_a_map_that_folds_is_answered_with_its_residual():
    """Where nothing is the inverse, the residual says so, as it did with everything read."""
    halves = halves_of(lambda points: 60.0 * np.sin(points[:, [2, 0, 1]] / 12.0))
    y = block(*BLOCKS["middle"])
    _, left = undone(halves, y, 60.0, TOLERANCE)
    assert np.isfinite(left) and left > TOLERANCE


def test_scattered_points_are_inverted_too():
    halves = halves_of(MAPS["bow and wrinkles"])
    points = np.random.default_rng(0).uniform(0.1, 0.9, (500, 3)) * EXTENT
    y = Positions.of_points(points)
    found, left = undone(halves, y, float(np.abs(halves[-1].array.values).max()), TOLERANCE)
    moved = y.moved(found)
    everything = halves[-1].array.values
    back = found + moved.sample(lambda a, b: everything[:, a[0] : b[0], a[1] : b[1], a[2] : b[2]], halves[-1].grid)
    assert left <= TOLERANCE and float(back.abs().max()) < 0.2
