"""One stiffness beside another: whole registrations of cases with a known map, and of heads with landmarks.

    python tests/benchmarks/stiffness.py WORK [--only CASE ...] [--stiffness S ...] [--set KEY=VALUE ...]

A case is one of confidence.py (`brain-202-plain`; `@0.1` behind it adds white noise of that share of the 99.9th
percentile to both images): mean error and its 95th percentile over inner tissue, voxels, preset `rounds`. Or a pair of
heads (`heads/A_J_-BALB_CJ_`): the same of 45 landmarks, mm, preset `individuals` with ladder.finest=2. One worker in
this process; each row is printed when it is there. Images come from BIGREG_TEST_DATA.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import confidence
import numpy as np
from distributed import Client, LocalCluster
from start_cases import head_pair
from start_images import DATA

import bigreg

CASES = (
    "left-201-plain", "brain-202-plain", "template-207-plain", "phantom-209-plain", "left-205-plain@0.1",
    "brain-206-plain@0.1", "template-210-plain@0.05", "left-203-noise", "right-208-far", "heads/A_J_-BALB_CJ_",
    "heads/BALB_CJ_-NOD_SHILTJ_", "heads/NOD_SHILTJ_-DBA_2J_", "heads/C57BL6_J_-CAST_EIJ_",
)  # fmt: skip
BARE = ["output.report=false", "output.warped=false", "output.confidence=false"]
BORDER = 8  # voxels that are not judged
TISSUE = 0.1  # of the range from the 1st to the 99.9th percentile


def known_map(name: str, work: Path, settings: list[str], client: Client) -> np.ndarray:
    """Errors (N,) of a case of confidence.py, voxels."""
    base, _, noise = name.partition("@")
    case = confidence.make_case(DATA, base)
    images, rng = {}, np.random.default_rng(5)
    for which in ("fixed", "moving"):
        images[which] = image = case[which].astype("f4")
        if noise:
            level = float(noise) * np.percentile(image, 99.9)
            images[which] = image + level * rng.standard_normal(image.shape).astype("f4")
    spacing = tuple(float(s) for s in case["spacing"])
    config = bigreg.load_config(preset="rounds", overrides=[*confidence.SETTINGS, *BARE, *settings])
    pair = [(images[which], spacing) for which in ("fixed", "moving")]
    run = bigreg.register(*pair, out=str(work / "run.zarr"), config=config, client=client)
    fixed = images["fixed"]
    points = np.moveaxis(np.indices(fixed.shape), 0, -1).reshape(-1, 3) * spacing
    error = np.linalg.norm((run.map_points(points) - case["truth"].reshape(3, -1).T) / spacing, axis=1)
    low, high = np.percentile(fixed, [1, 99.9])
    inner = np.zeros(fixed.shape, bool)
    inner[(slice(BORDER, -BORDER),) * 3] = True
    return error.reshape(fixed.shape)[inner & (fixed > low + TISSUE * (high - low))]


def heads(name: str, work: Path, settings: list[str], client: Client) -> np.ndarray:
    """Errors (45,) of landmarks, mm."""
    pair = head_pair(*name.removeprefix("heads/").split("-"))
    overrides = [*BARE, "blocks.core=256", "ladder.finest=2", *settings]
    config = bigreg.load_config(preset="individuals", overrides=overrides)
    run = bigreg.register(pair.fixed, pair.moving, out=str(work / "run.zarr"), config=config, client=client)
    return np.linalg.norm(run.map_points(pair.points) - pair.targets, axis=1) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", nargs="+", default=CASES)
    parser.add_argument("--stiffness", nargs="+", default=["auto", "0.4", "0.8", "1.6"])
    parser.add_argument("--set", nargs="+", default=[], dest="settings")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print("| case | stiffness | mean | 95 % | seconds |\n|---|---|---|---|---|")
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster, Client(cluster, set_as_default=False) as client:  # fmt: skip
        for name in options.only:
            for stiffness in options.stiffness:
                settings = [f"engine_options.optimise.regularisation={stiffness}", *options.settings]
                begin = time.perf_counter()
                error = (heads if name.startswith("heads/") else known_map)(name, options.work, settings, client)
                seconds = time.perf_counter() - begin
                shutil.rmtree(options.work / "run.zarr")
                row = f"| {name} | {stiffness} | {np.nanmean(error):.3f} | {np.nanpercentile(error, 95):.3f} |"
                print(f"{row} {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
