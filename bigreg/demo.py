"""The demonstration: a pair with a known answer, registered in blocks and scored against the truth."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .config import Config, load_config
from .errors import OutputError
from .phantom import DemoPair, make_pair
from .pipeline.run import Run, register
from .pipeline.schedule.streaming import Listener
from .quality.metrics import RegistrationError, target_registration_error
from .transforms.affine import apply_affine
from .volumes import convert

__all__ = ["DemoPair", "DemoResult", "make_pair", "run_demo"]

GOOD_ERROR_VOXELS = 1.0


@dataclass(frozen=True)
class DemoResult:
    """`run` and what to say of it: `rows` of (what, value); `figures` as of `Run.summary`, with the
    errors against the truth; `ok` where it came out as it should."""

    run: Run
    rows: list[tuple[str, str]]
    figures: list[tuple[str, str, float, str, str]]
    ok: bool


def run_demo(
    out: str, *, config: Any = None, progress: Listener | bool | None = None, pair: DemoPair | None = None
) -> DemoResult:
    """Make the pair as OME-Zarr in `out`, register it, compare with the truth, write the report.

    Raises OutputError where `out` exists and is not empty.
    """
    config = config if isinstance(config, Config) else load_config(config or "demo")
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"'{folder}' exists already and is not an empty folder; choose another folder or remove it")
    begin = time.monotonic()
    pair = pair or make_pair()
    paths = {}
    for name, image in (("fixed", pair.fixed), ("moving", pair.moving)):
        paths[name] = str(folder / f"{name}.ome.zarr")
        convert(image, paths[name], spacing=pair.spacing)
    run = register(paths["fixed"], paths["moving"], out=str(folder / "run.zarr"), config=config, progress=progress)
    errors = evaluate(run, pair)
    run.store.update(evaluation={name: error.as_dict() for name, error in errors.items()})
    report = run.report()
    seconds = time.monotonic() - begin
    figures = {(group, name): value for group, name, value, _, _ in run.summary()}
    folds = int(figures["regularity", "folds, fixed_to_moving"] + figures["regularity", "folds, moving_to_fixed"])
    inverse = figures["inverse error", "99.9th percentile"]
    voxel = min(pair.spacing)
    before, affine, after = (errors[name] for name in ("before", "affine", "after"))
    shape = " x ".join(map(str, pair.fixed.shape))
    rows = [
        ("images", f"{shape} voxels of {' x '.join(f'{s:g}' for s in pair.spacing)} µm, synthetic"),
        ("patches", f"{int(figures['blocks', 'done'])}, on all levels"),
        ("error before registration", f"{before.mean:.1f} µm on average"),
        ("error after the affine", f"{affine.mean:.1f} µm"),
        (
            "error after registration",
            f"{after.mean:.2f} µm ({after.mean / voxel:.2f} voxel); 99.9 % under {after.p99_9:.2f} µm",
        ),
        ("folds", f"{folds} in both maps, every block face included"),
        ("inverse error", f"within {inverse:.3f} voxel for 99.9 % of the volume"),
        ("time", f"{seconds:.0f} s"),
        ("report", report),
        ("map a point", f"bigreg points {folder / 'run.zarr'} IN.csv OUT.csv"),
        ("warp an image", f"bigreg warp {folder / 'run.zarr'} IMAGE OUT.ome.zarr"),
    ]
    wrong = [("error", f"{state}, mean", e.mean, "um", "against the truth") for state, e in errors.items()]
    return DemoResult(
        run, rows, [*run.summary(), *wrong], folds == 0 and inverse <= 0.1 and after.mean <= GOOD_ERROR_VOXELS * voxel
    )


def evaluate(run: Run, pair: DemoPair, count: int = 200_000) -> dict[str, RegistrationError]:
    """Errors (um) against the truth on evenly spread tissue voxels: before, after the affine, after all."""
    index = np.argwhere(pair.mask)
    index = index[:: max(1, len(index) // count)]
    points = index * np.asarray(pair.spacing)
    truth = pair.truth[:, *index.T].T.astype(float)
    affine = run.affine
    return {
        "before": target_registration_error(points, truth),
        "affine": target_registration_error(apply_affine(affine, points), truth),
        "after": target_registration_error(run.map_points(points), truth),
    }
