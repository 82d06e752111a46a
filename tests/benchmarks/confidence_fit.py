"""Fit the risk of an error on registered pairs whose answer is known, and judge it by kinds of images it did not see.

    python tests/benchmarks/confidence_fit.py DATA WORK [--make [PAIR ...]] [--tables]

Prints the weights of bigreg/quality/confidence_model.py; with --tables also those of RESULTS.md. WORK keeps the pairs
(see confidence_pairs.py; --make makes those that are not there, all or some, which takes hours for all) and the
features of their tiles (tiles.pkl: delete it when features or pairs have changed).

The fit begins from the weights that are there and moves them as far as the pairs speak for it (KEPT): a fit of these
pairs alone tells less of images that it did not see. Pairs of the images JUDGED are never fitted on.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from confidence_pairs import Pair, make, sampled
from scipy import special

from bigreg.quality import confidence_model
from bigreg.quality.confidence import LARGE, RISKY, STRUCTURED, TILE, terms
from bigreg.quality.tile_features import features, pooled

POWER = -0.3
"""A tile counts as (tiles of its case)^POWER: tiles of one case are not independent."""
KEPT = 3.0
"""Ridge on the change of standardised weights. Of .03 to 3 the largest told most of every kind of image by a fit of the
others; with 0 in place of the weights that are there, all told less."""
JUDGED = {"mouse": "mouse brain", "head": "head"}
"""Sources that are not fitted on, and their kind of image."""
IMAGES = {"left": "cells", "right": "cells", "second": "cells", "template": "template", "whole": "light-sheet brain",
          "brain": "light-sheet brain", "phantom": "phantom", **JUDGED}  # fmt: skip
FAMILY = {"noise3": "noise", "noise10": "noise", "noise25": "noise", "invnoise": "noise", "cut": "hole"}
OF_WHOLE = {"missing": "hole", "noise": "noisy"}
"""How the kinds of confidence.py are called among those of confidence_kinds.py."""
FEWEST = 4
"""Tiles with structure that a case needs to have a share."""

Weights = tuple[np.ndarray, float]
"""Of the terms, and the bias."""


@dataclass
class Case:
    """Tiles that can be judged: features (N,) each and their error (N,), voxels."""

    name: str
    source: str
    kind: str
    signed: bool
    features: dict[str, np.ndarray]
    error: np.ndarray

    @property
    def large(self) -> np.ndarray:
        return self.error > LARGE

    @property
    def structured(self) -> np.ndarray:
        return self.features["detail"] >= STRUCTURED


def tiles(pair: Pair, signed: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Features and mean error (voxels) of the tiles of a pair whose true place lies in moving for most of them."""
    fixed, moving, places, truth = (pair[k].astype("f4") for k in ("fixed", "moving", "places", "truth"))
    warped, inside = sampled(moving, places)
    inside &= pair["shared"]
    whole = [-(-n // TILE) * TILE for n in fixed.shape]
    padding = [(0, w - n) for w, n in zip(whole, fixed.shape, strict=True)]
    whole_tiles = (torch.as_tensor(np.pad(i, padding)) for i in (fixed, warped, inside))
    found = features(pooled(*whole_tiles), signed=signed)
    error = np.linalg.norm(places - truth, axis=0)
    top = np.reshape(np.subtract(moving.shape, 1), (3, 1, 1, 1))
    error = np.where(((truth >= 0) & (truth <= top)).all(0), error, np.nan)
    z, y, x = (n // TILE for n in whole)
    error = np.pad(error, padding, constant_values=np.nan).reshape(z, TILE, y, TILE, x, TILE)
    known = np.isfinite(error).mean((1, 3, 5)) >= 0.5
    mean = np.nansum(error, (1, 3, 5)) / np.maximum(np.isfinite(error).sum((1, 3, 5)), 1)
    use = known & np.all([np.isfinite(v) for v in found.values()], axis=0)
    return {k: v[use].astype(float) for k, v in found.items()}, mean[use]


def cases(work: Path) -> list[Case]:
    """Every case of the pairs in WORK that has tiles to be judged; some also as if any contrast were allowed."""
    out: list[Case] = []

    def add(name: str, source: str, kind: str, pair: Pair, signed: bool) -> None:
        found, error = tiles(pair, signed)
        if len(error):
            out.append(Case(name, source, FAMILY.get(kind, kind), signed, found, error))

    for group in ("whole", "kinds", "patch"):
        for path in sorted((work / group).glob("*.npz")):
            if path.name.endswith(".partial.npz"):
                continue
            parts = path.stem.split("-")
            kind, source = (OF_WHOLE.get(parts[2], parts[2]), parts[0]) if group == "whole" else parts[:2]
            pair, signed = dict(np.load(path)), group == "whole" or parts[-1] == "lncc"
            add(path.stem, source, kind, pair, signed)
            if group == "patch" and signed and int(parts[2]) % 3 == 0:
                add(f"{path.stem}, any contrast", source, kind, pair, False)
    return out


def shipped() -> Weights:
    rows = confidence_model.MODEL.values()
    return np.array([row[2] for row in rows] + [w for row in rows for w in row[3]]), confidence_model.BIAS


def fit(some: list[Case]) -> Weights:
    """The weights that are there, moved by Newton's method on a logistic regression with a ridge on the change."""
    values = np.concatenate([terms(c.features).T for c in some])
    large = np.concatenate([c.large for c in some])
    weight = np.concatenate([np.full(len(c.error), len(c.error) ** POWER) for c in some])
    weight /= weight.sum()
    middle = weight @ values
    spread = np.sqrt(weight @ (values - middle) ** 2) + 1e-9
    z = np.c_[(values - middle) / spread, np.ones(len(values))]
    penalty = KEPT * np.r_[np.ones(values.shape[1]), 0.0]
    before, bias = shipped()
    first = np.r_[before * spread, bias + before @ middle]
    b = first.copy()
    for _ in range(40):
        p = special.expit(z @ b)
        slope = z.T @ (weight * (p - large)) + penalty * (b - first)
        step = np.linalg.solve((z * (weight * p * (1 - p))[:, None]).T @ z + np.diag(penalty + 1e-9), slope)
        b -= step
        if np.abs(step).max() < 1e-6:
            break
    weights = (b[:-1] / spread).round(4)
    return weights, round(float(b[-1] - weights @ middle), 4)


def told(weights: Weights, case: Case) -> np.ndarray:
    return special.expit(weights[1] + weights[0] @ terms(case.features))


def model(weights: Weights) -> None:
    """Print what quality/confidence_model.py holds."""
    own, products = (
        weights[0].tolist()[: len(confidence_model.MODEL)],
        weights[0].tolist()[len(confidence_model.MODEL) :],
    )
    print("MODEL: Model = {")
    for place, (name, row) in enumerate(confidence_model.MODEL.items()):
        count = len(confidence_model.MODEL) - place
        print(f'    "{name}": {(*row[:2], own[place], tuple(products[:count]))},')
        products = products[count:]
    print(f"}}\nBIAS = {weights[1]}")


Told = list[tuple[Case, np.ndarray]]


def shares(some: Told) -> np.ndarray:
    """(cases, 2) expected and true share of the tiles with structure that are off; of cases that have some."""
    found = [
        (risk[c.structured].mean(), c.large[c.structured].mean()) for c, risk in some if c.structured.sum() >= FEWEST
    ]
    return np.array(found).reshape(-1, 2)


def row(name: str, some: Told) -> None:
    """Means over cases, and how many of these are within 5 points."""
    found = shares(some)
    if len(found):
        apart = np.abs(found[:, 0] - found[:, 1])
        expected, true = found.mean(0)
        print(f"| {name} | {len(found)} | {expected:.3f} | {true:.3f} | {(apart <= 0.05).mean():.0%} |")


def by(some: Told, names: Iterable[str]) -> None:
    rows: dict[str, Told] = {}
    for each, name in zip(some, names, strict=True):
        rows.setdefault(name, []).append(each)
    print("\n| | cases | expected | true | cases within 5 points |\n|---|---|---|---|---|")
    for name, found in sorted(rows.items()):
        row(name, found)


def tables(every: list[Case], weights: Weights) -> None:
    before = shipped()
    kinds = sorted({IMAGES[c.source] for c in every})
    others = {k: fit([c for c in every if IMAGES[c.source] not in (k, *JUDGED.values())]) for k in kinds}
    left_out = [(c, told(others[IMAGES[c.source]], c)) for c in every]
    judged = [(c, told(weights, c)) for c in every if c.source in JUDGED]
    for title, some in (
        ("judged, as it was", [(c, told(before, c)) for c, _ in judged]),
        ("judged, as printed", judged),
        ("each kind of image by a fit of the others", left_out),
    ):
        print(f"\n## {title}")
        by(some, [IMAGES[c.source] for c, _ in some])
        by(some, [f"{c.kind}, {'same' if c.signed else 'any'} contrast" for c, _ in some])
        risk, large = np.concatenate([r for _, r in some]), np.concatenate([c.large for c, _ in some])
        bins = np.clip(risk * 10, 0, 9).astype(int)
        parts = [f"{large[bins == b].mean():.2f} ({(bins == b).sum()})" for b in range(10)]
        print("\nlarge where the risk is 0 .. .1, .1 .. .2, ... (tiles):", *parts)
        flagged = risk >= RISKY
        print(f"flagged: recall {large[flagged].sum() / large.sum():.3f}, precision {large[flagged].mean():.3f}")
        found = shares(some)
        limits = (0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
        print("\n| cases at or above an expected share of |", *(f"{v:g} |" for v in limits))
        print("|---|" + "---|" * len(limits))
        for name, those in (("right, under .02", found[:, 1] < 0.02), ("wrong, from .1 on", found[:, 1] >= 0.1)):
            print(f"| {name}: {those.sum()} |", *(f"{(found[those, 0] >= v).sum()} |" for v in limits))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--make", nargs="*", metavar="PAIR")
    parser.add_argument("--tables", action="store_true")
    args = parser.parse_args()
    if args.make is not None:
        make(args.data, args.work, args.make)
    kept = args.work / "tiles.pkl"
    if not kept.exists():
        kept.write_bytes(pickle.dumps(cases(args.work)))
    every: list[Case] = pickle.loads(kept.read_bytes())
    weights = fit([c for c in every if c.source not in JUDGED])
    model(weights)
    if args.tables:
        tables(every, weights)


if __name__ == "__main__":
    main()
