"""ANTs' own start, and its SyN from there, on pairs of heads judged by the landmarks that bigreg is judged by.

    python tests/benchmarks/starts_ants.py DATA OUT.jsonl heads/A_J_-BALB_CJ_ ...

Needs antspyx alone, in an environment of its own. Appends one line a pair, as starts.py does (mode "ants"); the pairs
are those that `starts.py --list --only 'heads/*' --limit 10` names.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path

import ants
import numpy as np
import pandas as pd


def landmarks(path: Path) -> pd.DataFrame:
    """ITK's points (x, y, z mm, LPS) of a file of landmarks in RAS."""
    with open(path, newline="") as file:
        rows = {int(r["id"]): (-float(r["x_mm"]), -float(r["y_mm"]), float(r["z_mm"])) for r in csv.DictReader(file)}
    return pd.DataFrame([rows[k] for k in sorted(rows)], columns=["x", "y", "z"])


def main(data: Path, out: Path, names: list[str]) -> None:
    done = {json.loads(line)["case"] for line in out.read_text().splitlines()} if out.exists() else set()
    heads = data / "mouse_heads"
    for name in names:
        if name in done:
            continue
        fixed, moving = name.removeprefix("heads/").split("-")
        images = [ants.image_read(str(heads / f"{n}.nii.gz")) for n in (fixed, moving)]
        points, truth = (landmarks(heads / "landmarks" / f"{n}.csv") for n in (fixed, moving))
        begin = time.perf_counter()
        found = ants.registration(images[0], images[1], "SyN")
        seconds = time.perf_counter() - begin
        maps = found["fwdtransforms"]  # a point meets the field, then the affine

        def error(transforms: list[str], points: pd.DataFrame = points, truth: pd.DataFrame = truth) -> float:
            moved = ants.apply_transforms_to_points(3, points, transforms)
            return float(np.linalg.norm(moved[["x", "y", "z"]].values - truth.values, axis=1).mean())

        before = float(np.linalg.norm(points.values - truth.values, axis=1).mean())
        row = {
            "case": name, "mode": "ants", "version": ants.__version__, "before_mm": before,
            "affine_mm": error(maps[-1:]), "error_mm": error(maps), "seconds": seconds,
        }  # fmt: skip
        row |= {"start_found": row["affine_mm"] < 1.5, "outcome": "found" if row["error_mm"] < 0.5 else "silent"}
        with open(out, "a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
