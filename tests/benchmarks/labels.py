"""A few coarse labels beside the image: Dice of structures with them and without, on a template with a known map.

    python tests/benchmarks/labels.py --bench BENCH --data DATA --work DIR [--weights 0 1 ...] [--set KEY=VALUE ...]

The case `atlas` of compare.py, made of the template of DATA (100 um, or with --fine interpolated to 50 um). The labels
are six regions: structures of the annotation that lie near each other, of both sides together; --rough makes their
borders waver, anew in each image. Dice is the mean over structures of more than 1000 voxels (200 at 100 um): of all,
and of those that nowhere meet the border of a region, which the labels do not show.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from compare import CASES, make
from scipy import ndimage
from scipy.cluster.vq import kmeans2

import bigreg

REGIONS = 6


def atlas_at_100um(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Template and annotation (z, y, x) of the Allen atlas."""
    template, annotation = (
        np.asarray(bigreg.open_volume(data / "ccf_100um" / f"{n}_100.nrrd", spacing=(100.0,) * 3))
        for n in ("average_template", "annotation")
    )
    return template, annotation


def regions(annotation: np.ndarray) -> np.ndarray:
    """(z, y, x) 1 .. REGIONS: structures joined by where their middles lie; 0 outside."""
    ids = np.unique(annotation[annotation > 0])
    middles = np.array(ndimage.center_of_mass(np.ones(annotation.shape), annotation, ids))
    axis = int(np.argmin(np.abs(middles.mean(0) - (np.array(annotation.shape) - 1) / 2)))  # the sides lie along it
    middles[:, axis] = np.abs(middles[:, axis] - (annotation.shape[axis] - 1) / 2)
    _, group = kmeans2(middles, REGIONS, minit="++", seed=1)
    table = np.zeros(len(ids) + 1, np.uint8)
    table[1:] = group + 1
    return table[np.searchsorted(ids, annotation) + 1] * (annotation > 0)


def drawn(labels: np.ndarray, seed: int, rough: float) -> np.ndarray:
    """The same with borders that waver by about so many voxels (RMS), as a hand draws them."""
    rng = np.random.default_rng(seed)
    waver = np.stack([ndimage.gaussian_filter(rng.standard_normal(labels.shape), 5.0) for _ in range(3)])
    waver *= rough / waver.std() / 3**0.5
    return ndimage.map_coordinates(labels, np.indices(labels.shape) + waver, order=0, mode="nearest")


def dice(estimate: np.ndarray, truth: np.ndarray, annotation: np.ndarray, least: int) -> dict[int, float]:
    """Of each structure of more than `least` voxels, seen through two maps (3, z, y, x)."""
    a, b = (ndimage.map_coordinates(annotation, np.nan_to_num(m, nan=-1e6), order=0) for m in (estimate, truth))
    names = np.unique(np.append(annotation, 0))
    found, true = (np.searchsorted(names, s) for s in (a, b))
    both = np.bincount(found[found == true], minlength=len(names))
    sizes = np.bincount(found.ravel(), minlength=len(names)), np.bincount(true.ravel(), minlength=len(names))
    use = (sizes[1] > least) & (names != 0)
    values = 2 * both / np.maximum(sizes[0] + sizes[1], 1)
    return dict(zip(names[use].tolist(), values[use].tolist(), strict=True))


def inner(annotation: np.ndarray, coarse: np.ndarray) -> set[int]:
    """Structures that meet neither another region nor the outside."""
    border = ndimage.maximum_filter(coarse, 3) != ndimage.minimum_filter(coarse, 3)
    return set(np.unique(annotation)) - set(np.unique(annotation[border])) - {0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--rough", type=float, default=0.0, help="voxels by which borders waver")
    parser.add_argument("--fine", action="store_true", help="at 50 um")
    parser.add_argument("--set", nargs="+", default=[], dest="settings")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    template, annotation = atlas_at_100um(options.data)
    if options.fine:
        template, annotation = ndimage.zoom(template, 2, order=3).clip(0), ndimage.zoom(annotation, 2, order=0)
    else:
        CASES["atlas"] |= {"amplitude": 4.0, "sigma": 8.0}  # of voxels of twice the size
    spacing, least = ((50.0,) * 3, 1000) if options.fine else ((100.0,) * 3, 200)
    case = options.work / "atlas.npz"
    if not case.exists():
        make("atlas", case, template, list(spacing), options.bench)
    known = np.load(case)
    coarse = regions(annotation)
    seen = ndimage.map_coordinates(coarse, known["truth"], order=0)
    for which, labels, seed in (("fixed", seen, 1), ("moving", coarse, 2)):
        place = options.work / f"{which}-{options.rough:g}.ome.zarr"
        if not place.exists():
            bigreg.convert(bigreg.open_volume(drawn(labels, seed, options.rough), spacing=spacing), str(place))
    only = inner(annotation, coarse)
    print("| weight of the labels | mean error um | 95 % | Dice | Dice, inner structures | folds | seconds |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for weight in options.weights:
        place = "{" + ", ".join(f"{w}: '{options.work / w}-{options.rough:g}.ome.zarr'" for w in ("fixed", "moving"))
        labels = [f"labels={place}, weight: {weight}}}"] if weight else []
        settings = ["ladder.finest=1", "output.report=false", "output.warped=false", *labels, *options.settings]
        config = bigreg.load_config(preset="brain-to-atlas", overrides=settings)
        begin = time.perf_counter()
        images = [(known[w], spacing) for w in ("fixed", "moving")]
        run = bigreg.register(*images, out=str(options.work / f"run-{time.time():.0f}.zarr"), config=config)
        seconds = time.perf_counter() - begin
        found = run.map_points(np.indices(template.shape).reshape(3, -1).T * spacing) / spacing
        found = found.T.reshape(3, *template.shape)
        error = np.linalg.norm(found - known["truth"], axis=0)[(seen > 0) & np.isfinite(found[0])] * spacing[0]
        values = dice(found, known["truth"], annotation, least)
        figures = {(group, name): v for group, name, v, _, _ in run.summary()}
        folds = sum(figures["regularity", f"folds, {d}"] for d in ("fixed_to_moving", "moving_to_fixed"))
        inside = [v for k, v in values.items() if k in only]
        overall = f"{np.mean(list(values.values())):.3f} ({len(values)}) | {np.mean(inside):.3f} ({len(inside)})"
        print(
            f"| {weight or 'none'} | {error.mean():.1f} | {np.percentile(error, 95):.1f} | {overall} | {folds:.0f} "
            f"| {seconds:.0f} |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
