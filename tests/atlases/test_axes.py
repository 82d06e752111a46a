"""Orientations that are stated wrongly are named, with those that fit."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from bigreg import load_config, open_volume
from bigreg.atlases import atlas, local_atlas
from bigreg.atlases import workflow as working
from bigreg.atlases.axes import warning_of_axes
from bigreg.atlases.report import write_atlas_report
from bigreg.atlases.result import AtlasResult
from bigreg.pipeline.choosing.axes import codes_after
from bigreg.transforms.affine import signed_permutation

from .test_workflow import CONFIG, SHAPE, SHIFT, SPACING, TREE, known, made, scene, thread_client_module  # noqa: F401

SETTINGS = [*CONFIG, "affine.kind=rigid", "affine.voxels=40"]


@pytest.fixture(scope="module")
def pair():
    """Template in asr and brain in psl, with structure that small copies show."""
    z, y, x = np.indices(SHAPE)
    body = ((z - 17.5) / 13) ** 2 + ((y - 15.5) / 11) ** 2 + ((x - 19.5) / 15) ** 2 < 1
    texture = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=SHAPE), 3.0)
    template = (body * (1000 + 400 * texture / texture.std()) + 20).astype("f4")
    return template, np.ascontiguousarray(np.roll(template[::-1, :, ::-1], SHIFT, (0, 1, 2)))


def opened(pair, orientation):
    labels = (pair[0] > 100).astype(np.uint32) * 10
    there = local_atlas((pair[0], SPACING), (labels, SPACING), TREE, orientation=orientation)
    brain = open_volume(pair[1], spacing=SPACING, orientation="psl", name="brain")
    return there, brain, load_config(preset="brain-to-atlas", overrides=SETTINGS)


def test_right_orientations_are_not_warned_of(pair):
    assert warning_of_axes(*opened(pair, "asr")) == ("", b"")


@pytest.mark.parametrize("stated", ["sra", "asl"])
def test_a_wrong_orientation_of_the_atlas_is_named_with_the_right_one(pair, stated):
    text, png = warning_of_axes(*opened(pair, stated))
    assert f"the atlas is asr and not {stated} (local_atlas's orientation)" in text and png[:4] == b"\x89PNG"


@pytest.mark.parametrize(("fixed", "moving"), [("asr", "psl"), ("rsa", "ipl"), ("lsa", "sal")])
def test_codes_follow_the_axes(fixed, moving):
    true = signed_permutation(moving, fixed, np.zeros(3))[:3, :3]
    for wrong in ("asr", "ipl", "sla", "rsp"):
        turn = np.linalg.solve(signed_permutation(moving, wrong, np.zeros(3))[:3, :3], true)
        assert codes_after(wrong, moving, turn)[0] == fixed
        turn = np.linalg.solve(signed_permutation(wrong, fixed, np.zeros(3))[:3, :3], true)
        assert codes_after(fixed, wrong, turn)[1] == moving


def test_it_is_told_before_the_registration_is_made(pair, tmp_path, caplog, monkeypatch):
    there, brain, config = opened(pair, "sra")

    def begun(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(working, "register", begun)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        atlas(brain, there, out=str(tmp_path / "out"), config=config)
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
