"""The loss for training: autograd through it is autograd through the definition."""

import pytest
import torch

from bigreg.similarity import NAMES, by_name
from bigreg.similarity.loss import loss


def images(seed=0, shape=(8, 9, 7)):
    g = torch.Generator().manual_seed(seed)
    fixed = torch.rand(shape, dtype=torch.float64, generator=g)
    moving = 0.6 * fixed + 0.4 * torch.rand(shape, dtype=torch.float64, generator=g)
    return fixed, moving, (torch.rand(shape, dtype=torch.float64, generator=g) > 0.1).double()


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_finite_differences(name):
    fixed, moving, mask = images()
    similarity = by_name(name, radius=2, noise=0.05)
    moving.requires_grad_()
    value = loss(similarity, fixed, moving, mask)
    (3 * value).backward()
    g = torch.Generator().manual_seed(1)
    direction = torch.randn(moving.shape, dtype=torch.float64, generator=g)
    if name in (
        "mi",
        "nmi",
    ):  # the range of the bins moves with the extreme intensities and their SD: not differentiated
        direction = direction * 0
        direction[2, 3, 4] = 1.0
    step = 1e-6
    with torch.no_grad():
        high, low = (float(loss(similarity, fixed, moving + s * step * direction, mask)) for s in (1, -1))
    expected = 3 * (high - low) / (2 * step)
    assert float((moving.grad * direction).sum()) == pytest.approx(
        expected, rel=2e-2 if name in ("mi", "nmi") else 1e-5
    )


@pytest.mark.parametrize("name", NAMES)
def test_images_that_match_lose_less(name):
    fixed, moving, mask = images(2)
    similarity = by_name(name, noise=0.05)
    assert float(loss(similarity, fixed, fixed, mask)) < float(loss(similarity, fixed, moving, mask))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_loses_what_the_cpu_loses(name):
    fixed, moving, mask = (t.float() for t in images(3, (20, 21, 22)))
    similarity = by_name(name, noise=0.05)
    results = []
    for device in ("cpu", "cuda"):
        f, m = fixed.to(device), moving.detach().to(device).requires_grad_()
        value = loss(similarity, f, m, mask.to(device))
        value.backward()
        results.append((float(value), m.grad.cpu()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    scale = float(results[0][1].abs().max())
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-2, atol=1e-3 * scale)
