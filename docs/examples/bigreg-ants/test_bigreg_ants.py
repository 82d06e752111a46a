"""The engine keeps bigreg's laws, with ANTs and with displacements from elsewhere, and registers through the pipeline.

What needs ANTs is skipped without it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bigreg_ants import Ants, FromDisplacements

from bigreg.testing import check_engine, patch_pair

SHIFT = torch.tensor([1.0, 0.0, -0.75])
"""Velocity, um, of `patch_pair`: half of the voxel (2 x 1.5 x 1.5 um) by which its images are shifted."""
INNER = (slice(2, -2),) * 3
"""Control points within the patch; those around it hold a part of a voxel or two."""


def by_correlation(fixed, moving, fixed_mask, moving_mask, spacing):
    """One shift for the whole patch, where the correlation is largest."""
    both = (fixed_mask > 0) & (moving_mask > 0)
    a, b = (np.where(both, image - image[both].mean(), 0) for image in (fixed, moving))
    scores = np.fft.ifftn(np.fft.fftn(b) * np.fft.fftn(a).conj()).real
    best = np.array(np.unravel_index(scores.argmax(), scores.shape))
    signed = np.where(best > np.array(fixed.shape) / 2, best - fixed.shape, best)
    return np.broadcast_to((signed * spacing).reshape(3, 1, 1, 1), (3, *fixed.shape))


@pytest.mark.parametrize("holes", [False, True])
def test_displacements_from_elsewhere_keep_the_laws_and_become_the_velocity(holes):
    found = check_engine(FromDisplacements(by_correlation), patch_pair(holes=holes))
    torch.testing.assert_close(found.coefficients.mean((1, 2, 3)), SHIFT, atol=1e-3, rtol=0)
    assert float(found.confidence[INNER].min()) > 0.5 and float(found.confidence.max()) <= 1


def test_displacements_without_bound_are_bounded():
    def wild(fixed, moving, fixed_mask, moving_mask, spacing):
        return 1000 * np.stack([fixed - moving] * 3)

    check_engine(FromDisplacements(wild))


def test_a_patch_without_texture_or_data_is_not_trusted():
    engine, pair = FromDisplacements(by_correlation), patch_pair()
    for value in (0.0, 0.5):
        flat = replace(pair, fixed=torch.full_like(pair.fixed, value))
        assert float(engine.estimate(flat).confidence.max()) < 1e-3
    empty = engine.estimate(replace(pair, moving_mask=torch.zeros_like(pair.moving_mask)))
    assert not empty.coefficients.any() and not empty.confidence.any()


def test_options_that_make_no_sense_are_refused():
    for options in ({"metric": "mutual"}, {"iterations": 0}, {"smoothing": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Ants(**options)
    with pytest.raises(ValueError, match="noise"):
        FromDisplacements(by_correlation, noise=0)


@pytest.mark.slow
def test_ants_keeps_the_laws_and_finds_a_shift():
    pytest.importorskip("ants")
    pair = patch_pair(holes=True)
    found = check_engine(Ants(metric="mattes"), pair)
    inner = found.coefficients[(slice(None), *INNER)]
    torch.testing.assert_close(inner.mean((1, 2, 3)), SHIFT, atol=0.15, rtol=0)
    assert float(found.confidence[INNER].min()) > 0.5


REGISTER = """
import bigreg
from bigreg.demo import evaluate
from bigreg.phantom import make_pair

pair = make_pair((32, 40, 48), (4.0, 2.6, 2.6), seed=3, max_displacement_um=5.0)
images = [(image, pair.spacing) for image in (pair.fixed, pair.moving)]
config = bigreg.load_config("rounds", overrides=["engine=ants", "engine_options.ants.iterations=10"])
run = bigreg.register(*images, out="run.zarr", config=config)
errors = evaluate(run, pair)
folds = sum(metrics["folds"].sum() for metrics in run.metrics().values() if "folds" in metrics)
print(errors["affine"].mean, errors["after"].mean, folds)
"""


@pytest.mark.slow
def test_ants_registers_the_phantom_without_a_fold(tmp_path):
    """As an installed package, found by its entry point, in the process of a worker."""
    pytest.importorskip("ants")
    here = Path(__file__).parent
    entry = re.search(r'engines"\]\n(\w+) = "(\S+)"', (here / "pyproject.toml").read_text())
    info = tmp_path / "bigreg_ants-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bigreg-ants\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[bigreg.engines]\n{entry[1]} = {entry[2]}\n")
    path = os.pathsep.join([str(tmp_path), str(here), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", REGISTER], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    affine, after, folds = map(float, done.stdout.split())
    assert after < affine and folds == 0
