"""Fit the risk of an error on registered pairs whose answer is known, and judge it by kinds that it did not see.

    python tests/benchmarks/confidence_fit.py DATA WORK [--make [PAIR ...]] [--tables]

Prints the weights of bigreg/quality/confidence_model.py; with --tables also those of RESULTS.md. WORK keeps the pairs
(see confidence_pairs.py; --make makes those that are not there, all or some, which takes hours for all) and the
features of their tiles (tiles.pkl: delete it when features or pairs have changed). Of each pair further cases are made:
the same seen by any contrast, copies with noise, shading, holes or cuts put in after registration, and maps that are
far off. Whole registrations count most.
"""

from __future__ import annotations

import argparse
import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from confidence_pairs import Pair, make, sampled
from scipy import ndimage, special

from bigreg.quality.confidence import LARGE, RISKY, STRUCTURED, TILE, terms
from bigreg.quality.tile_features import features, pooled

OF_A_COPY, OF_FAR_OFF = 0.3, 0.3
"""Weight of a case that no registration made, of one that was registered 1."""
COPIES, FAR_OFF = 2, 1
"""Of each pair of a patch."""
POWER, RIDGE = -0.3, 3e-4
"""A tile counts as (tiles of its case)^POWER: tiles of one case are not independent. Ridge on standardised terms."""
ANY_CONTRAST = {"inverted", "curve", "regions", "invnoise"}
FAMILY = {"noise3": "noise", "noise10": "noise", "noise25": "noise", "invnoise": "noise", "cut": "hole"}
OF_WHOLE = {"missing": "hole", "noise": "noisy"}
"""How the kinds of confidence.py are called among those of confidence_kinds.py."""


@dataclass
class Case:
    """Tiles that can be judged: features (N,) each and their error (N,), voxels. kinds: what is special about it."""

    name: str
    source: str
    kinds: frozenset[str]
    signed: bool
    registered: bool
    weight: float
    features: dict[str, np.ndarray]
    error: np.ndarray

    @property
    def large(self) -> np.ndarray:
        return self.error > LARGE


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
    """Every case of the pairs in WORK that has tiles to be judged."""
    out: list[Case] = []

    def add(name: str, source: str, kinds: set[str], pair: Pair, signed: bool, weight: float) -> None:
        found, error = tiles(pair, signed)
        if len(error):
            kinds = frozenset(FAMILY.get(k, k) for k in kinds)
            out.append(Case(name, source, kinds, signed, weight == 1.0, weight, found, error))

    for group in ("whole", "kinds", "patch"):
        for path in sorted((work / group).glob("*.npz")):
            parts = path.stem.split("-")
            kind, source = (OF_WHOLE.get(parts[2], parts[2]), parts[0]) if group == "whole" else parts[:2]
            pair, signed = dict(np.load(path)), group == "whole" or parts[-1] == "lncc"
            add(path.stem, source, {kind}, pair, signed, 1.0)
            if group != "patch":
                continue
            if signed and int(parts[2]) % 3 == 0:
                add(f"{path.stem}, any contrast", source, {kind}, pair, False, 1.0)
            for number in range(COPIES + FAR_OFF):
                rng = np.random.default_rng(zlib.crc32(f"{path.stem} {number}".encode()))
                signed = number % 3 != 2 and kind not in ANY_CONTRAST
                maker, weight = (copy, OF_A_COPY) if number < COPIES else (far_off, OF_FAR_OFF)
                changed, more = maker(pair, signed, rng)
                add(f"{path.stem} {number}", source, {kind, *more}, changed, signed, weight)
    return out


def copy(pair: Pair, signed: bool, rng: np.random.Generator) -> tuple[Pair, set[str]]:
    """The pair with things put in after registration, where the map is as found or right; and what was put in."""
    fixed, moving, places, truth = (pair[k].astype("f4") for k in ("fixed", "moving", "places", "truth"))
    kinds = set()

    def chance(share: float, kind: str) -> bool:
        if rng.random() < share:
            kinds.add(kind)
            return True
        return False

    shared = pair["shared"]
    if chance(0.2, "hole"):
        hole = _ball(moving.shape, rng, rng.uniform(6, 12))
        moving = np.where(hole, 0, moving)
        if signed:  # such a hole is found; without signs it need not be
            shared = shared & (sampled(hole.astype("f4"), places)[0] < 0.5)
    if chance(0.12, "blank"):
        empty = ndimage.gaussian_filter(_ball(moving.shape, rng, rng.uniform(8, 16)).astype("f4"), 2)
        moving = moving * (1 - empty)
        fixed = fixed * (1 - ndimage.map_coordinates(empty, truth, order=1, mode="nearest"))
    if chance(0.25, "gradient"):
        axis = int(rng.integers(3))
        ramp = np.linspace(1, rng.uniform(0.1, 0.6), moving.shape[axis], dtype="f4")
        moving = moving * np.expand_dims(ramp, [a for a in range(3) if a != axis])
    if chance(0.15, "stripes"):
        rows = (rng.random(moving.shape[1] // 4 + 1) > 0.6).repeat(4)[: moving.shape[1]]
        moving = moving * (1 - 0.7 * rows[:, None])
    if chance(0.2, "gamma"):
        fixed = np.clip(fixed, 0, 3) ** rng.uniform(0.5, 1.8)
    if not signed:
        fixed = _another_contrast(fixed, kinds, rng)
    noise = float(rng.choice([0, 0, 0, 0.03, 0.06, 0.1, 0.15, 0.25]))
    if noise:
        kinds.add("noise")
        fixed, moving = (i + rng.normal(0, noise, i.shape).astype("f4") for i in (fixed, moving))
    if rng.random() < 0.4:
        small = [ndimage.gaussian_filter(rng.standard_normal(fixed.shape), 4, mode="wrap") for _ in range(3)]
        places = truth + np.stack(small) * rng.uniform(0.1, 1.0) / np.sqrt(np.square(small).sum(0)).max()
    pair = {"fixed": fixed, "moving": moving, "places": places, "truth": truth, "shared": shared}
    if chance(0.12, "small"):
        side = int(rng.choice([16, 24, 32]))
        low = np.array([rng.integers(max(n - side, 0) + 1) for n in fixed.shape])
        return _cut(pair, low, np.minimum(low + side, fixed.shape), both=True), kinds
    if chance(0.12, "slab"):
        low, high = np.zeros(3, int), np.array(fixed.shape)
        deep = int(rng.integers(8, 17))
        low[0] = rng.integers(max(fixed.shape[0] - deep, 0) + 1)
        high[0] = min(low[0] + deep, fixed.shape[0])
        return _cut(pair, low, high, both=True), kinds
    if chance(0.15, "overlap"):
        pair["moving"] = moving[:, :, : int(moving.shape[2] * rng.uniform(0.4, 0.8))]
    return pair, kinds


def far_off(pair: Pair, signed: bool, rng: np.random.Generator) -> tuple[Pair, set[str]]:
    """The pair with a map that is wrong by 3.5 to 14 voxels everywhere; of images with little to much noise."""
    fixed, moving, truth = (pair[k].astype("f4") for k in ("fixed", "moving", "truth"))
    noise = rng.uniform(0.6, 3) if rng.random() < 0.3 else rng.choice([0, 0, 0.03, 0.1, 0.25])
    fixed, moving = (i + rng.normal(0, noise, i.shape).astype("f4") for i in (fixed, moving))
    direction = rng.standard_normal(3)
    error = (direction / np.linalg.norm(direction) * rng.uniform(3.5, 14)).reshape(3, 1, 1, 1)
    bent = np.stack([ndimage.gaussian_filter(rng.standard_normal(fixed.shape), 10, mode="wrap") for _ in range(3)])
    error = error + bent * rng.uniform(0.5, 4) / np.sqrt((bent**2).sum(0)).max()
    pair = {"fixed": fixed, "moving": moving, "places": truth + error, "truth": truth, "shared": pair["shared"] | True}
    if rng.random() < 0.2:
        low = np.maximum((np.array(fixed.shape) - 16) // 2, 0)
        pair = _cut(pair, low, np.minimum(low + 16, fixed.shape), both=False)
    return pair, {"lost"}


def _ball(shape: tuple[int, ...], rng: np.random.Generator, radius: float) -> np.ndarray:
    centre = [rng.uniform(0, n) for n in shape]
    return sum((g - c) ** 2 for g, c in zip(np.ogrid[tuple(map(slice, shape))], centre, strict=True)) < radius**2


def _another_contrast(fixed: np.ndarray, kinds: set[str], rng: np.random.Generator) -> np.ndarray:
    which = ("inverted", "curve", "patchy", "same", "same")[rng.integers(5)]
    if which == "inverted":
        fixed = 1 - fixed
    elif which == "curve":
        fixed = 4 * fixed.clip(0, 1) * (1 - fixed.clip(0, 1))
    elif which == "patchy":
        share = special.expit(200 * ndimage.gaussian_filter(rng.standard_normal(fixed.shape), 8)).astype("f4")
        fixed = fixed * (1 - share) + (1 - fixed) * share
    kinds |= {which} - {"same"}
    low, high = np.percentile(fixed, [1, 99.9])
    return (fixed - low) / max(high - low, 1e-3)


def _cut(pair: Pair, low: np.ndarray, high: np.ndarray, both: bool) -> Pair:
    """A box of fixed, and the same of moving where `both` and where it has some."""
    box = tuple(map(slice, low, high))
    out = {
        **pair,
        **{k: pair[k][box] for k in ("fixed", "shared")},
        **{k: pair[k][:, *box] for k in ("places", "truth")},
    }
    if both and (np.minimum(high, pair["moving"].shape) - low > 4).all():
        out["moving"] = np.ascontiguousarray(pair["moving"][box])
        out |= {k: out[k] - low.reshape(3, 1, 1, 1) for k in ("places", "truth")}
    return out


Fitted = tuple[dict[str, tuple], float]


def fit(some: list[Case]) -> Fitted:
    """What quality/confidence_model.py holds, by Newton's method on a logistic regression with a ridge."""
    found = {name: np.concatenate([c.features[name] for c in some]) for name in some[0].features}
    large = np.concatenate([c.large for c in some])
    weight = np.concatenate([np.full(len(c.error), c.weight * len(c.error) ** POWER) for c in some])
    weight /= weight.sum()
    scales = {n: (round(float(weight @ v), 4), round(float(v.std()), 4)) for n, v in found.items()}
    values = terms(found, {name: (*s, 0.0, ()) for name, s in scales.items()}).T
    middle = weight @ values
    spread = np.sqrt(weight @ (values - middle) ** 2) + 1e-9
    z = np.c_[(values - middle) / spread, np.ones(len(values))]
    penalty = RIDGE * np.r_[np.ones(values.shape[1]), 0.0]
    b = np.zeros(z.shape[1])
    for _ in range(40):
        p = special.expit(z @ b)
        slope = z.T @ (weight * (p - large)) + penalty * b
        step = np.linalg.solve((z * (weight * p * (1 - p))[:, None]).T @ z + np.diag(penalty + 1e-9), slope)
        b -= step
        if np.abs(step).max() < 1e-6:
            break
    bias = round(float(b[-1] - b[:-1] / spread @ middle), 4)
    weights = (b[:-1] / spread).round(4).tolist()
    model, products = {}, weights[len(scales) :]
    for place, (name, scale) in enumerate(scales.items()):
        own, products = products[: len(scales) - place], products[len(scales) - place :]
        model[name] = (*scale, weights[place], tuple(own))
    return model, bias


def told(fitted: Fitted, case: Case) -> np.ndarray:
    model, bias = fitted
    weights = [row[2] for row in model.values()] + [w for row in model.values() for w in row[3]]
    return special.expit(bias + np.array(weights) @ terms(case.features, model))


def left_out(group: Callable[[Case], str], judged: list[Case], every: list[Case]) -> list[np.ndarray]:
    """What is told of each case of `judged` by a model of all cases whose group is another."""
    models = {g: fit([c for c in every if group(c) != g]) for g in sorted({group(c) for c in judged})}
    return [told(models[group(c)], c) for c in judged]


def without_kind(judged: list[Case], every: list[Case]) -> list[np.ndarray]:
    """The same by kind; no copy into which the kind was put either. Of plain ones only what has nothing else."""

    def has(case: Case, kind: str) -> bool:
        return case.kinds == {kind} if kind == "plain" else kind in case.kinds

    models = {k: fit([c for c in every if not has(c, k)]) for k in sorted({k for c in judged for k in c.kinds})}
    return [told(models[next(iter(c.kinds))], c) for c in judged]


def recalls(title: str, risks: list[np.ndarray], judged: list[Case]) -> None:
    risk, large = np.concatenate(risks), np.concatenate([c.large for c in judged])
    flagged = risk >= RISKY
    rows = [(RISKY, large[flagged].sum() / large.sum(), large[flagged].mean())]
    for recall in (0.9, 0.92, 0.94):
        threshold = np.quantile(risk[large], 1 - recall)
        rows.append((threshold, recall, large[risk >= threshold].mean()))
    for threshold, recall, precision in rows:
        print(f"| {title} | {threshold:.3f} | {recall:.3f} | {precision:.3f} |")


def tables(every: list[Case], shipped: Fitted) -> None:
    wholes = [c for c in every if c.name.count("-") == 2]
    print("\n| whole registrations | threshold | recall | precision |\n|---|---|---|---|")
    recalls("each source by a model of the others", left_out(lambda c: c.source, wholes, every), wholes)
    risks = [told(shipped, c) for c in wholes]
    recalls("by the shipped model, fitted on them too", risks, wholes)
    bins = np.clip(np.concatenate(risks) * 10, 0, 9).astype(int)
    large = np.concatenate([c.large for c in wholes])
    print(
        "\nlarge where the shipped risk is 0 .. .1, .1 .. .2, ...:",
        *(f"{large[bins == b].mean():.2f}" for b in range(10)),
    )
    registered = [c for c in every if c.registered]
    rows: dict[tuple[str, bool], list[tuple[np.ndarray, np.ndarray]]] = {}
    for case, risk in zip(registered, without_kind(registered, every), strict=True):
        structured = case.features["detail"] >= STRUCTURED
        if structured.any():
            found = (risk[structured], case.large[structured])
            rows.setdefault((next(iter(case.kinds)), case.signed), []).append(found)
    print("\n| kind, not fitted on | contrast | cases | expected | true |\n|---|---|---|---|---|")
    off = []
    for (kind, signed), found in sorted(rows.items(), key=lambda row: (not row[0][1], row[0][0])):
        expected, true = (np.concatenate(v).mean() for v in zip(*found, strict=True))
        off.append(abs(expected - true))
        contrast = "same" if signed else "any"
        print(f"| {kind} | {contrast} | {len(found)} | {expected:.3f} | {true:.3f} |")
    print(f"\n{sum(o <= 0.05 for o in off)} of {len(off)} rows within .05; mean difference {np.mean(off):.3f}")
    shares = np.array([(a.mean(), b.mean()) for found in rows.values() for a, b in found if len(a) >= 4])
    limits = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
    print("\n| cases at or above an expected share of |", *(f"{v:g} |" for v in limits))
    print("|---|" + "---|" * len(limits))
    for title, some in (("right, under .05", shares[:, 1] < 0.05), ("wrong, over .4", shares[:, 1] > 0.4)):
        print(f"| {title}: {some.sum()} |", *(f"{(shares[some, 0] >= v).sum()} |" for v in limits))


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
    model, bias = fit(every)
    print("MODEL: Model = {")
    for name, row in model.items():
        print(f'    "{name}": {row},')
    print(f"}}\nBIAS = {bias}")
    if args.tables:
        tables(every, (model, bias))


if __name__ == "__main__":
    main()
