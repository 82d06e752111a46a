"""The tree of an atlas's structures: from a table or an ontology file, and sums up the tree."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .. import storage
from ..errors import InputError

# What the columns are called by the Allen Institute, by BrainGlobe, and by people.
IDS = ("id", "identifier", "structure_id")
PARENTS = ("parent_structure_id", "parent_identifier", "parent_id", "parent")
PATHS = ("structure_id_path", "root_identifier_path")
ACRONYMS = ("acronym", "abbreviation")
NAMES = ("name", "safe_name")


@dataclass(frozen=True)
class Structure:
    """One structure: `id` is its label in the annotation, `parent` None for a root, `depth` 0 for a root."""

    id: int
    acronym: str
    name: str
    parent: int | None
    depth: int


class Structures:
    """All structures, each after its parent, siblings in the order of the file."""

    def __init__(self, rows: Sequence[tuple[int, str, str, int | None]], what: str = "structures") -> None:
        """rows: (id, acronym, name, parent); a parent that is no row, as an atlas cut out of a larger one has it, is
        none. Raises InputError for an id that is there twice, a circle, or no rows."""
        known = {row[0]: row for row in rows}
        if not rows:
            raise InputError(f"{what} has no structures; give the table or ontology of the annotation")
        if len(known) < len(rows):
            seen: set[int] = set()
            for id_, *_ in rows:
                if id_ in seen:
                    raise InputError(f"{what}: structure {id_} occurs twice; ids must be unique")
                seen.add(id_)
        children: dict[int | None, list[int]] = {}
        for id_, _, _, parent in rows:
            children.setdefault(parent if parent in known and parent != id_ else None, []).append(id_)
        self._all: dict[int, Structure] = {}
        pending: list[tuple[int, int | None, int]] = [(id_, None, 0) for id_ in reversed(children.get(None, []))]
        while pending:
            id_, parent, depth = pending.pop()
            self._all[id_] = Structure(id_, known[id_][1], known[id_][2], parent, depth)
            pending += [(child, id_, depth + 1) for child in reversed(children.get(id_, []))]
        if len(self._all) < len(rows):
            lost = next(r[0] for r in rows if r[0] not in self._all)
            raise InputError(f"{what}: structure {lost} is its own ancestor; correct its parent")

    def __iter__(self) -> Iterator[Structure]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, id_: int) -> bool:
        return int(id_) in self._all

    def __getitem__(self, id_: int) -> Structure:
        return self._all[int(id_)]

    @cached_property
    def digest(self) -> str:
        """Names the contents."""
        text = json.dumps([[s.id, s.acronym, s.name, s.parent] for s in self])
        return hashlib.sha256(text.encode()).hexdigest()

    def summed(self, values: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """For every structure its own value plus those of all below it; a structure without a value has 0.

        values   of each id, arrays of one shape; ids that are no structure are left out
        """
        shape = np.shape(next(iter(values.values()))) if values else ()
        total = {s.id: np.array(values.get(s.id, np.zeros(shape))) for s in self}
        for s in reversed(list(self)):
            if s.parent is not None:
                total[s.parent] = total[s.parent] + total[s.id]
        return total

    @classmethod
    def read(cls, path: str | Path) -> Structures:
        """From a table (.csv .tsv) or ontology (.json) as the Allen Institute and BrainGlobe write them.

        A table has a header with id, acronym and name, and parent_structure_id or structure_id_path (see the names at
        the top of this file). JSON is a list of such rows, or a tree whose nodes have `children`, either one perhaps
        under "msg". Raises InputError where it is neither.
        """
        path = Path(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"structures '{path}' cannot be read: {error}; check the path") from error
        text, _ = storage.decoded(content, f"structures '{path}'")
        if path.suffix.lower() == ".json":
            return cls.of_records(_flat(_json(path, text)), f"structures '{path}'")
        lines, _ = storage.table_rows(text)
        header, *rows = lines or [[]]
        names = [name.strip() for name in header]
        return cls.of_records([dict(zip(names, row, strict=False)) for row in rows], f"structures '{path}'")

    @classmethod
    def of_records(cls, records: Sequence[Mapping[str, Any]], what: str) -> Structures:
        """From rows that name their values."""
        rows = []
        for record in records:
            id_ = _number(_first(record, IDS))
            if id_ is None:
                raise InputError(f"{what}: a row has no id ({str(dict(record))[:120]}); its column is one of {IDS}")
            if id_ == 0:  # the background, which some tables list
                continue
            acronym = str(_first(record, ACRONYMS) or id_)
            rows.append((id_, acronym, str(_first(record, NAMES) or acronym), _parent(record, id_)))
        if rows and len(rows) > 1 and all(row[3] is None for row in rows):
            raise InputError(f"{what}: no row names its parent; the column is one of {(*PARENTS, *PATHS)}")
        return cls(rows, what)


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"structures '{path}' is not JSON: {error}; give the ontology or a .csv") from error


def _flat(data: Any, parent: int | None = None) -> list[dict[str, Any]]:
    """The rows of a list or tree."""
    if isinstance(data, dict) and "msg" in data:
        return _flat(data["msg"])
    if isinstance(data, dict):
        row = {k: v for k, v in data.items() if k != "children"}
        if parent is not None and not any(row.get(key) for key in PARENTS):
            row["parent_structure_id"] = parent
        below = _number(_first(row, IDS))
        return [row, *(r for child in data.get("children") or () for r in _flat(child, below))]
    if isinstance(data, list):
        return [r for item in data for r in _flat(item, parent)]
    raise InputError(f"structures: {str(data)[:60]!r} is not a structure; an ontology is a list or tree of them")


def _first(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first value that is there and not empty."""
    return next((record[n] for n in names if record.get(n) is not None and str(record[n]).strip() != ""), None)


def _number(value: Any) -> int | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number == int(number) else None


def _parent(record: Mapping[str, Any], id_: int) -> int | None:
    parent = _number(_first(record, PARENTS)) if _first(record, PARENTS) is not None else None
    if parent is not None:
        return parent
    path = _first(record, PATHS)
    if path is None:
        return None
    steps = [int(n) for n in (path if isinstance(path, (list, tuple)) else re.findall(r"\d+", str(path)))]
    above = steps[: steps.index(id_)] if id_ in steps else steps
    return above[-1] if above else None
