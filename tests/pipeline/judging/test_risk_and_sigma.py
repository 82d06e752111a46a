"""Where risk and sigma agree, and where the report has to say that they do not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bigreg import register, storage
from bigreg.pipeline.judging import risk_and_sigma
from bigreg.pipeline.judging.risk_and_sigma import DOUBTFUL, densest, doubted
from bigreg.quality.confidence import LARGE, RISKY

BOX = (slice(8, 32), slice(12, 44), slice(16, 48))


@pytest.fixture(scope="module")
def wrong(pair, small_config, thread_client, tmp_path_factory):
    """A run whose moving image shows something else in a box, which lies mirrored there."""
    moving = pair.moving.copy()
    moving[BOX] = moving[BOX][::-1, ::-1, ::-1]
    out = str(tmp_path_factory.mktemp("wrong") / "run.zarr")
    config = small_config("masks.noncorrespondence=false")
    return register(
        (pair.fixed, pair.spacing), (moving, pair.spacing), out=out, config=config, client=thread_client
    )  # fmt: skip


def agreement(run):
    return next((v, note) for _, name, v, _, note in run.summary() if name == "risk and sigma agree")


def test_the_summary_and_the_report_say_how_far_they_agree(registered):
    share, sentence = agreement(registered.run)
    assert share > 80 and f"agree on {share:.1f}% of the tiles" in sentence
    page = storage.read_file(registered.run.store.path("report"), "index.html").decode()
    assert "<h2>Risk and sigma</h2>" in page and sentence in page


def test_a_wrong_match_is_named_with_its_share_and_place(registered, wrong, pair):
    share, sentence = agreement(wrong)
    assert share < 70 < agreement(registered.run)[0]
    shares, _ = risk_and_sigma.told(wrong._context())
    assert shares["risk_alone"] > 0.2 > 5 * shares["sigma_alone"]
    assert f"on {shares['risk_alone']:.1%} only the risk is high" in sentence
    place = [float(v) for v in sentence.partition("z, y, x = ")[2].partition(" µm")[0].split(", ")]
    index = np.array(place) / pair.spacing
    assert all(s.start <= i < s.stop for s, i in zip(BOX, index, strict=True))


def test_counts_are_those_of_the_stored_tiles(wrong, pair):
    risk, sigma = (wrong.store.array(name, "0")[...] for name in ("confidence", "sigma"))
    found = doubted(risk, sigma, np.array(pair.spacing))
    metrics = wrong.metrics()[risk_and_sigma.STAGE]
    for name, marked in found.items():
        assert np.nansum(metrics[name]) == marked.sum()


def test_sigma_alone_doubts_from_the_same_probability_on():
    risk = np.array([[[0.0, 0.0, RISKY, RISKY, np.nan, 0.0]]])
    just = DOUBTFUL * np.array([0.99, 1.0, 0.99, 1.0, 1.0, np.nan]) / np.sqrt(3)
    voxel = np.array((4.0, 2.0, 1.0))
    found = doubted(risk, voxel[:, None, None, None] * just, voxel)
    assert found["tiles"].ravel().tolist() == [True, True, True, True, False, False]
    assert found["sigma_alone"].ravel().tolist() == [False, True, False, False, False, False]
    assert found["risk_alone"].ravel().tolist() == [False, False, True, False, False, False]
    errors = np.random.default_rng(1).normal(0, DOUBTFUL / np.sqrt(3), (100_000, 3))
    assert (np.linalg.norm(errors, axis=1) > LARGE).mean() == pytest.approx(RISKY, abs=0.004)
    assert stats.chi2.sf((LARGE / DOUBTFUL) ** 2 * 3, 3) == pytest.approx(RISKY)


def test_the_place_is_where_most_tiles_are():
    marked = np.zeros((12, 12, 12), bool)
    marked[0, 0, 0] = marked[0, 11, 3] = True
    marked[6:9, 6:9, 6:9] = True
    assert densest(marked) == (27, (6, 6, 6))  # the first within whose reach all are
    assert densest(np.zeros((2, 2, 2), bool))[0] == 0
