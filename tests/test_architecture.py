"""What may import what: the order of bigreg's packages, of the pipeline's rooms and of the plugin's folders."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the ground up: what stands in one line imports nothing of its own line and of those below it.
BIGREG = (
    "errors jit",
    "cluster geometry similarity storage",
    "config intensity quality transforms volumes",
    "networks phantom points",
    "models",
    "engines",
    "pipeline",
    "atlases demo display training",
    "cli",
    "__main__",
)
PIPELINE = ("store", "context", "schedule", "tasks", "judging", "planning results looking", "stages",
            "run", "calibrate chains compare")  # fmt: skip
PLUGIN = ("shared", "inspect landmarks launch monitor", "panels", "reader samples window")

ORDERS = {
    "bigreg": (ROOT / "bigreg", BIGREG),
    "bigreg.pipeline": (ROOT / "bigreg" / "pipeline", PIPELINE),
    "napari_bigreg": (ROOT / "plugins" / "napari_bigreg", PLUGIN),
}
DASK = ("bigreg.cluster", "bigreg.pipeline.schedule", "napari_bigreg.launch.preview")
"""Where a client of Dask is known; `dask.utils` and `dask.base`, which start nothing, are no client."""


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
