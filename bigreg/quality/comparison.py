"""Several runs side by side: their figures, and paired statistics of what was measured at the same places."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from scipy import stats

from .. import storage
from ..errors import InputError, named
from .evaluation import Evaluation, as_csv, plain, sign
from .report import Picture, number

RESAMPLES = 2000
SEED = 0
LEAST_PAIRS = 6  # with fewer no ranks can be told from chance at 5 %
SURE = 0.05  # of chance, below which a difference is told as one
OF_WHAT_IMAGE = ("path", "dataset", "channel", "time", "shape", "dtype", "spacing", "digest")

Series = Mapping[tuple, float]
"""One quantity of a run at places that other runs share: key -> value."""


@dataclass(frozen=True)
class Paired:
    """One quantity of a run against that of the first run, at the places where both are known.

    difference   mean of this run less the first, with its 95 % bootstrap interval
    wins         places where this run is better; p: two-sided Wilcoxon signed-rank test (ties of Pratt); holm: the same
                 after Holm's correction over the runs of this quantity. NaN with fewer than 6 pairs
    """

    quantity: str
    unit: str
    run: str
    pairs: int
    first_mean: float
    mean: float
    difference: float
    low: float
    high: float
    wins: int
    p: float
    holm: float
    more_is_better: bool

    @property
    def conclusion(self) -> str:
        """Whether the run is better than the first or worse, and by what; else what they differ by at most."""
        unit = f" {sign(self.unit)}" if self.unit else ""
        if not math.isfinite(self.low):
            return f"{self.quantity}: too few places to decide ({self.pairs})"
        if self.low <= 0 <= self.high or self.holm >= SURE:
            most = max(abs(self.low), abs(self.high))
            return f"{self.quantity}: no difference beyond {most:.3g}{unit} (95 %, {self.pairs} places)"
        word = "better" if (self.difference > 0) == self.more_is_better else "worse"
        means = f"{self.mean:.4g} against {self.first_mean:.4g}{unit}"
        return f"{self.quantity}: {word} by {abs(self.difference):.3g}{unit} ({means}, {self.pairs} places)"


@dataclass(frozen=True)
class Comparison:
    """`figures`: one row a figure, with (group, name, unit, value of each run); `paired`: see Paired.

    `pictures`: (title, picture of each run or None) for the page.
    """

    names: Sequence[str]
    figures: Sequence[tuple[str, str, str, tuple[float, ...]]]
    paired: Sequence[Paired]
    note: str = ""
    pictures: Sequence[tuple[str, Sequence[Picture | None]]] = field(default=(), repr=False)

    @property
    def conclusion(self) -> tuple[str, ...]:
        """What is to be said of each run but the first, in lines; folds of any run are named too."""
        lines = []
        for name in self.names[1:]:
            told = [p.conclusion for p in self.paired if p.run == name]
            lines += [f"{name} against {self.names[0]}: {'; '.join(told)}"] if told else []
        if not lines:
            lines = ["nothing was compared place by place, so no run is called better: see the figures"]
        for place, name in enumerate(self.names):
            folds = sum(
                v[place] for g, n, _, v in self.figures if g == "regularity" and n.startswith("folds") and v[place] > 0
            )
            lines += [f"{name} folds at {folds:.0f} cells: it has no inverse there"] if folds else []
        return tuple(lines)

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures, in what JSON knows."""
        return plain({
            "runs": list(self.names), "conclusion": list(self.conclusion), "figures": self._rows(),
            "paired": [asdict(p) for p in self.paired], "note": self.note,
        })  # fmt: skip

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"group": g, "figure": n, "unit": u, **dict(zip(self.names, values, strict=True))}
            for g, n, u, values in self.figures
        ]

    def write(self, folder: str) -> str:
        """comparison.json, figures.csv, paired.csv and index.html into a folder or URL; returns the page's path."""
        storage.write_file(folder, "figures.csv", as_csv(self._rows()).encode("utf-8"))
        if self.paired:
            storage.write_file(folder, "paired.csv", as_csv([asdict(p) for p in self.paired]).encode("utf-8"))
        storage.write_file(folder, "comparison.json", json.dumps(self.to_json(), indent=1).encode("utf-8"))
        storage.write_file(folder, "index.html", self.page().encode("utf-8"))
        return storage.join(folder, "index.html")

    def page(self) -> str:
        """One page of HTML that needs nothing but itself."""
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        environment.filters |= {"number": number, "sign": sign}
        template = files(__package__).joinpath("comparison.html.j2").read_text(encoding="utf-8")
        return environment.from_string(template).render(c=self)


def compare(
    names: Sequence[str],
    evaluations: Sequence[Evaluation],
    blocks: Sequence[Series],
    *,
    aggregate: bool = False,
) -> Comparison:
    """Put runs side by side; all but the first are compared with the first, place by place.

    blocks      of each run the local correlation of its blocks; empty where it is not known
    aggregate   figures only, which runs of different images have too
    Raises InputError for fewer than two runs, and, unless `aggregate`, where their fixed images differ.
    """
    if len(evaluations) < 2:
        raise InputError(f"compare needs two or more runs, not {len(evaluations)}")
    figures = _figures(evaluations)
    if aggregate:
        return Comparison(names, figures, (), "figures only")
    for name, other in zip(names[1:], evaluations[1:], strict=True):
        first = evaluations[0].fixed
        differ = [k for k in OF_WHAT_IMAGE if first.get(k) != other.fixed.get(k)]
        if differ:
            told = ", ".join(f"{k} {first.get(k)!r} and {other.fixed.get(k)!r}" for k in differ if k != "digest")
            raise InputError(
                f"the fixed images of '{names[0]}' and '{name}' differ ({told or 'in their metadata'}), so "
                f"nothing in them can be paired; pass {named('--aggregate', 'aggregate=True')} for their figures alone"
            )
    paired: list[Paired] = []
    for quantity, unit, better, series in _quantities(evaluations, blocks):
        rows = [_paired(quantity, unit, n, series[0], s, better) for n, s in zip(names[1:], series[1:], strict=True)]
        rows = [row for row in rows if row.pairs]
        holm = _holm([row.p for row in rows])
        paired += [Paired(**{**asdict(row), "holm": p}) for row, p in zip(rows, holm, strict=True)]
    note = (
        f"Differences from {names[0]}; intervals by {RESAMPLES} bootstrap resamples. Neighbouring blocks are alike, so "
        "their intervals are narrower and their p smaller than independent samples would give."
    )
    return Comparison(names, figures, paired, note)


def _figures(evaluations: Sequence[Evaluation]) -> list[tuple[str, str, str, tuple[float, ...]]]:
    """One row a figure with its value in each run; one whose meaning differs between runs has a row for each meaning.

    What counts as a large error follows from a run's finest level: shares of different errors are not to be compared.
    """
    meanings: dict[tuple[str, str, str], dict[str, None]] = {}
    for group, name, _, unit, note in (row for e in evaluations for row in e.figures):
        meanings.setdefault((group, name, unit), {})[note if group == "confidence" else ""] = None
    rows = []
    for (group, name, unit), notes in meanings.items():
        for note in notes:
            values = tuple(float(e.value(group, name, note or None)) for e in evaluations)
            told = f"{name} ({note.partition(';')[0]})" if len(notes) > 1 else name
            rows.append((group, told, unit, values))
    return rows


def _quantities(evaluations: Sequence[Evaluation], blocks: Sequence[Series]):
    """(name, unit, +1 where more is better or -1, series of each run)."""
    place = [f"{w}_{a}" for w in ("fixed", "moving") for a in "zyx"]
    yield (
        "landmark error", "um", -1,
        [
            {tuple(round(float(r[k]), 3) for k in place): float(r["error_after"]) for r in e.landmarks if not r["seen"]}
            for e in evaluations
        ],
    )  # fmt: skip
    for name, unit, better, column in (
        ("Dice", "", 1, "dice"), ("HD95", "um", -1, "hd95_um"), ("surface distance", "um", -1, "surface_distance_um"),
    ):  # fmt: skip
        yield name, unit, better, [{(r["label"],): float(r[column]) for r in e.labels} for e in evaluations]
    yield "local correlation per block", "", 1, list(blocks)


def _paired(quantity: str, unit: str, run: str, first: Series, other: Series, better: int) -> Paired:
    keys = [k for k in first if k in other and math.isfinite(first[k]) and math.isfinite(other[k])]
    a, b = (np.array([s[k] for k in keys], float) for s in (first, other))
    d = b - a
    nan = math.nan
    if not len(d):
        return Paired(quantity, unit, run, 0, nan, nan, nan, nan, nan, 0, nan, nan, better > 0)
    low, high = bootstrap(d)
    wins = int((better * d > 0).sum())
    p = signed_rank(d)
    return Paired(
        quantity,
        unit,
        run,
        len(d),
        float(a.mean()),
        float(b.mean()),
        float(d.mean()),
        low,
        high,
        wins,
        p,
        nan,
        better > 0,
    )


def bootstrap(values: np.ndarray, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % percentile interval of the mean; the same for the same values. NaN for fewer than two."""
    if len(values) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(SEED)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def signed_rank(differences: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; 1 where nothing differs, NaN with too few pairs."""
    if len(differences) < LEAST_PAIRS:
        return math.nan
    if not differences.any():
        return 1.0
    return float(stats.wilcoxon(differences, zero_method="pratt").pvalue)


def _holm(values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down correction; NaN stays and does not count."""
    known = sorted((p, i) for i, p in enumerate(values) if math.isfinite(p))
    out, most = [math.nan] * len(values), 0.0
    for rank, (p, i) in enumerate(known):
        most = max(most, min(1.0, p * (len(known) - rank)))
        out[i] = most
    return out
