"""Side by side with peers on cases with a known answer, in one sitting.

    python tests/benchmarks/compare.py --bench BENCH --image fix.npy --spacing 1.68 1.84 1.84 --work DIR
        [--cases seed1 large ...] [--methods bigreg ants ...] [--peers-python PYTHON] [--set KEY=VALUE ...]

BENCH holds make_case.py, peers.py and score.py: how a pair is made out of a real image, how a peer is run on it (in the
environment of --peers-python), and how a map is scored. Each method is a process of its own; seconds are of the
registration, memory is the largest sum over its processes. Prints a Markdown table; the map of every method and the
runs stay in DIR.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
from scipy import ndimage

CASES: dict[str, dict] = {
    "seed1": {"seed": 1},
    "seed2": {"seed": 2},
    "seed3": {"seed": 3},
    "large": {"seed": 4, "amplitude": 25.0, "rotate": 10.0, "shift": 30.0},
    "inverted": {"seed": 5, "invert": True},
    "cut": {"seed": 6, "cut": True},
    "atlas": {"seed": 7, "cleared": True, "amplitude": 8.0, "sigma": 16.0},
}
SETTINGS: dict[str, list[str]] = {
    "inverted": ["affine.similarity=mi", "engine_options.optimise.similarity=mi"],
    "atlas": ["ladder.finest=1"],
}
PRESETS = {"atlas": "brain-to-atlas"}  # else rounds


def make(name: str, path: Path, image: np.ndarray, spacing: list[float], bench: Path) -> None:
    """Write the case `name`; see CASES."""
    sys.path.insert(0, str(bench))
    from make_case import make_case

    options = dict(CASES[name])
    invert, cut, cleared = (options.pop(k, False) for k in ("invert", "cut", "cleared"))
    fixed, moving, truth = make_case(image, **options)
    if invert:
        moving = inverted(moving)
    if cut:
        moving = np.ascontiguousarray(moving[:, :, : moving.shape[2] // 2])
    if cleared:
        moving = lit(moving)
    np.savez(path, fixed=fixed, moving=moving, truth=truth, spacing=np.array(spacing))


def inverted(image: np.ndarray) -> np.ndarray:
    """Bright goes with dark, and not linearly."""
    top = np.percentile(image, 99.9)
    return (np.clip(1.0 - image / top, 0, 1) ** 1.6 * 4000 + 100).astype("u2")


def lit(image: np.ndarray) -> np.ndarray:
    """A template as a light sheet would show it: fibre tracts bright, a glow around the tissue, noise."""
    x = np.clip(image / np.percentile(image, 99.9), 0, 1)
    tissue = x > 0.05
    light = np.where(tissue, 0.2 + 0.8 * (1 - x) ** 1.5, 0.0)
    light = ndimage.gaussian_filter(light, 0.7) + 0.15 * ndimage.gaussian_filter(tissue.astype("f4"), 8)
    noise = np.random.default_rng(0).normal(0, 0.02, light.shape)
    return (np.clip(light + noise, 0, None) * 3000 + 100).astype("u2")


def dice(estimate: np.ndarray, truth: np.ndarray, labels: np.ndarray, least: int = 1000) -> float:
    """Mean Dice, over structures of more than `least` voxels, of labels seen through two maps (3, z, y, x)."""
    seen = [
        ndimage.map_coordinates(labels, np.nan_to_num(m, nan=-1e6), order=0, mode="constant") for m in (estimate, truth)
    ]
    names = np.unique(np.append(labels, 0))
    found, true = (np.searchsorted(names, s) for s in seen)
    both = np.bincount(found[found == true], minlength=len(names))
    sizes = np.bincount(found.ravel(), minlength=len(names)), np.bincount(true.ravel(), minlength=len(names))
    use = (sizes[1] > least) & (names != 0)
    return float((2 * both / np.maximum(sizes[0] + sizes[1], 1))[use].mean())


def run_bigreg(case: Path, out: Path, settings: list[str]) -> None:
    """Register a case with its preset and write its map as index positions."""
    import bigreg

    data = np.load(case)
    spacing = tuple(float(s) for s in data["spacing"])
    config = bigreg.load_config(preset=PRESETS.get(case.stem, "rounds"), overrides=settings)
    begin = time.perf_counter()
    run = bigreg.register((data["fixed"], spacing), (data["moving"], spacing), out=str(out.with_suffix(".zarr")),
                          config=config)  # fmt: skip
    print(f"bigreg: {time.perf_counter() - begin:.1f} s", flush=True)
    shape = data["fixed"].shape
    index = np.indices(shape).reshape(3, -1).T * np.asarray(spacing)
    points = np.concatenate([run.map_points(part) for part in np.array_split(index, 16)])
    np.save(out, (points / spacing).T.reshape(3, *shape).astype("f4"))


def measured(command: list[str], log: Path) -> tuple[float, float]:
    """Run a command; (seconds that it prints, or its own; largest memory of its processes, GB)."""
    begin, peak, seconds = time.perf_counter(), 0, None
    with open(log, "w") as file:
        process = psutil.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        while process.poll() is None:
            # Proportional set size: what processes share (libraries, a file in memory) counts once.
            if seconds is None:
                total = 0
                for p in (process, *process.children(recursive=True)):
                    try:
                        total += p.memory_full_info().pss
                    except psutil.Error:
                        continue
                peak = max(peak, total)
                found = re.search(r": ([\d.]+) s", log.read_text())
                seconds = float(found[1]) if found else None
            time.sleep(0.5)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed; see {log}")
    found = re.search(r": ([\d.]+) s", log.read_text())
    return float(found[1]) if found else time.perf_counter() - begin, peak / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--spacing", type=float, nargs=3, default=(1.68, 1.84, 1.84))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--atlas", type=Path, nargs=2, help="template and annotation (.npy) of the case atlas, 50 um")
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--methods", nargs="+", default=["bigreg", "ants", "convexadam"])
    parser.add_argument("--peers-python", default=sys.executable)
    parser.add_argument("--set", nargs="+", default=[], dest="settings")
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_bigreg(*options.one, options.settings)
        return
    sys.path.insert(0, str(options.bench))
    from score import score

    options.work.mkdir(parents=True, exist_ok=True)
    print("| case | method | mean TRE um | median | 95 % | 99.9 % | folds % | seconds | peak GB | s / bigreg |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in options.cases:
        case = options.work / f"{name}.npz"
        if not case.exists():
            atlas = name == "atlas"
            image = np.load(options.atlas[0] if atlas else options.image)
            make(name, case, image, [50.0] * 3 if atlas else list(options.spacing), options.bench)
        own = None
        for method in options.methods:
            out = options.work / f"{name}-{method}-{int(time.time())}.npy"
            log = out.with_suffix(".log")
            if method == "bigreg":
                settings = [*SETTINGS.get(name, []), *options.settings]
                command = [sys.executable, __file__, "--bench", str(options.bench), "--work", str(options.work)]
                command += (
                    ["--one", str(case), str(out), "--set", *settings] if settings else ["--one", str(case), str(out)]
                )
            else:
                command = [options.peers_python, str(options.bench / "peers.py"), method, str(case), str(out)]
            seconds, peak = measured(command, log)
            own = seconds if method == "bigreg" else own
            figures = score(np.load(out), np.load(case))
            ratio = f"{seconds / own:.2f}" if own else ""
            print(
                f"| {name} | {method} | " + " | ".join(f"{figures[k]:.3f}" for k in ("mean", "median", "p95", "p999"))
                + f" | {figures['folds_percent']:.4f} | {seconds:.0f} | {peak:.1f} | {ratio} |",
                flush=True,
            )  # fmt: skip
            if name == "atlas":
                figures["dice"] = dice(np.load(out), np.load(case)["truth"], np.load(options.atlas[1]))
                print(f"{method}: mean Dice over structures {figures['dice']:.4f}", flush=True)
            out.with_suffix(".json").write_text(json.dumps({**figures, "seconds": seconds, "peak_gb": peak}))


if __name__ == "__main__":
    main()
