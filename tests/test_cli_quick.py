"""What needs no computing does not wait for torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from bigreg.cli import app

SCRIPT = """
import json, sys
from typer.testing import CliRunner
from bigreg.cli import app
found = CliRunner().invoke(app, sys.argv[1:])
heavy = [name for name in ("torch", "matplotlib", "tensorstore") if name in sys.modules]
print(json.dumps([found.exit_code, heavy, found.output]))
"""


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["-h"], 0, "Usage"),
        (["--help"], 0, "Usage"),
        (["help", "wrap"], 2, "'wrap'"),
        (["register", "--wrong", "a", "b", "c"], 2, "--wrong"),
        (["register", "a.tif", "b.tif", "run.zarr"], 3, "does not exist"),
        (["register", "a.tif", "b.tif", "run.zarr", "--preset", "round"], 4, "rounds"),
        (["register", "a.tif", "b.tif", "run.zarr", "--set", "blocks.cor=3"], 4, "blocks.core"),
        (["plan", "a.tif", "b.tif"], 3, "fixed 'a.tif' does not exist"),
        (["convert", "a.tif", "out.ome.zarr"], 3, "image 'a.tif' does not exist"),
        (["convert", "a.tif", "out.ims"], 4, ".ims; end its name in .ome.zarr, .ome.tif"),
        (["warp", __file__, "a.tif", "out.ims"], 4, ".ims; end its name in .ome.zarr, .ome.tif"),
        (["status", "run.zarr"], 3, "run.zarr"),
    ],
)
def test_wrong_usage_and_help_do_not_wait_for_torch(words, status, said, tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, cwd=tmp_path)
    code, heavy, output = json.loads(done.stdout)
    assert (code, heavy) == (status, []) and said in output


@pytest.mark.parametrize("verb", [[], ["register"]])
def test_help_of_a_verb_is_what_its_option_prints(verb):
    asked, told = (CliRunner().invoke(app, words) for words in (["help", *verb], [*verb, "--help"]))
    assert asked.output == told.output and asked.exit_code == told.exit_code == 0
    assert "Usage" in told.output and all(word in told.output for word in verb)
