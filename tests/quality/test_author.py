"""The figures of the InvGAN paper against values that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bigreg.quality.author import (
    author_correlation,
    author_information,
    information_bits,
    landmark_distance_mm,
    paper_figures,
)


def column(*values):
    return np.array(values, dtype=float).reshape(-1, 1, 1)


def test_author_correlation_subtracts_the_mean_along_z_of_each_column():
    a = np.stack([column(1, 2, 3), column(11, 12, 13)], axis=1)[..., 0]
    b = np.stack([column(2, 4, 6), column(3, 2, 1)], axis=1)[..., 0]
    # columns less their means: (-1 0 1), (-1 0 1) against (-2 0 2), (1 0 -1): products 4 - 2, squares 4 and 10
    assert author_correlation(a, b) == pytest.approx(2 / math.sqrt(4 * 10))


def test_author_correlation_does_not_see_what_differs_between_columns_alone():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(5, 4, 3))
    assert author_correlation(a, a + rng.normal(size=(4, 3))) == pytest.approx(1.0)
    assert math.isnan(author_correlation(np.ones((5, 4, 3)), a))


def test_author_information_of_two_equal_halves_is_one_bit():
    a = column(0, 0, 1, 1)
    assert author_information(a, a) == pytest.approx(1.0)
    assert author_information(a, column(0, 1, 0, 1)) == pytest.approx(0.0)


def test_author_information_of_a_known_table():
    # joint (3/8, 1/8; 1/8, 3/8): 2 - H = 2 - 1.8112781 bits
    a = column(0, 0, 0, 0, 1, 1, 1, 1)
    b = column(0, 0, 0, 1, 0, 1, 1, 1)
    assert author_information(a, b) == pytest.approx(2 - 1.8112781244591328)


def test_author_information_has_thirty_bins():
    a = np.arange(3000.0).reshape(30, 10, 10)
    assert author_information(a, a) == pytest.approx(math.log2(30))


def test_information_in_bits_of_gaussians_is_that_of_their_correlation():
    rng = np.random.default_rng(1)
    a, noise = rng.normal(size=(2, 40, 40, 40))
    b = 0.8 * a + 0.6 * noise
    # the windows blur the histogram by a bin, which costs a few percent
    assert information_bits(a, b) == pytest.approx(-0.5 * math.log2(1 - 0.64), rel=0.08)


def test_landmarks_are_in_millimetres_and_must_all_be_mapped():
    truth = np.zeros((2, 3))
    assert landmark_distance_mm(np.array([[300.0, 400.0, 0], [0, 0, 100.0]]), truth) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="1 of 2 landmarks"):
        landmark_distance_mm(np.array([[np.nan] * 3, [0, 0, 0]]), truth)


def test_tensors_and_arrays_give_the_same_figures():
    rng = np.random.default_rng(2)
    a, b = rng.random((2, 6, 7, 8)).astype(np.float32)
    assert paper_figures(a, b) == pytest.approx(paper_figures(torch.from_numpy(a), torch.from_numpy(b)))
    with pytest.raises(ValueError, match="one shape"):
        paper_figures(a, b[:3])
