"""Paired statistics: scipy's where scipy has them, and what may not be paired."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from bigreg.errors import InputError
from bigreg.quality.comparison import bootstrap, compare, signed_rank
from bigreg.quality.evaluation import Evaluation, read_evaluation

IMAGE = {"path": "/data/fixed.zarr", "shape": [10, 20, 30], "spacing": [1.0, 1.0, 1.0], "digest": "a"}
RNG = np.random.default_rng(0)
ERRORS = RNG.gamma(2.0, 1.0, 40)


def evaluation(offset=0.0, fixed=IMAGE, pairs=40, unseen=True):
    landmarks = [
        {
            **{f"fixed_{a}": float(i) for a in "zyx"},
            **{f"moving_{a}": float(i) for a in "zyx"},
            "error_after": ERRORS[i] + offset * (1 + 0.1 * np.sin(i)) if i else float("nan"),
            "seen": not unseen,
        }
        for i in range(pairs)
    ]
    labels = [
        {"label": k, "dice": 0.8 - 0.01 * k - 0.02 * offset, "hd95_um": 5.0 + k, "surface_distance_um": 1.0}
        for k in range(1, 9)
    ]
    figures = [("landmarks", "TRE mean", float(ERRORS.mean() + offset), "um", ""), ("x", "gone", float("nan"), "", "")]
    return Evaluation("run", fixed, IMAGE, figures, landmarks, labels)


def row(found, quantity, run="b"):
    return next(p for p in found.paired if (p.quantity, p.run) == (quantity, run))


def test_pairs_are_matched_by_place_and_tested_as_scipy_does():
    found = row(compare("ab", [evaluation(), evaluation(0.5)], [{}, {}]), "landmark error")
    d = np.array([0.5 * (1 + 0.1 * np.sin(i)) for i in range(1, 40)])
    assert found.pairs == 39 and found.wins == 0
    assert found.difference == pytest.approx(d.mean())
    assert found.low < d.mean() < found.high
    assert found.p == pytest.approx(stats.wilcoxon(d).pvalue)


def test_for_overlap_more_is_better_and_for_errors_less():
    found = compare("ab", [evaluation(), evaluation(-0.5)], [{}, {}])
    assert row(found, "landmark error").wins == 39
    assert row(found, "Dice").wins == 8
    assert row(found, "HD95").wins == 0 and row(found, "HD95").p == 1.0


def test_bootstrap_interval_of_a_normal_mean_is_that_of_theory_and_repeats():
    values = RNG.standard_normal(400)
    low, high = bootstrap(values)
    half = 1.96 * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)
    assert bootstrap(values) == (low, high)


def test_too_few_pairs_have_no_p():
    assert np.isnan(signed_rank(np.arange(1.0, 6.0)))
    assert np.isnan(bootstrap(np.ones(1))[0])


def test_several_runs_are_corrected_for_by_holm():
    runs = [evaluation(), evaluation(0.5), evaluation(0.01), evaluation()]
    rows = [p for p in compare("abcd", runs, [{}] * 4).paired if p.quantity == "landmark error"]
    p = np.array([r.p for r in rows])
    order = np.argsort(p)
    expected = np.maximum.accumulate(np.minimum(1, p[order] * (3 - np.arange(3))))
    assert np.allclose(np.array([r.holm for r in rows])[order], expected)


def test_blocks_are_paired_where_both_runs_have_them():
    first = {(i,): 0.5 for i in range(10)}
    other = {(i,): 0.6 + 0.01 * i for i in range(3, 12)}
    found = row(compare("ab", [evaluation(), evaluation()], [first, other]), "local correlation per block")
    assert found.pairs == found.wins == 7


def test_landmarks_that_a_run_has_seen_are_not_held_against_others():
    found = compare("ab", [evaluation(), evaluation(unseen=False)], [{}, {}])
    assert not [p for p in found.paired if p.quantity == "landmark error"]


def test_runs_of_different_fixed_images_are_refused_unless_figures_alone_are_asked_for():
    other = evaluation(fixed={**IMAGE, "path": "/data/other.zarr"})
    with pytest.raises(InputError, match=r"/data/other\.zarr.*aggregate=True"):
        compare("ab", [evaluation(), other], [{}, {}])
    found = compare("ab", [evaluation(), other], [{}, {}], aggregate=True)
    assert not found.paired and found.figures[0][3] == (evaluation().figures[0][2],) * 2


def test_shares_of_errors_of_different_sizes_are_not_put_in_one_row():
    def of(value, um):
        note = f"expected share with an error above 2 voxels ({um} µm); untextured tiles cannot be judged"
        return replace(evaluation(), figures=[("confidence", "textured tiles off", value, "%", note)])

    rows = compare("ab", [of(20.9, 3.7), of(9.9, 7.4)], [{}, {}]).figures
    assert [name for _, name, _, _ in rows] == [
        f"textured tiles off (expected share with an error above 2 voxels ({um} µm))" for um in (3.7, 7.4)
    ]
    assert np.isnan(rows[0][3][1]) and np.isnan(rows[1][3][0]) and (rows[0][3][0], rows[1][3][1]) == (20.9, 9.9)
    (same,) = compare("ab", [of(20.9, 3.7), of(9.9, 3.7)], [{}, {}]).figures
    assert same == ("confidence", "textured tiles off", "%", (20.9, 9.9))


def test_one_run_is_nothing_to_compare():
    with pytest.raises(InputError, match="two or more"):
        compare("a", [evaluation()], [{}])


def test_a_comparison_is_written_as_json_csv_and_a_page(tmp_path):
    found = compare(["<one>", "two"], [evaluation(), evaluation(0.5)], [{}, {}])
    page = found.write(str(tmp_path))
    text = (tmp_path / "index.html").read_text()
    assert page.endswith("index.html") and "&lt;one&gt;" in text and "<one>" not in text
    data = json.loads((tmp_path / "comparison.json").read_text())
    assert data["runs"] == ["<one>", "two"] and data["paired"][0]["pairs"] == 39
    assert (tmp_path / "paired.csv").read_text().startswith("quantity,unit,run")
    assert (tmp_path / "figures.csv").exists()


def test_an_evaluation_is_read_back_as_it_was_written(tmp_path):
    evaluation().write(str(tmp_path))
    again = read_evaluation(str(tmp_path))
    assert np.isnan(again.value("x", "gone")) and again.value("landmarks", "TRE mean") == evaluation().figures[0][2]
    assert again.fixed == IMAGE and len(again.landmarks) == 40 and np.isnan(again.landmarks[0]["error_after"])
    assert (tmp_path / "labels.csv").read_text().splitlines()[0] == "label,dice,hd95_um,surface_distance_um"
    assert not (tmp_path / "regions.csv").exists()
    assert read_evaluation(str(tmp_path / "nothing")) is None
