"""Makes what tests/pipeline/store/test_earlier_runs.py opens: a small finished run, and what is known of it.

Each release adds one, made by its own code from the root of a clone, and never changes an earlier one:

    python tests/pipeline/store/runs/make.py NAME

NAME is the version, such as 0.2.0. Writes NAME.zip, the run, and NAME.json, the answers, beside this file. It works
with the code of any commit that writes run format 2: the clone of that code comes first on PYTHONPATH.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from distributed import Client, LocalCluster

from bigreg import load_config, open_run, register
from bigreg.phantom import make_pair

SHAPE, SPACING = (24, 32, 36), (4.0, 2.6, 2.6)
SETTINGS = [
    "affine.voxels=32", "affine.rotations_deg=0", "ladder.finest=2", "ladder.coarsest=4", "ladder.samples=2",
    "blocks.core=12", "blocks.halo=6", "output.chunk=32", "output.shard=32",
]  # fmt: skip
LEFT_OUT = re.compile(r"report/|starts/starts.png|levels/\d/patches/")
"""Large pictures, which `bigreg report` draws again, and fields before they were stitched, which nothing reads."""


def known(run) -> dict:
    """What every later version must find in the run."""
    low, high = np.array(SHAPE) * 0.2 * SPACING, np.array(SHAPE) * 0.8 * SPACING
    points = np.stack(np.meshgrid(*np.linspace(low, high, 3).T, indexing="ij")).reshape(3, -1).T
    warped = np.ascontiguousarray(run.store.array("warped", "0")[...])
    verdict = getattr(run, "verdict", None)
    later = {name: getattr(run, name)(points).tolist() for name in ("sigma_at", "noncorrespondence_at")
             if hasattr(run, name)}  # fmt: skip
    return {
        **later,
        "version": version("bigreg"),
        "format": run.store.attributes["format"],
        "affine": run.affine.tolist(),
        "points": points.tolist(),
        "fixed_to_moving": run.map_points(points).tolist(),
        "moving_to_fixed": run.map_points(points, "moving_to_fixed").tolist(),
        "warped": {"dtype": str(warped.dtype), "sha256": hashlib.sha256(warped).hexdigest()},
        "verdict": getattr(verdict, "level", None),
    }


def main(name: str) -> None:
    here = Path(__file__).resolve().parent
    pair = make_pair(SHAPE, SPACING, seed=3, max_displacement_um=5.0)
    config = load_config(preset="demo", overrides=SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster, Client(cluster, set_as_default=False) as client:  # fmt: skip
            register((pair.fixed, SPACING), (pair.moving, SPACING), out="run.zarr", config=config, client=client)
        run = Path(folder) / "run.zarr"
        answers = known(open_run("run.zarr"))
        with zipfile.ZipFile(here / f"{name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
            for path in sorted(p for p in run.rglob("*") if p.is_file()):
                if not LEFT_OUT.match(path.relative_to(run).as_posix()):
                    packed.write(path, path.relative_to(run))
    (here / f"{name}.json").write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
