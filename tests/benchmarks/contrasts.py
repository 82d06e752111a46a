"""A network that was trained for any contrast, on images and contrasts that it was not trained for.

    python tests/benchmarks/contrasts.py patches --data DATA --work DIR --weights NAME|FILE [NAME|FILE ...]
    python tests/benchmarks/contrasts.py runs --data DATA --bench BENCH --work DIR --weights NAME|FILE [--full]

Trained by `networks.py train --small --no-pair --networks sitreg-anycontrast --begin sitreg-lightsheet`, on one round
of easifish and a cleared brain. Here are the other round, another brain and the template. `patches`: error of weights
on deformed patches of these, one image of each pair through a falling curve, or a triangle wave.
`runs`: whole runs by mutual information (and MIND) with `optimise` alone, and with the network in front of it; of the
middle 144^3 voxels, or with --full of everything. Prints Markdown tables; each run is kept in DIR and not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from compare import inverted, lit
from networks import head, row

import bigreg
from bigreg.config import Intensity
from bigreg.geometry import Grid
from bigreg.models import card_of, load
from bigreg.training.batch import make_batch
from bigreg.training.config import Data, Deformation, Source
from bigreg.training.losses import endpoint_errors
from bigreg.training.patches import Sampler, stream
from bigreg.training.sources import Opened
from bigreg.training.synthetic import margin

IMAGES = {
    "easifish, other round": {"path": "easifish/mov.n5", "dataset": "lowres"},
    "mouse brain": {"path": "mouse_tiff", "spacing": [50.0, 40.0, 40.0]},
    "template": {"path": "lsfm_mouse/ccf_template_25um.ome.zarr"},
}
PATCHES, SIZE, BORDER = 6, 48, 4


def folded(image: np.ndarray) -> np.ndarray:
    """A triangle wave of the intensities, which has corners: bright and dark both go with what is between."""
    top = np.percentile(image, 99.9)
    x = np.clip(image / top, 0, 1)
    return (np.abs((3 * x) % 2 - 1) * 3000 + 100).astype("u2")


CASES = {
    "other round, inverted": ("easifish, other round", 0, {"seed": 5}, inverted, "rounds"),
    "mouse brain, folded": ("mouse brain", 0, {"seed": 8}, folded, "rounds"),
    "template 50 um, lit": ("template", 1, {"seed": 7, "amplitude": 8.0, "sigma": 16.0}, lit, "brain-to-atlas"),
}
CONTRASTS = {"the same": lambda image: image, "inverted": inverted, "folded": folded}


def spec(o, name: str) -> dict:
    return {**IMAGES[name], "path": str(o.data / IMAGES[name]["path"])}


@torch.inference_mode()
def patches(o) -> None:
    head("image", "contrast", "no motion", *o.weights)
    networks = [load(w, card_of(w).architecture)[0] for w in o.weights]
    deformation = Deformation(cells=[8, 16, 32], largest=3.0)
    data = {"patch": SIZE, "tissue": {"least": 0.03, "most": 0.9}}
    for number, name in enumerate(IMAGES):
        source = Opened(Source.model_validate({"image": spec(o, name)}), Intensity(), 0)
        settings = Data.model_validate({"sources": [source.source], **data})
        sampler = Sampler([source], settings, margin=margin(deformation), part="all")
        pairs = []
        for item in range(PATCHES):
            rng = stream(1, 7, number, item)
            pairs.append(make_batch([sampler.draw(rng)], [rng], deformation=deformation, augment=None,
                                    device=torch.device("cpu")))  # fmt: skip
        inner = (..., *[slice(BORDER, -BORDER)] * 3)
        for contrast, change in CONTRASTS.items():
            errors = []
            for pair in pairs:
                moving = torch.from_numpy(np.array(change(pair.moving.numpy() * 1000.0), dtype="f4"))
                low, high = np.percentile(moving, [1, 99.9])
                moving = (moving - low) / (high - low)
                still = float(pair.truth.fixed_to_moving.square().sum(1).sqrt()[inner].mean())
                found = [endpoint_errors(network(pair.fixed, moving), pair.truth) for network in networks]
                errors.append([still, *(float(e[0, 2][inner].mean()) for e in found)])
            row(name, contrast, *map(float, np.mean(errors, 0)))


def case_of(o, name: str) -> dict:
    sys.path.insert(0, str(o.bench))
    from make_case import make_case

    which, level, options, change, _ = CASES[name]
    where = spec(o, which)
    volume = bigreg.open_volume(where.pop("path"), **where)
    grid: Grid = volume.grid(level)
    image = volume.read((0, 0, 0), grid.shape, level)
    if not o.full:
        image = image[tuple(slice(max((n - 144) // 2, 0), max((n - 144) // 2, 0) + 144) for n in image.shape)]
    fixed, moving, truth = make_case(np.ascontiguousarray(image), **options)
    return {"fixed": fixed, "moving": change(moving), "truth": truth, "spacing": np.array(grid.spacing, float)}


def settings_of(o, method: str) -> list[str]:
    similarity = "mind" if method.endswith("mind") else "mi"
    chosen = ["output.warped=false", "affine.similarity=mi", f"engine_options.optimise.similarity={similarity}"]
    if method.startswith("network"):
        name = card_of(o.weights[0]).architecture
        options = {"weights": o.weights[0], "any_spacing": "true", "similarity": similarity}
        chosen += [f"engine_options.{name}.{key}={value}" for key, value in options.items()]
        chosen += [f"engine=[{name}, optimise]" if "optimise" in method else f"engine={name}"]
    return chosen


METHODS = ("optimise, mi", "network + optimise, mi", "network alone, mi", "optimise, mind", "network + optimise, mind")


def runs(o) -> None:
    sys.path.insert(0, str(o.bench))
    from score import score

    head("case", "method", "mean TRE um", "median", "95 %", "99.9 %", "folds %", "seconds")
    for name in o.cases:
        case, preset = None, CASES[name][4]
        for method in o.methods:
            place = "-".join([name, method, *(["full"] if o.full else [])]).replace(", ", "-").replace(" ", "_")
            kept = o.work / f"{place}.json"
            if not kept.exists():
                case = case if case is not None else case_of(o, name)
                pair = [(case[w], tuple(case["spacing"])) for w in ("fixed", "moving")]
                config = bigreg.load_config(preset, overrides=settings_of(o, method))
                begin = time.perf_counter()
                run = bigreg.register(*pair, out=str(o.work / f"{place}.zarr"), config=config)
                seconds = time.perf_counter() - begin
                shape = case["fixed"].shape
                index = np.indices(shape).reshape(3, -1).T * case["spacing"]
                points = np.concatenate([run.map_points(part) for part in np.array_split(index, 16)])
                estimate = (points / case["spacing"]).T.reshape(3, *shape).astype("f4")
                kept.write_text(json.dumps({**score(estimate, case), "seconds": seconds}))
            f = json.loads(kept.read_text())
            row(name, method, f["mean"], f["median"], f["p95"], f["p999"], f"{f['folds_percent']:.4f}",
                f"{f['seconds']:.0f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["patches", "runs"])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BIGREG_TEST_DATA", "../shared/data")))
    parser.add_argument("--bench", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--weights", nargs="+", required=True, help="of runs: the first")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS[:2]))
    parser.add_argument("--full", action="store_true")
    o = parser.parse_args()
    if o.part == "runs" and o.bench is None:
        parser.error("runs needs --bench")
    o.data, o.work = o.data.absolute(), o.work.absolute()
    o.work.mkdir(parents=True, exist_ok=True)
    {"patches": patches, "runs": runs}[o.part](o)


if __name__ == "__main__":
    main()
