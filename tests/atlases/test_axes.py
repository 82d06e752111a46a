"""Orientations that are stated wrongly are named, with those that fit."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from bigreg import load_config, open_volume
from bigreg.atlases import atlas, local_atlas
from bigreg.atlases.axes import warning_of_axes
from bigreg.atlases.report import write_atlas_report
from bigreg.atlases.result import AtlasResult
from bigreg.errors import StartError
from bigreg.pipeline.choosing.axes import codes_after
from bigreg.transforms.affine import signed_permutation

from .test_workflow import CONFIG, SPACING, TREE, known, made, scene, thread_client_module  # noqa: F401

SETTINGS = [*CONFIG, "affine.kind=rigid"]


def checked(scene, orientation):  # noqa: F811
    there = local_atlas((scene[0], SPACING), (scene[1], SPACING), TREE, orientation=orientation)
    volume = open_volume(scene[2], spacing=SPACING, orientation="psl", name="brain")
    return warning_of_axes(there, volume, load_config(preset="brain-to-atlas", overrides=SETTINGS))


def test_right_orientations_are_not_warned_of(scene):  # noqa: F811
    assert checked(scene, "asr") == ("", b"")


@pytest.mark.parametrize("stated", ["sra", "asl"])
def test_a_wrong_orientation_of_the_atlas_is_named_with_the_right_one(scene, stated):  # noqa: F811
    text, png = checked(scene, stated)
    assert f"the atlas is asr and not {stated} (--atlas-orientation)" in text and png[:4] == b"\x89PNG"


@pytest.mark.parametrize(("fixed", "moving"), [("asr", "psl"), ("rsa", "ipl"), ("lsa", "sal")])
def test_codes_follow_the_axes(fixed, moving):
    true = signed_permutation(moving, fixed, np.zeros(3))[:3, :3]
    for wrong in ("asr", "ipl", "sla", "rsp"):
        turn = np.linalg.solve(signed_permutation(moving, wrong, np.zeros(3))[:3, :3], true)
        assert codes_after(wrong, moving, turn)[0] == fixed
        turn = np.linalg.solve(signed_permutation(wrong, fixed, np.zeros(3))[:3, :3], true)
        assert codes_after(fixed, wrong, turn)[1] == moving


def test_it_is_told_before_the_registration_is_made(scene, tmp_path, caplog, thread_client_module):  # noqa: F811
    wrong = local_atlas((scene[0], SPACING), (scene[1], SPACING), TREE, orientation="sra")
    brain = open_volume(scene[2], spacing=SPACING, orientation="psl", name="brain")
    config = load_config(preset="brain-to-atlas", overrides=SETTINGS)
    with caplog.at_level(logging.WARNING), pytest.raises(StartError):
        atlas(brain, wrong, out=str(tmp_path / "out"), config=config, client=thread_client_module)
    assert "the atlas is asr and not sra" in caplog.text and str(tmp_path / "out/axes.png") in caplog.text
    assert (tmp_path / "out/axes.png").is_file()


def test_the_page_says_it_first(made, known, tmp_path, monkeypatch):  # noqa: F811
    result = made[0]
    assert "orientation is likely wrong" not in Path(result.report).read_text(encoding="utf-8")
    assert result.axes_warning == "" and result.warnings == []
    monkeypatch.setattr(AtlasResult, "axes_warning", "the atlas is asr and not sra")
    assert result.warnings == ["the atlas is asr and not sra"]
    write_atlas_report(str(tmp_path), result.run, result, known, None)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.index("the atlas is asr and not sra") < page.index("<section>")
