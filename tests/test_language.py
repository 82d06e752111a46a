"""Messages name what their reader can give: a flag in the command line, a keyword in Python."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import typer
from typer.testing import CliRunner

import bigreg
from bigreg.cli import app
from bigreg.cluster import Cluster
from bigreg.errors import ConfigError, InputError, naming_flags
from bigreg.pipeline.store.inputs import require_depth
from bigreg.quality.verdict import Verdict
from bigreg.volumes import convert

NOISE = np.random.default_rng(0).integers(0, 99, (12, 16, 20)).astype(np.uint16)


@pytest.fixture
def bare(tmp_path):
    """A stack that states no voxel size."""
    tifffile.imwrite(tmp_path / "bare.tif", NOISE)
    return str(tmp_path / "bare.tif")


def test_a_missing_spacing_is_asked_for_in_the_language_of_the_caller(bare):
    with pytest.raises(InputError, match="pass open_volume's spacing"):
        bigreg.plan(bare, bare, config="rounds")
    done = CliRunner().invoke(app, ["plan", bare, bare, "--preset", "rounds"])
    assert done.exit_code == 3 and "pass --fixed-spacing Z Y X (µm)" in done.output
    with pytest.raises(InputError, match="pass open_volume's spacing"):  # the command line is over
        bigreg.open_volume(bare)


@pytest.mark.parametrize(
    ("call", "keyword", "flag"),
    [
        (
            lambda: bigreg.plan(shape=(8, 8, 8), config="rounds"),
            "give fixed and moving, or shape",
            "--shape and --spac",
        ),
        (lambda: Cluster(kind="slurm"), "cluster.workers=20", "--workers 20"),
        (lambda: Verdict("bad", "Not usable", "", ()).require("bad"), "require bad", "--fail-on bad"),
    ],
)
def test_other_messages_do_so_too(call, keyword, flag):
    with pytest.raises(bigreg.errors.BigregError, match=keyword) as raised:
        call()
    assert "--" not in str(raised.value)
    with naming_flags(), pytest.raises(bigreg.errors.BigregError, match=flag):
        call()


OTHERS = ("cluster/jobs.py", "cluster/kubernetes.py")
"""What starts other programs, whose flags have names of their own."""


def strings_of(tree):
    """(line, text) of all string literals but docstrings and what stands in a call of `named`."""
    own = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "named":
            own |= {id(n) for n in ast.walk(call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in own:
            yield node.lineno, node.value


def test_no_message_of_the_library_is_written_in_flags_alone():
    """A flag stands in `named`, or in a command that is written out with its verb."""
    root = Path(bigreg.__file__).parent
    commands = typer.main.get_command(app).commands.values()
    flags = {o for c in commands for p in c.params for o in p.opts if o.startswith("--")}
    wrong = []
    for path in root.rglob("*.py"):
        place = path.relative_to(root).as_posix()
        if place.startswith("cli/") or place in OTHERS:
            continue
        for number, text in strings_of(ast.parse(path.read_text(encoding="utf-8"))):
            written_out = "bigreg " in text or text.strip() in flags  # a flag alone is a part of a command
            if not written_out and flags & set(re.findall(r"--[a-z][a-z-]+", text)):
                wrong.append(f"{place}:{number}: {text}")
    assert wrong == []


def test_the_image_of_onto_has_no_option_for_its_spacing(bare, tmp_path):
    convert(NOISE, tmp_path / "image.ome.zarr", spacing=(2, 2, 2))
    np.savetxt(tmp_path / "map.csv", np.eye(4), delimiter=",")
    words = ["warp", tmp_path / "map.csv", tmp_path / "image.ome.zarr", tmp_path / "out.ome.zarr", "--onto", bare]
    done = CliRunner().invoke(app, [str(w) for w in words])
    assert done.exit_code == 3 and "a --onto that states it, as of bigreg convert --spacing Z Y X" in done.output


def test_one_plane_is_read_but_not_registered(tmp_path):
    convert(NOISE[:1], tmp_path / "plane.ome.zarr", spacing=(8, 2, 2))
    plane = bigreg.open_volume(tmp_path / "plane.ome.zarr")
    assert np.array_equal(plane[...], NOISE[:1])
    for call in (require_depth, lambda image: bigreg.plan(image, image, config="rounds")):
        with pytest.raises(InputError, match=r"2-D \(shape \(1, 16, 20\)\)"):
            call(plane)


def test_numbers_of_workers_are_told_without_a_flag():
    from bigreg.pipeline.planning.plan import numbers_of_workers

    with pytest.raises(ConfigError, match="'8x' is not a number of workers"):
        numbers_of_workers(["8x"])
