"""Networks beside instance optimisation: training, accuracy, throughput, the InvGAN paper's figures, seams.

    python tests/benchmarks/networks.py all --data DATA --bench BENCH --work DIR [--minutes 10] [--small]
    python tests/benchmarks/networks.py train|accuracy|speed|paper|seams|stiffness ...

DATA holds easifish/fix.n5, easifish/mov.n5 and lsfm_mouse/brain_25um.ome.zarr; BENCH make_case.py and score.py. Trains
on deformed patches of `fix` and of the brain and on the real pair; `mov` is never deformed in training and is what is
held out. A training takes about --minutes on whatever there is (the first GPU, or the cores) and goes on where it was
stopped; each result is kept in DIR and not measured again. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import bigreg
from bigreg.models import load
from bigreg.quality.author import landmark_distance_mm, paper_figures
from bigreg.similarity import by_name
from bigreg.similarity.loss import loss as dissimilarity
from bigreg.training.config import Training, load_training
from bigreg.training.losses import endpoint_errors
from bigreg.training.patches import Sampler
from bigreg.training.regularity import strain
from bigreg.training.scene import Scene
from bigreg.training.sources import Opened
from bigreg.training.synthetic import margin
from bigreg.training.trainer import train
from bigreg.training.validation import Validation
from bigreg.transforms.field import min_determinant

CONFIGS = Path(__file__).parents[2] / "configs" / "training"
NETWORKS = {"sitreg": "sitreg", "invgan": "invgan", "invgan-pairs": "invgan", "invgan-flows": "invgan",
            "voxelmorph": "voxelmorph", "transmorph": "transmorph", "sitreg-conditioned": "sitreg",
            "sitreg-anycontrast": "sitreg"}  # fmt: skip
JUDGES = {"invgan-pairs": "pair", "invgan-flows": "flow"}
SMALL = {
    "sitreg": {"encoder": [8, 16, 16], "update": [12, 16, 16], "convs": 1, "finest": 1, "correlation": True},
    "invgan": {"width": 24, "correlation": True},
    "voxelmorph": {"correlation": True},
    "transmorph": {"correlation": True},
}
CURVED = {"sitreg-anycontrast": {"curve": {"probability": 0.9}}}
"""Each image in a contrast of its own, taught by the known map alone."""
CONDITIONED = {"sitreg-conditioned": [0.05, 50.0]}
"""Ranges of the regularisation, as of `optimise`, whose default is 0.32."""
WEIGHTS = (0.05, 1.6, 50.0)
"""At which those are measured: NETWORK@WEIGHT."""
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def row(*cells) -> None:
    print("| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells) + " |", flush=True)


def head(*cells) -> None:
    print()
    row(*cells)
    row(*["---"] * len(cells))


def kept(path: Path, measure: Callable[[], dict]) -> dict:
    """What was measured before, or what is measured now."""
    if not path.exists():
        path.write_text(json.dumps(measure()))
    return json.loads(path.read_text())


# ------------------------------------------------------------------------------------------------------- training


def real_pair(o) -> str:
    """A run of the real pair: where its patches lie on each other."""
    out = str(o.work / "pair.zarr")
    images = [bigreg.open_volume(str(o.data / "easifish" / f"{w}.n5"), dataset="lowres") for w in ("fix", "mov")]
    bigreg.register(*images, out=out, config=bigreg.load_config("rounds", overrides=["output.warped=false"]))
    return out


def configured(o, name: str, steps: int, folder: Path, pair: str | None) -> Training:
    easi = {w: {"path": str(o.data / "easifish" / f"{w}.n5"), "dataset": "lowres"} for w in ("fix", "mov")}
    brain = {"path": str(o.data / "lsfm_mouse" / "brain_25um.ome.zarr")}
    sources = [
        {"image": easi["fix"], "weight": 2.0},
        {"image": brain},
    ]
    if pair is not None:  # what is left to find of a real pair after the coarse levels
        sources.append({"fixed": easi["fix"], "moving": easi["mov"], "run": pair, "after": 2})
    architecture = NETWORKS[name]
    config = load_training(CONFIGS / f"{architecture}.yaml").model_dump(mode="json")
    # The round is 250 um deep: patches of 48 voxels at two spacings are what fits into it.
    config["data"] |= {"sources": sources, "downsample": [1, 2], "patch": 48, "held_out": 0.35}
    config["data"]["tissue"] = {"least": 0.03, "most": 0.9}
    if o.small:
        config["network"]["settings"] = SMALL[architecture]
        config["data"]["patch"] = 32
        config["deformation"] |= {"cells": [8, 16, 32], "largest": 3.0}
        config["schedule"] |= {"batch": 1, "rate": 1e-3, "warmup": 20, "ema": 0.99}
    config["losses"] = [loss for loss in config["losses"] if loss["name"] != "adversarial"]
    if name in JUDGES:
        config["losses"].append({"name": "adversarial", "kind": JUDGES[name], "weight": 0.02, "rate": 1e-4,
                                 "settings": {"widths": [8, 16, 16] if o.small else [8, 16, 32, 64]}})  # fmt: skip
    if name in CONDITIONED:
        config["network"]["settings"]["regularisation"] = CONDITIONED[name]
        # The energy of `optimise`, so that a weight means the same.
        config["losses"] = [{"name": "lncc", "where": "mid", "radius": 3, "noise": 0.02}, {"name": "regularisation"}]
    if name in CURVED:
        config["augment"]["contrast"] |= CURVED[name]
        config["losses"] = [{"name": "supervised"}]
    if o.begin is not None:  # the settings are those of the weights
        config["network"] = {"name": architecture, "weights": o.begin}
    config["schedule"]["steps"] = steps
    config["validation"] = {"every": max(steps // 10, 1), "patches": 8}
    config["output"] = {
        "folder": str(folder),
        "name": name,
        "checkpoint": max(steps // 20, 1),
        "description": "easifish round 1 and a cleared brain, deformed, and the real pair of rounds",
    }
    return load_training(config)


def weights(o, name: str) -> Path:
    """Trained weights: the number of steps that fit into the time is measured first, and kept."""
    folder = o.work / name
    path = folder / f"{name}.safetensors"
    if path.exists():
        return path
    pair = None if o.no_pair else kept(o.work / "pair.json", lambda: {"run": real_pair(o)})["run"]

    def paced() -> dict:
        few, seconds = 40, []  # the first ones read the volumes and compile
        trial = configured(o, name, few, o.work / f"{name}-trial", pair)
        begin = time.perf_counter()
        train(trial, progress=lambda *_: seconds.append(time.perf_counter() - begin))
        return {"steps": max(int(o.minutes * 60 / np.median(np.diff(seconds)[few // 2 :]) * 0.9), 50)}

    steps = kept(o.work / f"{name}-steps.json", paced)["steps"]
    begin = time.perf_counter()
    train(configured(o, name, steps, folder, pair), say=lambda text: print(f"{name}: {text}", flush=True))
    print(f"{name}: {steps} steps, {time.perf_counter() - begin:.0f} s on {DEVICE}", flush=True)
    return path


def training(o) -> None:
    for name in o.networks:
        weights(o, name)


# ------------------------------------------------------------------------------------------------------- accuracy


def image_of(o, which: str) -> tuple[np.ndarray, tuple[float, ...]]:
    if which == "brain":
        volume, level = bigreg.open_volume(str(o.data / "lsfm_mouse" / "brain_25um.ome.zarr")), 1
    else:
        volume, level = bigreg.open_volume(str(o.data / "easifish" / f"{which}.n5"), dataset="lowres"), 0
    grid = volume.grid(level)
    image = volume.read((0, 0, 0), grid.shape, level)
    if o.small:  # the middle of it
        start = [max((n - 144) // 2, 0) for n in image.shape]
        image = image[tuple(slice(a, a + 144) for a in start)]
    return np.ascontiguousarray(image), tuple(float(s) for s in grid.spacing)


def case_of(o, which: str, seed: int, **options) -> dict:
    sys.path.insert(0, str(o.bench))
    from make_case import make_case

    image, spacing = image_of(o, which)
    fixed, moving, truth = make_case(image, seed, **options)
    return {"fixed": fixed, "moving": moving, "truth": truth, "spacing": np.array(spacing)}


def engines(o, method: str) -> list[str]:
    parts = [part.partition("@") for part in method.split(" + ")]
    chosen = [f"engine=[{', '.join(NETWORKS.get(part, part) for part, _, _ in parts)}]"]
    for part, _, weight in parts:
        if part in NETWORKS:
            options = {"weights": weights(o, part), "any_spacing": "true"}
            if weight:
                options["regularisation"] = weight
            chosen += [f"engine_options.{NETWORKS[part]}.{key}={value}" for key, value in options.items()]
    return chosen


def methods(o) -> list[str]:
    """`optimise`, each network, and each with `optimise` behind it."""
    told = [f"{n}@{w}" for n in o.networks if n in CONDITIONED for w in WEIGHTS]
    alone = [n for n in o.networks if n not in CONDITIONED] + told
    return ["optimise", *alone, *(f"{n} + optimise" for n in alone)]


def registered(o, case: dict, name: str, method: str) -> tuple[bigreg.Run, float]:
    spacing = tuple(case["spacing"])
    out = o.work / f"{name}-{method.replace(' + ', '-then-')}.zarr"
    config = bigreg.load_config("rounds", overrides=["output.warped=false", *engines(o, method)])
    begin = time.perf_counter()
    run = bigreg.register((case["fixed"], spacing), (case["moving"], spacing), out=str(out), config=config)
    return run, time.perf_counter() - begin


def map_of(run: bigreg.Run, case: dict) -> np.ndarray:
    index = np.indices(case["fixed"].shape).reshape(3, -1).T * case["spacing"]
    points = np.concatenate([run.map_points(part) for part in np.array_split(index, 16)])
    return (points / case["spacing"]).T.reshape(3, *case["fixed"].shape).astype("f4")


CASES = {
    "easifish, trained on": ("fix", {"seed": 1}),
    "easifish, other round": ("mov", {"seed": 2}),
    "easifish, other round, large": ("mov", {"seed": 3, "amplitude": 16.0, "rotate": 8.0, "shift": 20.0}),
    "brain, trained on": ("brain", {"seed": 4}),
}


def accuracy(o) -> None:
    sys.path.insert(0, str(o.bench))
    from score import score

    head("case", "method", "mean TRE um", "median", "95 %", "99.9 %", "folds %", "seconds")
    for name in o.cases:
        case, (which, options) = None, CASES[name]
        for method in methods(o):
            place = o.work / f"{name.replace(', ', '-').replace(' ', '_')}-{method.replace(' + ', '-then-')}.json"
            if case is None and not place.exists():
                case = case_of(o, which, **options)

            def measure(method=method, case=case, place=place) -> dict:
                run, seconds = registered(o, case, place.stem.removesuffix(method.replace(" + ", "-then-")), method)
                return {**score(map_of(run, case), case), "seconds": seconds}

            f = kept(place, measure)
            row(name, method, f["mean"], f["median"], f["p95"], f["p999"], f"{f['folds_percent']:.4f}",
                f"{f['seconds']:.0f}")  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- speed


def speed(o) -> None:
    head("network", "device", "patch", "dtype", "Mvoxel/s")
    size = 96 if DEVICE == "cpu" else 160
    for name in dict.fromkeys(NETWORKS[n] for n in o.networks):
        network, _ = load(str(weights(o, name)), name)
        network = network.to(DEVICE).eval()
        a, b = torch.rand(2, 1, 1, size, size, size, device=DEVICE)
        for dtype in (torch.float32, torch.bfloat16):
            count, begin = 0, None
            with torch.inference_mode(), torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
                while begin is None or (time.perf_counter() - begin < 5 and count < 200):
                    network(a, b)
                    if begin is None:  # the first look compiles and allocates
                        _finish()
                        begin = time.perf_counter()
                        continue
                    count += 1
                    _finish()
            rate = count * size**3 / (time.perf_counter() - begin) / 1e6
            row(name, DEVICE, f"{size}^3", str(dtype).removeprefix("torch."), rate)


def _finish() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


# ---------------------------------------------------------------------------------------------- the paper's figures


def paper(o) -> None:
    """A real brain under a known smooth deformation: correlation and information by the author's definitions."""
    head("method", "CC, author", "MI, author", "Pearson", "MI, bits", "landmarks mm", "seconds")
    case = case_of(o, "brain", 21)
    warp = _resample(case["moving"], None)
    start = paper_figures(case["fixed"], warp)
    points = _landmarks(case)
    spacing = case["spacing"]
    truth = np.stack([case["truth"][(k, *points.T)] for k in range(3)], 1) * spacing
    row("as they lie", *start.values(), landmark_distance_mm(points * spacing, truth), "")
    for method in methods(o):

        def measure(method=method) -> dict:
            run, seconds = registered(o, case, "paper", method)
            warped = _resample(case["moving"], map_of(run, case))
            found = run.map_points(points * spacing)
            return {**paper_figures(case["fixed"], warped), "mm": landmark_distance_mm(found, truth), "s": seconds}

        f = kept(o.work / f"paper-{method.replace(' + ', '-then-')}.json", measure)
        row(method, *list(f.values())[:-1], f"{f['s']:.0f}")


def _resample(image: np.ndarray, where: np.ndarray | None) -> np.ndarray:
    from scipy import ndimage

    return image.astype("f4") if where is None else ndimage.map_coordinates(image.astype("f4"), where, order=1)


def _landmarks(case: dict, number: int = 200) -> np.ndarray:
    """Index positions in bright tissue whose partner lies in the moving image."""
    fixed, truth = case["fixed"], case["truth"]
    inside = np.all([(truth[k] >= 0) & (truth[k] <= n - 1) for k, n in enumerate(case["moving"].shape)], axis=0)
    core = np.zeros(fixed.shape, bool)
    core[(slice(10, -10),) * 3] = True
    found = np.argwhere(inside & core & (fixed > np.percentile(fixed, 70)))
    return found[np.random.default_rng(0).choice(len(found), number, replace=False)]


# ---------------------------------------------------------------------------------------------------------- seams


def seams(o) -> None:
    """Jump of the displacement's gradient across the faces of patches, against that inside them.

    Ours: velocities of patches with halos, blended on the lattice. The paper's way: patches side by side, without
    overlap, each with its own map; what is stitched is what they say.
    """
    head("network", "way", "faces / inside", "largest step between neighbours, voxels")
    case = case_of(o, "fix", 1)
    core = 32
    low, high = np.percentile(case["fixed"], [1, 99.9])
    images = [torch.from_numpy(((case[w] - low) / (high - low)).clip(0, 1).astype("f4")) for w in ("fixed", "moving")]
    images = [i[tuple(slice(0, n // core * core) for n in i.shape)] for i in images]
    for name in o.networks:
        network, _ = load(str(weights(o, name)), NETWORKS[name])
        whole = torch.zeros(3, *images[0].shape)
        for at in np.ndindex(*(n // core for n in whole.shape[1:])):
            box = tuple(slice(i * core, (i + 1) * core) for i in at)
            with torch.inference_mode():
                whole[(slice(None), *box)] = network(*(i[box][None, None] for i in images)).fixed_to_moving[0]
        row(name, "patches side by side", *_jumps(whole.numpy(), core, np.ones(3)))
        config = [*engines(o, name), "affine.kind=none", "blocks.core=32", "blocks.halo=16", "ladder.finest=1"]
        run = bigreg.register(
            (case["fixed"], tuple(case["spacing"])), (case["moving"], tuple(case["spacing"])),
            out=str(o.work / f"seams-{name}.zarr"), config=bigreg.load_config("rounds", overrides=config),
        )  # fmt: skip
        level = run._context().levels[0]
        cores = np.multiply(level.blocks.core, level.lattice.samples)
        half = run.store.array("levels", 0, "maps", "fixed")[...]
        row(name, "blended velocities", *_jumps(half, int(cores[0]), np.asarray(level.lattice.grid.spacing)))


def _jumps(field: np.ndarray, core: int, voxel: np.ndarray) -> tuple[float, float]:
    faces, inside, step = [], [], 0.0
    field = field / np.reshape(voxel, (3, 1, 1, 1))
    for axis in range(3):
        jump = np.moveaxis((np.diff(field, 2, axis + 1) ** 2).sum(0), axis, 0).reshape(field.shape[axis + 1] - 2, -1)
        cuts = np.arange(core, field.shape[axis + 1], core)
        at = np.zeros(len(jump), bool)
        at[np.concatenate([cuts - 2, cuts - 1])] = True
        faces.append(jump[at].ravel())
        inside.append(jump[~at].ravel())
        step = max(step, float(np.abs(np.diff(field, 1, axis + 1)).max()))
    return float(np.concatenate(faces).mean() / np.concatenate(inside).mean()), step


# ------------------------------------------------------------------------------------------------------ stiffness


def stiffness(o) -> None:
    """Held-out patches at several weights of a network that takes one: does a smaller one follow more?

    The error of fixed_to_moving in voxels, also where both images have more noise (SD 0.1); the root mean square
    strain of the half-way maps; the mean dissimilarity in mid-space that is left; folds and the smallest determinant.
    """
    head("network", "weight", "error", "error, noise", "strain", "dissimilarity", "folds", "least determinant")
    names = ["sitreg", *(n for n in o.networks if n in CONDITIONED)]
    config = configured(o, "sitreg", 1, o.work / "none", None)
    sources = [Opened(s, config.data.intensity, i) for i, s in enumerate(config.data.sources)]
    edge = margin(config.deformation)
    held_out, whole = (Sampler(sources, config.data, margin=edge, part=part) for part in ("held_out", "all"))
    batches = Validation(held_out, whole, config, torch.device("cpu")).batches
    for name in names:
        network, _ = load(str(weights(o, name)), "sitreg")
        for weight in (None,) if network.regularisation is None else (0.05, 0.3, 1.6, 9.0, 50.0):
            rows = [_followed(network, weight, batch, number) for number, batch in enumerate(batches)]
            mean = np.mean(rows, axis=0)
            row(name, weight or "", *map(float, mean[:4]), f"{mean[4]:.2g}", float(np.min(rows, axis=0)[5]))


@torch.inference_mode()
def _followed(network, weight: float | None, batch, seed: int) -> tuple[float, ...]:
    told = () if weight is None else (torch.tensor([weight]),)
    noise = 0.1 * torch.randn(2, *batch.fixed.shape, generator=torch.Generator().manual_seed(seed))
    plain, noisy = (network(batch.fixed + a, batch.moving + b, *told) for a, b in ((0, 0), noise))
    inner = (..., *[slice(4, -4)] * 3)
    errors = [float(endpoint_errors(maps, batch.truth)[0, 2][inner].mean()) for maps in (plain, noisy)]
    halves = plain.to_fixed, plain.to_moving
    squares = float(sum(strain(half, batch.spacing) for half in halves)) / 2
    middle = Scene(batch, plain).middle
    left = float(dissimilarity(by_name("lncc", radius=3, noise=0.02), *(t[0, 0].contiguous() for t in middle)))
    dets = torch.stack([min_determinant(part[0].contiguous(), (1.0, 1.0, 1.0)) for part in vars(plain).values()])
    return (*errors, squares**0.5, left, float((dets <= 0).float().mean()), float(dets.min()))


PARTS = {
    "train": training,
    "accuracy": accuracy,
    "speed": speed,
    "paper": paper,
    "seams": seams,
    "stiffness": stiffness,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["all", *PARTS])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BIGREG_TEST_DATA", "../shared/data")))
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, for each network")
    parser.add_argument("--begin", help="weights that a training begins with: a packaged name or a file")
    parser.add_argument("--small", action="store_true", help="small networks, patches and images: for a CPU")
    parser.add_argument("--no-pair", action="store_true", help="train on deformed images alone, not on the real pair")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="of accuracy")
    o = parser.parse_args()
    o.data, o.work = o.data.absolute(), o.work.absolute()
    o.work.mkdir(parents=True, exist_ok=True)
    for name in PARTS if o.part == "all" else [o.part]:
        PARTS[name](o)


if __name__ == "__main__":
    main()
