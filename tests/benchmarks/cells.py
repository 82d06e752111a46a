"""A real pair judged by cells that were matched one by one, apart from any registration.

    python tests/benchmarks/cells.py --work DIR [--workers N] [--only odd|even] [--set KEY=VALUE ...]

Registers easifish `fix` and `mov` lowres by preset `rounds` with the settings that are given, and prints a row of a
Markdown table: the distances between where the map takes a cell of the fixed image and where it lies in the moving one,
um. The cells are uncertain by some tenths of a um each. A run that DIR has of the same settings is gone on from.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

import bigreg
from bigreg.volumes import open_volume

from start_images import DATA  # isort: skip - a neighbour of this script

SPACING = (1.68, 1.84, 1.84)


def cells(only: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) places in fixed and in moving, um; `only` the odd or the even rows."""
    with open(DATA / "easifish" / "cells.csv") as file:
        rows = list(csv.DictReader(file))
    places = [np.array([[float(r[f"{which}_{a}"]) for a in "zyx"] for r in rows]) for which in ("fixed", "moving")]
    part = {None: slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}[only]
    return places[0][part], places[1][part]


def figures(run: bigreg.Run, only: str | None = None) -> dict[str, float]:
    """Mean, median, 95 % and largest distance, um."""
    fixed, moving = cells(only)
    distance = np.linalg.norm(run.map_points(fixed) - moving, axis=1)
    return {
        "mean": distance.mean(),
        "median": np.median(distance),
        "p95": np.percentile(distance, 95),
        "max": distance.max(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=["odd", "even"])
    parser.add_argument("--set", nargs="+", default=[], dest="settings")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    images = [
        open_volume(DATA / "easifish" / f"{name}.n5", dataset="lowres", spacing=SPACING, name=name)
        for name in ("fix", "mov")
    ]
    name = "-".join(s.replace("/", "_") for s in options.settings) or "default"
    settings = [*options.settings, f"cluster.workers={options.workers}"]
    run = bigreg.register(
        *images, out=str(options.work / f"{name}.zarr"), config=bigreg.load_config(overrides=settings)
    )
    found = figures(run, options.only)
    seconds = sum(run.store.attributes["seconds"].values())
    print(f"| {name} | " + " | ".join(f"{v:.3f}" for v in found.values()) + f" | {seconds:.0f} |")


if __name__ == "__main__":
    main()
