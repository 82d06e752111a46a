"""Plain English where users read: README, documentation, help, reports, napari, messages, the public API."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from pathlib import Path

import pytest
import typer

import bigreg
from bigreg.cli import app
from bigreg.config import Config, cluster_names, preset_names, preset_text

ROOT = Path(__file__).resolve().parents[1]

MEASURES = (
    "worker|block|core|GPU|second|million|voxel|mm³|mm3|level|axis|cell|stage|um|minute|job|process|patch|"
    "point|tile|run|step|look"
)
PHRASES = (
    # habits
    r"\b(?:goes|go|going|gone) on\b",
    r"\bas (?:they|the images|it) lies?\b",
    r"\bsame bits\b",
    r"\bwhat is done is kept\b",
    r"\b(?:is|are|was|were|be|been) told\b(?! apart)",
    r"shows? (?:in one of them )?what the other does not", r"deforms nothing", r"\bfound by itself\b",
    r"\bin hand per\b", r"against 1 of the\b", r"\bof one image alone\b", r"\bone contrast from\b",
    r"\btells so\b|\bis said\b|\bnot said\b|\bsays itself\b",
    r"\b(?:memory|MB|GB|GiB|MiB|bytes|seconds|value|values|um|µm|processes?|one|row|column|line|bar|width|widths) "
    rf"an? (?:{MEASURES})\b",
    # the listed ones
    r"met the end of memory", r"light-sheet data of terabytes", r"the first run compiles", r"what else belongs to",
    r"lies on the grid of", r"commonest", r"What you said of", r"joined to one map", r"handed to other programs",
    r"goes wrong, pairs of landmarks", r"leave them something to say", r"told without a truth", r"all below it",
    r"never what is written", r"takes the place of the search", r"nothing is alike", r"looks like any other",
    r"for how long will it run", r"not imaged yet", r"Sides at which", r"World place", r"Who works",
    r"its disk is looked at", r"need not exist", r"bring coarser levels", r"Whose voxels", r"does not say it",
    r"Look closer before use", r"structure that are off", r"elsewhere nothing tells", r"which these were not taken for",
    r"as good as its far ends", r"run on across", r"velocity taken away", r"\beffort\b", r"How it was made",
    r"eight stencils, whole field", r"atlas is not said", r"nothing to compare", r"is no Zarr", r"being worked on",
    r"jobs are with", r"error after all", r"how it fared",
)  # fmt: skip
WRONG = re.compile("|".join(f"(?:{phrase})" for phrase in PHRASES))


def pages():
    """What is read as it is: (place, text)."""
    # The changelog quotes the names that figures had before.
    yield "CHANGELOG.md", re.sub(r"`[^`]*`", "", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    for path in (ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for path in (*ROOT.rglob("bigreg/**/*.j2"), ROOT / "plugins" / "napari_bigreg" / "napari.yaml"):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for name in (*preset_names(), *(f"clusters/{name}" for name in cluster_names())):
        yield f"preset {name}", preset_text(name)


def helps():
    """The help of the command and of every verb, argument and option."""
    root = typer.main.get_command(app)
    yield "bigreg", f"{root.help} {root.epilog}"
    for name, command in root.commands.items():
        yield name, " ".join(filter(None, (command.help, command.epilog)))
        yield from ((f"{name} {p.name}", getattr(p, "help", None) or "") for p in command.params)


def messages():
    """Every text in the code that is no docstring: errors, reports, tables, tool tips."""
    for top in ("bigreg", "plugins"):
        for path in sorted((ROOT / top).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            skipped = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
            skipped |= {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
            for node in ast.walk(tree):
                if id(node) in skipped:
                    continue
                if isinstance(node, ast.JoinedStr):
                    parts = (v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", "".join(map(str, parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


def docstrings():
    """Those that the pages on the API show."""
    text = "".join(page.read_text() for page in sorted((ROOT / "docs" / "reference").glob("*.md")))
    for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE):
        if importlib.util.find_spec(name.rpartition(".")[0]) is None or name == "bigreg.errors":
            things = vars(importlib.import_module(name)).items()
        else:
            thing = getattr(importlib.import_module(name.rpartition(".")[0]), name.rpartition(".")[2])
            things = [("", thing), *(inspect.getmembers(thing) if inspect.isclass(thing) else [])]
        for member, thing in things:
            own = getattr(thing, "fget", thing)
            known = inspect.isclass(own) or inspect.isfunction(own)
            if known and not member.startswith("_") and (own.__module__ or "").startswith("bigreg"):
                yield f"{name} {member}", inspect.getdoc(thing) or ""


def schema():
    """What the configuration's reference and its JSON schema say of sections and keys."""

    def texts(node, place):
        if isinstance(node, dict):
            if isinstance(node.get("description"), str):
                yield place, node["description"]
            for key, value in node.items():
                yield from texts(value, f"{place}.{key}")

    yield from texts(Config.model_json_schema(), "schema")


PLAIN_UM = re.compile(r"(?<![\w./=-])um(?![\w=])")
VALUES = ("um, mm or voxel", "or um", "um (default)")
"""Where `um` is what the reader may give as a unit; alone it is one too."""
CODE = re.compile(r"^```.*?^```$|`[^`]*`", re.MULTILINE | re.DOTALL)


def plain_um(text):
    """Whether the micrometre is written without its sign, outside of code."""
    text = CODE.sub("", text)
    for value in VALUES:
        text = text.replace(value, "")
    return text.strip() != "um" and PLAIN_UM.search(text) is not None


@pytest.mark.parametrize("source", [pages, helps, messages], ids=lambda f: f.__name__)
def test_the_micrometre_has_its_sign(source):
    assert [f"{place}: {text[:99]!r}" for place, text in source() if plain_um(text)] == []


def test_a_micrometre_without_its_sign_is_found():
    assert plain_um("moved by 3 um") and plain_um("(um)") and plain_um("in um, `um`")
    assert not plain_um("`um`") and not plain_um("um") and not plain_um("spacing_um") and not plain_um("3 µm")
    assert not plain_um("Units: um, mm or voxel.")


@pytest.mark.parametrize("source", [pages, helps, messages, docstrings, schema], ids=lambda f: f.__name__)
def test_no_phrase_that_readers_stumble_over(source):
    texts = list(source())
    assert len(texts) > 15
    found = [f"{place}: ...{text[max(0, m.start() - 30) : m.end() + 30]!r}" for place, text in texts
             for m in WRONG.finditer(text)]  # fmt: skip
    assert found == []


def test_such_phrases_are_found():
    for text in ("memory a worker", "the run goes on", "as the images lie", "it is told", "one value a block"):
        assert WRONG.search(text), text
    for text in ("a worker", "and so on", "memory per worker", "cannot be told apart", bigreg.__doc__):
        assert not re.search(PHRASES[4], text), text
