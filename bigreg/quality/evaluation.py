"""What was measured of a run against landmarks, labels and an annotation: as tables, as JSON, as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import storage
from ..errors import InputError

FORMAT = 1
FILE = "evaluation.json"
TABLES = ("figures", "landmarks", "labels", "regions")
FIGURE = ("group", "name", "value", "unit", "note")


def sign(unit: str) -> str:
    """The unit of a figure as people read it; tables and JSON keep `um`, which needs no encoding."""
    return "µm" if unit == "um" else unit


@dataclass(frozen=True)
class Evaluation:
    """One run. Lengths are um. A figure that is not known is NaN (null in JSON, empty in CSV).

    run            its path; fixed, moving: what the images are (see Volume.identity)
    figures        (group, name, value, unit, note)
    landmarks      for each pair its fixed and moving place, the error before registration, after the affine and after
                   all, and whether the run had seen it
    labels         for each id its figures; regions: likewise
    """

    run: str
    fixed: Mapping[str, Any]
    moving: Mapping[str, Any]
    figures: Sequence[tuple[str, str, float, str, str]]
    landmarks: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    labels: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    regions: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    def value(self, group: str, name: str, note: str | None = None) -> float:
        """One figure; NaN where there is none of that name, and with `note` where it has another."""
        found = (v for g, n, v, _, m in self.figures if (g, n) == (group, name) and note in (None, m))
        return next(found, math.nan)

    def to_json(self) -> dict[str, Any]:
        data = {"format": FORMAT, "run": self.run, "fixed": dict(self.fixed), "moving": dict(self.moving)}
        data["figures"] = [dict(zip(FIGURE, row, strict=True)) for row in self.figures]
        data |= {name: [dict(row) for row in getattr(self, name)] for name in TABLES[1:]}
        return plain(data)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], place: str) -> Evaluation:
        """Raises InputError where it is not what `to_json` made."""
        if data.get("format") != FORMAT:
            raise InputError(
                f"'{place}' holds an evaluation of format {data.get('format')}, this bigreg reads {FORMAT}; "
                "evaluate the run again"
            )
        figures = [(r["group"], r["name"], _number(r["value"]), r["unit"], r["note"]) for r in data["figures"]]
        tables = {n: [{k: _number(v) for k, v in row.items()} for row in data[n]] for n in TABLES[1:]}
        return cls(data["run"], data["fixed"], data["moving"], figures, **tables)

    def write(self, folder: str) -> None:
        """evaluation.json, and each table that is not empty as CSV, into a folder or URL. Raises OutputError."""
        rows = {name: list(getattr(self, name)) for name in TABLES}
        rows["figures"] = [dict(zip(FIGURE, row, strict=True)) for row in self.figures]
        for name, table in rows.items():
            if table:
                storage.write_file(folder, f"{name}.csv", as_csv(table).encode("utf-8"))
        storage.write_file(folder, FILE, json.dumps(self.to_json(), indent=1).encode("utf-8"))


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with a header; NaN is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
    return out.getvalue()


def read_evaluation(folder: str) -> Evaluation | None:
    """What `Evaluation.write` wrote there; None where there is nothing. Raises InputError, CorruptDataError."""
    data = storage.read_json(folder, FILE)
    return None if data is None else Evaluation.from_json(data, storage.join(folder, FILE))


def plain(value: Any) -> Any:
    """The same in what JSON knows: numbers of Python, null for what is not finite."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _number(value: Any) -> Any:
    return math.nan if value is None else value
