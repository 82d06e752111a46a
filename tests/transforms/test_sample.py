"""Sampling on the CPU against torch's own in float64, and a GPU against the CPU."""

import numpy as np
import pytest
import torch

from bigreg.transforms.field import sample


def random(shape, channels=2, count=500, reach=3.0):
    g = torch.Generator().manual_seed(0)
    values = torch.rand(channels, *shape, generator=g)
    size = torch.tensor(shape, dtype=torch.float32)[:, None]
    return values, torch.rand(3, count, generator=g) * (size + 2 * reach) - reach


@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 6, 7), (5, 1, 1), (2, 2, 2)])
def test_linear_sampling_in_float32_is_that_of_float64(shape):
    values, index = random(shape)
    exact = sample(values.double(), index.double())
    torch.testing.assert_close(sample(values, index).double(), exact, atol=2e-6, rtol=0)


def test_samples_are_exact_at_voxel_centres_and_held_beyond_the_border():
    values = torch.rand(1, 4, 5, 6)
    centres = torch.as_tensor(np.indices((4, 5, 6)), dtype=torch.float32)
    assert torch.equal(sample(values, centres), values)
    beyond = torch.tensor([[-5.0, 9.0], [2.0, 2.0], [3.0, 3.0]])
    assert torch.equal(sample(values, beyond)[0], values[0, [0, 3], 2, 3])


def test_a_position_that_is_no_number_reads_nothing_beyond_the_array():
    values = torch.rand(1, 4, 5, 6)
    nowhere = torch.full((3, 2), float("nan"))
    nowhere[:, 1] = float("inf")
    assert torch.equal(sample(values, nowhere)[0], torch.stack([values[0, 0, 0, 0], values[0, 3, 4, 5]]))


def test_slices_and_broadcasts_are_sampled_as_they_are_seen():
    values, index = random((6, 7, 8))
    strided, turned = values[:, ::2, :, 1:], index.T.contiguous().T
    exact = sample(strided.double(), turned.double())
    torch.testing.assert_close(sample(strided, turned).double(), exact, atol=2e-6, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_a_gpu_samples_as_the_cpu_does(mode):
    values, index = random((9, 8, 7))
    there = sample(values.cuda(), index.cuda(), mode).cpu()
    close = (there - sample(values, index, mode)).abs() < 1e-4
    assert float(close.float().mean()) > (0.99 if mode == "nearest" else 0.9999)
