"""The README and the documentation: every code block is checked, the quick starts are run, links lead somewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml
from typer.testing import CliRunner

from bigreg.cli import app
from bigreg.cli.app import as_triples
from bigreg.config import Config, cluster_names, load_cluster, load_config, preset_names, preset_text
from bigreg.errors import ConfigError
from bigreg.phantom import make_pair
from bigreg.training.config import load_training
from bigreg.volumes import convert

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
GENERATED = ("reference/cli.md", "reference/configuration.md", "reference/config.schema.json", "changelog.md")
BLOCK = re.compile(r"^(?:<!-- ([\w: ]+) -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language, mark=None):
    """All code blocks in a language, or those below a comment `<!-- mark -->`, named by page and line."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            if block[2] == language and (mark is None or block[1] == mark):
                line = text[: block.start(3)].count("\n") + 1
                found.append(pytest.param(block[3], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


def commands_of(text):
    """The words of each `bigreg ...` in shell text."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            ends = [n for n, word in enumerate(words) if word in ("&&", "|", ">", ";")]
            end = ends[0] if ends else len(words)
            if words[0].rsplit("/", 1)[-1] == "bigreg":
                yield words[1:end]
            words = words[end + 1 :]


def check_command(words):
    """Parse a command as bigreg does, its configuration included."""
    root = typer.main.get_command(app)
    if words[:1] == ["--install-completion"]:
        return
    command = root.commands[words[0]]
    with command.make_context(words[0], as_triples(command, list(words[1:]))) as context:
        given = context.params
    if words[0] == "train":
        return
    overrides = list(given.get("set_") or [])
    if any(str(item).startswith("engine=") for item in overrides):  # their options may be of any engine
        overrides = [item for item in overrides if not item.startswith("engine_options.")]
    if overrides:
        cluster = given.get("cluster")
        if cluster is not None and cluster not in cluster_names():  # a file of the reader's own
            cluster = "slurm"
        load_config(preset=given.get("preset"), cluster=cluster, overrides=overrides)


@pytest.mark.parametrize("text", blocks("bash"))
def test_every_command_of_a_page_is_one(text):
    for words in commands_of(text):
        check_command(words)


@pytest.mark.parametrize(
    "words", ["bigreg regster a b c", "bigreg register a b c --presett x", "bigreg plan --set a=1"]
)
def test_a_command_that_is_none_is_found(words):
    with pytest.raises((KeyError, ConfigError, typer.BadParameter.__mro__[1])):
        for each in commands_of(words):
            check_command(each)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_yaml_of_a_page_is_a_configuration(text, tmp_path):
    data = yaml.safe_load(text)
    if data is None:  # a comment alone
        return
    if "network" in data:
        (tmp_path / "training.yaml").write_text(text)
        load_training(tmp_path / "training.yaml")
    elif "kind" in data:
        load_cluster(data)
    else:
        load_config(data)


@pytest.mark.parametrize("text", blocks("python"))
def test_every_python_of_a_page_compiles(text):
    compile(text, "block", "exec")


@pytest.mark.slow
def test_the_quick_starts_run(tmp_path, monkeypatch):
    """Those marked `run` in the README and in the page on Python, one after the other, in a folder with two images."""
    monkeypatch.chdir(tmp_path)
    pair = make_pair((32, 40, 48), (4.0, 2.6, 2.6), seed=3, max_displacement_um=5.0)
    for name in ("fixed", "moving"):
        convert(getattr(pair, name), f"{name}.ome.zarr", spacing=pair.spacing)
    Path("cells.csv").write_text("cell,z_um,y_um,x_um\na,40,50,60\n")
    for block in blocks("bash", "run"):
        for words in commands_of(block.values[0]):
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, (words, done.output)
    assert "verdict: " in done.output
    texts = [block.values[0] for block in blocks("python", "run")]
    assert len(texts) == 4
    for text in texts:
        shutil.rmtree("warped.ome.zarr", ignore_errors=True)
        exec(compile(text, "block", "exec"), {"__name__": "page"})
    assert Path("cells_in_moving.csv").read_text().startswith("cell,z_um")


@pytest.fixture
def shift(tmp_path, monkeypatch):
    """The engine of the page on engines, as a module that can be imported."""
    (text,) = (block.values[0] for block in blocks("python", "engine"))
    (tmp_path / "bigreg_shift.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("bigreg_shift", None)


def test_the_engine_of_the_page_passes_its_own_tests(shift):
    (text,) = (block.values[0] for block in blocks("python", "engine test"))
    (shift / "test_shift.py").write_text(text)
    spec = importlib.util.spec_from_file_location("test_shift", shift / "test_shift.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert len(tests) == 3
    for test in tests:
        test()


@pytest.mark.slow
def test_the_engine_of_the_page_registers(shift):
    """As an installed package, found by its entry point, in the processes of the workers."""
    (shift / "bigreg_shift-0.1.0.dist-info").mkdir()
    (shift / "bigreg_shift-0.1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: bigreg-shift\nVersion: 0.1.0\n"
    )
    (toml,) = (b.values[0] for b in blocks("toml") if "bigreg-shift" in b.values[0])
    entry = re.search(r'\[project\.entry-points\."bigreg\.engines"\]\n(\w+) = "(\S+)"', toml)
    (shift / "bigreg_shift-0.1.0.dist-info" / "entry_points.txt").write_text(
        f"[bigreg.engines]\n{entry[1]} = {entry[2]}\n"
    )
    (settings,) = (b.values[0] for b in blocks("yaml") if "shift:" in b.values[0])
    (shift / "mine.yaml").write_text(settings)
    script = (
        "import sys, bigreg\n"
        "from bigreg.phantom import make_pair\n"
        "pair = make_pair((32, 40, 48), (4.0, 2.6, 2.6), seed=3, max_displacement_um=5.0)\n"
        "images = [(image, pair.spacing) for image in (pair.fixed, pair.moving)]\n"
        "run = bigreg.register(*images, out='run.zarr', config='mine.yaml')\n"
        "print(run.verdict.headline, int(max(m['folds'].sum() for m in run.metrics().values() if 'folds' in m)))\n"
    )
    path = os.pathsep.join([str(shift), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=shift,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith(" 0")


# ----------------------------------------------------------------------------------------------------------- links


def slug(title):
    """As mkdocs makes the anchor of a heading."""
    text = re.sub(r"`|\*|\[([^\]]*)\]\([^)]*\)", r"\1", title).strip().lower()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text))


def anchors_of(page):
    return {slug(title) for title in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_pictures_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if DOCS in there.parents and str(there.relative_to(DOCS)) in GENERATED:
            continue
        if not there.exists() or (anchor and anchor not in anchors_of(there)):
            wrong.append(target)
    assert wrong == []


def test_every_page_is_in_the_contents():
    contents = (ROOT / "mkdocs.yml").read_text()
    for page in DOCS.rglob("*.md"):
        assert str(page.relative_to(DOCS)) in contents, page


def test_every_picture_is_used():
    texts = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for picture in (DOCS / "images").iterdir():
        assert picture.name in texts, picture


# ------------------------------------------------------------------------------------------------- the site itself


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    # The theme's own announcement of a future version is no warning of this site.
    settings = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=settings)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    for name in ("index.html", "reference/api.html", "reference/cli.html", "reference/config.schema.json"):
        assert (tmp_path / "site" / name).stat().st_size > 1000
    api = (tmp_path / "site" / "reference" / "api.html").read_text(encoding="utf-8")
    assert "map_points" in api and "coefficients" in api


def test_the_schema_takes_every_preset_and_no_unknown_key():
    done = CliRunner().invoke(app, ["config", "--schema"])
    schema = json.loads(done.stdout)
    assert schema == Config.model_json_schema()
    for name in preset_names():
        jsonschema.validate(yaml.safe_load(preset_text(name)), schema)
    for name in cluster_names():
        jsonschema.validate({"cluster": yaml.safe_load(preset_text(f"clusters/{name}"))}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"affine": {"kindd": "rigid"}}, schema)
