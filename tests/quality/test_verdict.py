"""The verdict: what speaks against a result, what does not, and how it is said."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from bigreg.errors import VerdictError
from bigreg.quality.metrics import RegistrationError
from bigreg.quality.verdict import Agreement, Outcome, PairsOutcome, Verdict, judge, roughly

NAN = math.nan
ERROR = RegistrationError(points=1234, missing=2, mean=28.34, median=27.1, p95=40.5, p99_9=51.2, maximum=60.7)
ALIKE = Agreement(ncc=(0.12, 0.5, 0.86), local=(0.05, 0.4, 0.9), mi=(0.1, 0.2, 0.9), noise=(0.01, 0.01))
GOOD = Outcome(ALIKE, folds=0, samples=16373304, inverse_error=0.03, blocks=282, blocks_failed=0, seconds=251.3)
PAIRS = PairsOutcome(
    pairs=45, own=False, voxel=100.0, before=3000.0, affine=400.0, after=120.0, grew=-2880.0, sure=90.0
)


def alike(**change) -> Outcome:
    return replace(GOOD, agreement=replace(ALIKE, **change))


def paired(**change) -> Outcome:
    return replace(GOOD, landmarks=(replace(PAIRS, **change),))


@pytest.mark.parametrize(
    ("outcome", "level", "reason"),
    [
        (GOOD, "good", None),
        (replace(GOOD, blocks_failed=3), "bad", "3 of 282 blocks failed"),
        (replace(GOOD, folds=7), "bad", "folds at 7 of"),
        (replace(GOOD, inverse_error=0.3), "look", "do not undo each other: 0.30"),
        (replace(GOOD, error_before=ERROR, error_after=replace(ERROR, mean=99.0)), "bad", "grew from 28.34 to 99.00"),
        (alike(ncc=(0.9, 0.5, 0.8), local=(0.95, 0.4, 0.7)), "bad", "less than before registration (local correlation"),
        (alike(ncc=(0.1, 0.9, 0.8), local=(0.1, 0.95, 0.7)), "look", "agree less than after the affine"),
        (alike(ncc=(0.9, 0.5, 0.95), local=(0.95, 0.4, 0.7)), "look", "less than before registration"),
        (alike(local=(0.05, 0.1, 0.2)), "look", "agree little after registration (local correlation 0.200"),
        (alike(ncc=(0.1, 0.2, 0.4)), "look", "NCC 0.400"),
        (alike(ncc=(NAN,) * 3, local=(NAN,) * 3), "look", "could not be measured"),
        (replace(GOOD, confidence=0.2), "look", "start (affine) is uncertain: confidence 0.20"),
        (
            replace(GOOD, warnings=("left and right cannot be determined",)),
            "look",
            "Warning of the start: left and right",
        ),
        (
            replace(GOOD, off=0.12, large="2 voxels (7.4 µm)"),
            "look",
            "12% of the textured tiles are off by more than 2 voxels (7.4",
        ),
        # noise that hides errors of one to three voxels, which neither the risk nor sigma tell
        (alike(ncc=(0.47, 0.8, 0.87), local=(0.18, 0.44, 0.59)), "look", "agree little after registration"),
        (paired(after=700.0), "look", "45 landmark pairs are 700 µm from the map (median): 7.0 voxels"),
        (paired(before=300.0, after=900.0, grew=600.0, sure=50.0), "bad", "grew from 300 to 900 µm"),
        (
            paired(after=5000.0, grew=2000.0, reading="read with fixed and moving exchanged", reading_um=90.0),
            "look",
            "contradict the images: as given they are 5e+03 µm from the map (median), read with fixed and moving "
            "exchanged 90 µm",
        ),
        (
            paired(own=True, doubted=(2, 3, 5, 7, 11), doubted_um=80.0),
            "look",
            "5 of the 45 landmark pairs that steer the run contradict the images or one another",
        ),
    ],
)
def test_every_rule_names_what_is_wrong(outcome, level, reason):
    verdict = judge(outcome)
    assert verdict.level == level
    assert len(verdict.reasons) == (reason is not None)
    assert reason is None or reason in verdict.reasons[0]


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        # aligned already: what changes is noise
        (alike(ncc=(0.992, 0.992, 0.991), local=(0.985, 0.985, 0.982), noise=(0.0001, 0.0001)), "good"),
        (alike(ncc=(0.97, 0.97, 0.96), local=(0.9, 0.9, 0.85), noise=(0.03, 0.03)), "good"),
        # bright against dark: the correlation of the whole is negative, and more so the better it fits
        (alike(ncc=(-0.12, -0.7, -0.98), mi=(0.1, 0.4, 1.2), signed=False), "good"),
        (alike(ncc=(0.6, 0.4, 0.1), mi=(0.1, 0.4, 1.2), signed=False), "good"),
        # before registration the images do not overlap
        (alike(ncc=(NAN, 0.5, 0.9), local=(NAN, 0.5, 0.9), mi=(NAN, 0.2, 0.9), noise=(NAN, 0.01)), "good"),
        # a volume of so few voxels that the noise of a mean is not known
        (alike(ncc=(0.8, 0.8, 0.79), local=(0.9, 0.9, 0.85), noise=(NAN, NAN)), "good"),
        # the risk alone does not overrule images that fit everywhere
        (replace(alike(local=(0.1, 0.5, 0.95)), off=0.64), "look"),
        # a start that is sure, or of which nothing is known
        (replace(GOOD, confidence=0.9), "good"),
        (replace(GOOD, confidence=NAN), "good"),
        # accurate landmarks, and single ones that were clicked wrongly
        (paired(), "good"),
        (paired(own=True, doubted=(2,), doubted_um=80.0), "good"),
        # landmarks no more accurate than the map, of images that were aligned before
        (paired(before=150.0, after=160.0, grew=10.0, sure=8.0), "good"),
    ],
)
def test_what_is_right_is_not_held_against_it(outcome, level):
    assert judge(outcome).level == level


@pytest.mark.parametrize("off", [0.05, 0.3, 0.99])
def test_a_risk_that_is_not_calibrated_is_no_reason(off):
    assert judge(replace(GOOD, off=off, risk_calibrated=False)).level == "good"


def test_a_high_risk_where_images_do_not_fit_is_bad():
    assert judge(replace(alike(local=(0.0, 0.1, 0.4)), off=0.8)).level == "bad"


def test_bad_reasons_come_first():
    verdict = judge(replace(GOOD, folds=7, warnings=("a",)))
    assert "folds" in verdict.reasons[0] and "Warning" in verdict.reasons[1]


def test_lines_are_similarity_then_headline_then_reasons():
    lines = judge(replace(GOOD, folds=7)).lines
    assert lines[0].startswith("similarity before -> after the affine -> after all: NCC 0.120 -> 0.500 -> 0.860")
    assert lines[1] == "verdict: Not usable" and lines[2].startswith("  - The map folds")
    assert all(line.isascii() for line in lines)


def test_the_line_of_another_contrast_is_mutual_information():
    assert "mutual information 0.100 -> 0.200 -> 0.900" in judge(alike(signed=False)).similarity


def test_the_errors_at_landmarks_are_stated():
    assert "TRE of 45 pairs 3e+03 → 400 → 120 µm (median)" in judge(paired()).sentence


def test_a_verdict_and_an_agreement_survive_json():
    verdict = judge(replace(GOOD, folds=7))
    assert Verdict.from_json(verdict.to_json()) == verdict
    part = replace(ALIKE, ncc=(NAN, 0.5, 0.9))
    assert str(Agreement.from_json(part.to_json())) == str(part) and part.to_json()["ncc"][0] is None


@pytest.mark.parametrize(("fail_on", "level", "fails"), [
    ("look", "good", False), ("look", "look", True), ("look", "bad", True),
    ("bad", "good", False), ("bad", "look", False), ("bad", "bad", True),
])  # fmt: skip
def test_fail_on_fails_on_its_level_and_worse(fail_on, level, fails):
    verdict = Verdict(level, "headline", "", ())
    if not fails:
        return verdict.require(fail_on)
    with pytest.raises(VerdictError, match="headline") as error:
        verdict.require(fail_on)
    assert error.value.exit_status == 11


def test_a_verdict_is_read_without_torch():
    check = "import sys, bigreg.pipeline.judging.status; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == "False"


def test_lengths_of_time_are_said_in_the_unit_that_suits_them():
    assert [roughly(s) for s in (59, 130, 8000, 200000)] == ["59 s", "2.2 min", "2.2 h", "2.3 d"]
