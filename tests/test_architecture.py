"""What may import what: the order of bigreg's packages, of the pipeline's rooms and of the plugin's folders."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the ground up: what stands in a line imports nothing else of that line, and nothing of the lines below it.
# Imports inside of functions and for type checkers count as all others do. `bigreg` and `napari_bigreg` themselves are
# the front doors: bigreg's imports on first use.
BIGREG = (
    "errors jit keys trial_cuda",
    "endings kernels places",
    "cluster device geometry similarity storage",
    "config intensity quality transforms volumes",
    "display networks phantom points",
    "models",
    "engines",
    "pipeline",
    "atlases demo testing training",
    "browser",
    "cli",
    "__main__",
)
PIPELINE = (
    "labels store",
    "context",
    "schedule",
    "tasks",
    "judging",
    "choosing",
    "looking planning results",
    "stages",
    "run",
    "pieces",
    "calibrate chains compare doctor",
)
PLUGIN = ("shared", "inspect landmarks launch monitor", "panels", "reader samples window")

ORDERS = {
    "bigreg": (ROOT / "bigreg", BIGREG),
    "bigreg.pipeline": (ROOT / "bigreg" / "pipeline", PIPELINE),
    "napari_bigreg": (ROOT / "plugins" / "napari_bigreg", PLUGIN),
}
DASK = ("bigreg.cluster", "bigreg.pipeline.schedule", "napari_bigreg.launch.preview")
"""Where `distributed` is known; `dask.base` and `dask.utils`, which parse and name things, are no client."""


def imports_of(path: Path, module: str, package: bool) -> Iterator[tuple[str, int]]:
    """Every dotted name that a file imports, wherever in it, and the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".") if package else module.split(".")[:-1]
            base = [*parts[: len(parts) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from ((".".join([*base, name.name]), node.lineno) for name in node.names)


def files_of(top: str, folder: Path) -> Iterator[tuple[str, Path, bool]]:
    """(module, file, whether it is a package) of everything below a package."""
    for path in sorted(folder.rglob("*.py")):
        parts = [top, *path.relative_to(folder).with_suffix("").parts]
        package = parts[-1] == "__init__"
        yield ".".join(parts[:-1] if package else parts), path, package


def arrows_up(top: str, folder: Path, order: tuple[str, ...]) -> list[str]:
    """What imports something of its own line of the order, or of one below it; and what has no place in the order."""
    height = {name: number for number, line in enumerate(order) for name in line.split()}
    wrong = []
    for module, path, package in files_of(top, folder):
        if module == top:
            continue
        here = module.removeprefix(f"{top}.").split(".")[0]
        if here not in height:
            wrong.append(f"{module}: '{here}' has no place in the order of {top}")
            continue
        for name, line in imports_of(path, module, package):
            if not name.startswith(f"{top}."):
                continue
            there = name.removeprefix(f"{top}.").split(".")[0]
            if there in height and there != here and height[there] >= height[here]:
                wrong.append(f"{module}, line {line}: imports {name}, which stands no lower")
    return wrong


@pytest.mark.parametrize("top", ORDERS)
def test_no_import_leads_up(top):
    folder, order = ORDERS[top]
    assert arrows_up(top, folder, order) == []


def test_an_import_that_leads_up_is_found(tmp_path):
    files = {
        "low/a.py": "def f():\n    from ..high.b import g\n",
        "high/b.py": "from ..low import a\n",
        "beside/c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import top.high.b\n",
        "new/d.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    assert arrows_up("top", tmp_path, ("low", "beside high")) == [
        "top.beside.c, line 3: imports top.high.b, which stands no lower",
        "top.low.a, line 2: imports top.high.b.g, which stands no lower",
        "top.new.d: 'new' has no place in the order of top",
    ]


def test_every_name_of_an_order_is_there():
    for folder, order in ORDERS.values():
        for name in " ".join(order).split():
            assert (folder / name / "__init__.py").exists() or (folder / f"{name}.py").exists(), name


def test_nothing_of_bigreg_imports_its_tools_for_tests():
    found = {
        module
        for module, path, package in files_of("bigreg", ORDERS["bigreg"][0])
        if any(name.startswith("bigreg.testing") for name, _ in imports_of(path, module, package))
    }
    assert {module for module in found if not module.startswith("bigreg.testing")} == set()


def test_who_knows_dask():
    found = {
        module
        for top in ("bigreg", "napari_bigreg")
        for module, path, package in files_of(top, ORDERS[top][0])
        if any(name.split(".")[0] == "distributed" for name, _ in imports_of(path, module, package))
    }
    assert {module for module in found if not module.startswith(DASK)} == set()
    assert all(any(module.startswith(place) for module in found) for place in DASK)


def test_the_store_imports_no_torch():
    names = [module for module, _, _ in files_of("bigreg.pipeline.store", ROOT / "bigreg" / "pipeline" / "store")]
    code = f"import sys, {', '.join(names)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert len(names) > 5 and done.stdout.strip() == "False", done.stderr


def test_the_names_in_contributing_exist():
    """Every `bigreg.a.b` is a module or something in one, every path is a file or a folder."""
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`((?:bigreg|napari_bigreg)(?:\.\w+)+)`", text))
    assert len(names) > 20
    for name in sorted(names):
        thing = pkgutil.resolve_name(name)
        assert thing is not None, name
    for place in set(re.findall(r"`((?:bigreg|tests|plugins|configs|\.ci|\.github)/[\w./]*)`", text)):
        assert (ROOT / place).exists(), place
