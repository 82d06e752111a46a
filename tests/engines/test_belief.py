"""What a start is judged by: structure that both images show, without a reward for stretching, against wrong starts."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from bigreg.engines.affine import SURE
from bigreg.engines.belief import Belief
from bigreg.engines.judge import Judge, Start
from bigreg.engines.placed import Placed
from bigreg.geometry import Grid
from bigreg.transforms.affine import translation

SHAPE = (40, 48, 44)


def tissue(seed: int = 0) -> np.ndarray:
    """A body with texture and a limb, in the dark."""
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2.0)
    z, y, x = (np.linspace(-1, 1, n) for n in SHAPE)
    z, y = z[:, None, None], y[:, None]
    body = ((z / 0.7) ** 2 + (y / 0.8) ** 2 + (x / 0.5) ** 2 < 1) | (
        ((z - 0.5) / 0.3) ** 2 + ((y + 0.3) / 0.3) ** 2 + ((x - 0.4) / 0.5) ** 2 < 1
    )
    return np.where(body, 0.4 + 0.1 * texture / texture.std(), 0.0).clip(0, 1).astype(np.float32)


def placed(image: np.ndarray) -> Placed:
    return Placed(torch.as_tensor(image), Grid.from_spacing(SHAPE, (1.0, 1.0, 1.0)))


def test_what_one_image_lacks_is_no_evidence_against_a_map():
    whole, part = tissue(), tissue()
    part[20:] = 0.0
    judged = Judge(placed(whole), placed(part))("before registration", np.eye(4))
    assert judged.correlation > 0.7 and judged.local > 0.7  # but for the cut face
    assert judged.shared > 0.7  # of the part, which has less structure
    assert judged.score > 3 * Judge(placed(whole), placed(part))("wrong", translation((0.0, 8.0, 0.0))).score


def test_a_high_correlation_over_little_structure_says_less():
    def score(shared: float) -> float:
        return Start("", np.eye(4), 0.6, 0.6, shared, 1.0).score

    assert score(0.25) == pytest.approx(0.5 * score(1.0))


def test_a_map_that_stretches_one_axis_counts_less_and_one_that_scales_all_does_not():
    def score(*scales: float) -> float:
        return Start("", np.diag([*scales, 1.0]), 0.6, 0.6, 1.0, 1.0).score

    assert score(1.8, 1.8, 1.8) == pytest.approx(score(1, 1, 1))
    assert score(1.1, 1, 1) > 0.9 * score(1, 1, 1)
    assert score(1.5, 0.7, 1) < 0.5 * score(1, 1, 1)


@pytest.mark.parametrize(("noise", "signless"), [(0.0, False), (0.1, False), (0.0, True)])
def test_confidence_tells_the_right_place_from_a_wrong_one_and_from_another_specimen(noise: float, signless: bool):
    rng = np.random.default_rng(3)
    bodies = (
        tissue(),
        tissue(),
        0.4 + 0.1 * ndimage.gaussian_filter(np.random.default_rng(1).standard_normal(SHAPE), 2.0),
    )
    images = [placed((body + noise * rng.standard_normal(SHAPE)).astype(np.float32)) for body in bodies]
    kind = "directions" if signless else "band"

    def confidence(other: Placed, matrix: np.ndarray) -> float:
        judge = Judge(images[0], other, signless)
        return Belief(judge, images[0], other, kind, 0.2, 180.0)(judge("here", matrix), [])

    assert confidence(images[1], np.eye(4)) > 0.95
    assert confidence(images[1], translation((0.0, 5.0, 3.0))) < 0.5
    assert confidence(images[2], np.eye(4)) < SURE


def test_a_rival_that_fits_as_well_leaves_no_confidence():
    image = placed(tissue())
    judge = Judge(image, image)
    belief = Belief(judge, image, image, "band", 0.2, 180.0)
    best = judge("here", np.eye(4))
    rival = Start("there", translation((0.0, 9.0, 0.0)), best.correlation, best.local, best.shared, best.overlap)
    assert belief(best, []) > 0.95
    assert belief(best, [rival]) < 0.01
