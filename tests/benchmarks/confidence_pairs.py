"""Registered pairs whose answer is known, as arrays: what the risk of an error is fitted on.

A pair is an npz of fixed and moving (z, y, x) on a scale where the 1st and 99.9th percentile are about 0 and 1, of
the found (`places`) and the true place in moving of each fixed voxel, (3, z, y, x), voxels of moving, and of `shared`:
whether a voxel of fixed has a counterpart in moving, as the registration understood it. Folders of WORK:

whole   the cases CALIBRATED and JUDGED of confidence.py, registered by the pipeline
kinds   every third case of confidence_kinds.py, registered by the pipeline with fewer steps
patch   every case of confidence_kinds.py with another seed, registered by the engine on one patch from the truth plus a
        random error: fast to make
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import confidence as wholes
import confidence_kinds as kinds
import numpy as np
import torch
from distributed import Client, LocalCluster
from scipy import ndimage

import bigreg
from bigreg.engines.base import PatchPair
from bigreg.engines.noncorrespondence import SIMILARITIES, estimate_matching
from bigreg.engines.optimise import Optimise
from bigreg.engines.parts import estimate_fitting
from bigreg.geometry import Lattice
from bigreg.pipeline.judging import confidence, noncorrespondence
from bigreg.transforms.bspline import evaluate

Pair = dict[str, np.ndarray]

KINDS = kinds.names()[::3]
PATCHES = tuple(
    "-".join([k, s, str(20000 + int(n)), *rest]) for k, s, n, *rest in (m.split("-") for m in kinds.names())
)
FASTER = ["affine.kind=none", "blocks.core=40", "blocks.halo=12", "ladder.samples=2", "ladder.repeats=[1,1]",
          "ladder.iterations=[4,20,30]", "output.report=false", "output.warped=false",
          "output.confidence=false"]  # fmt: skip


def make(data: Path, work: Path, names: list[str]) -> None:
    """Make the pairs of WORK that are not there yet, the fast ones first; only those named, where some are named."""
    groups = {"patch": PATCHES, "kinds": KINDS, "whole": (*wholes.CALIBRATED, *wholes.JUDGED)}
    wanted = [(group, n) for group, all_names in groups.items() for n in all_names if not names or n in names]
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster, Client(cluster, set_as_default=False) as client:  # fmt: skip
        for group, name in wanted:
            path = work / group / f"{name}.npz"
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            begin = time.perf_counter()
            pair = by_engine(data, name) if group == "patch" else by_pipeline(data, work, group, name, client)
            partial = path.with_suffix(".partial.npz")
            np.savez(partial, **pair)
            partial.rename(path)
            error = np.linalg.norm(pair["places"] - pair["truth"], axis=0)
            print(f"{name}: {time.perf_counter() - begin:.0f} s, mean error {error.mean():.2f} voxels", flush=True)


def by_pipeline(data: Path, work: Path, group: str, name: str, client: Client) -> Pair:
    """A case registered as a user would; its run is resumed where it stopped, and deleted at the end."""
    case = (wholes if group == "whole" else kinds).make_case(data, name)
    settings = wholes.SETTINGS
    if group == "kinds":
        settings = [*FASTER, f"engine_options.optimise.similarity={name.split('-')[-1]}"]
    spacing = tuple(case["spacing"])
    volumes = {
        w: bigreg.open_volume(case[w], spacing=spacing, origin=tuple(case.get(f"{w}_origin", np.zeros(3))))
        for w in ("fixed", "moving")
    }
    out = work / "runs" / f"{name}.zarr"
    config = bigreg.load_config(preset="rounds", overrides=settings)
    run = bigreg.register(volumes["fixed"], volumes["moving"], out=str(out), config=config, client=client)
    pair = pair_of(run, case)
    shutil.rmtree(out)
    return pair


def pair_of(run: bigreg.Run, case: dict[str, np.ndarray]) -> Pair:
    """The arrays of a run on a case; images as the engines compare them."""
    context = run._context()
    spacing = np.asarray(case["spacing"])
    origins = {w: case.get(f"{w}_origin", np.zeros(3)) for w in ("fixed", "moving")}
    seen = {}
    for which, image in zip(("fixed", "moving"), confidence.images_of(context), strict=True):
        values = torch.as_tensor(image.read((0, 0, 0), image.grid.shape).astype(np.float32))
        seen[which] = context.compared(which, values).cpu().numpy()
    shape = seen["fixed"].shape
    points = np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 3) * spacing + origins["fixed"]
    found = (run.map_points(points) - origins["moving"]) / spacing
    truth = (case["truth"].reshape(3, -1).T - origins["moving"]) / spacing
    shared = np.ones(shape, bool)
    if noncorrespondence.kept(context):
        shared = context.store.array(noncorrespondence.PLACE, "0")[...] == 0
    places = {k: v.T.reshape(3, *shape).astype("f4") for k, v in (("places", found), ("truth", truth))}
    return {**seen, **places, "shared": shared}


def by_engine(data: Path, name: str) -> Pair:
    """A case of confidence_kinds.py, registered by the engine at half and at full resolution from a wrong start."""
    _, _, seed, motion, similarity = name.split("-")
    rng = np.random.default_rng(int(seed))
    case = kinds.make_case(data, name.replace(motion, "near"))
    fixed, moving = (_scaled(case[w]) for w in ("fixed", "moving"))
    truth = (case["truth"].reshape(3, -1).T - case["moving_origin"]) / case["spacing"]
    truth = truth.T.reshape(3, *fixed.shape).astype("f4")
    largest = {"near": rng.uniform(1.5, 4), "mid": rng.uniform(4, 7), "far": rng.uniform(8, 14), "lost": 3.0}[motion]
    shift = {"near": 1.0, "mid": 2.0, "far": 4.0, "lost": rng.uniform(7, 14)}[motion]
    error = np.stack(
        [ndimage.gaussian_filter(rng.standard_normal(fixed.shape), rng.uniform(6, 14), mode="wrap") for _ in range(3)]
    )
    error *= largest / np.sqrt((error**2).sum(0)).max()
    direction = rng.standard_normal(3)
    error += (shift * direction / np.linalg.norm(direction)).reshape(3, 1, 1, 1)
    places = (truth + error).astype("f4")
    engine = {"similarity": similarity, "regularisation": float(rng.choice([0.5, 0.8, 1.6]))}
    coarse = min(fixed.shape) >= 16
    if coarse:
        places, _ = _improved(fixed, moving, places, 2, Optimise(iterations=25, **engine))
    places, shared = _improved(fixed, moving, places, 1, Optimise(iterations=4, least_agreement=0.99, **engine), coarse)
    pair = {"fixed": fixed.astype("f2"), "moving": moving.astype("f2"), "places": places.astype("f4"), "truth": truth}
    return {**pair, "shared": shared}


def sampled(moving: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moving at places (voxels), and where these lie in it."""
    top = np.reshape(np.subtract(moving.shape, 1), (3, 1, 1, 1))
    values = ndimage.map_coordinates(moving, places, order=1, mode="nearest").astype("f4")
    return values, ((places >= -0.5) & (places <= top + 0.5)).all(0)


def _scaled(image: np.ndarray) -> np.ndarray:
    image = image.astype("f4")
    low, high = np.percentile(image[::2, ::2, ::2] if min(image.shape) > 8 else image, [1, 99.9])
    return (image - low) / max(high - low, 1e-6)


def _improved(
    fixed: np.ndarray, moving: np.ndarray, places: np.ndarray, factor: int, engine: Optimise, native: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Places after the engine looked once, on one patch, at images coarser by `factor`; and what it found to be shared,
    at the voxels of fixed where these are not coarser."""
    warped, inside = sampled(moving, places)
    whole = [-(-n // (4 * factor)) * 4 * factor for n in fixed.shape]
    padding = [(0, w - n) for w, n in zip(whole, fixed.shape, strict=True)]
    f, m = (_means(np.pad(i, padding, mode="edge"), factor) for i in (fixed, warped))
    mask = (_means(np.pad(inside.astype("f4"), padding), factor) > 0.99).astype("f4")
    f, m, mask = (torch.from_numpy(np.ascontiguousarray(i, dtype=np.float32)) for i in (f, m, mask))
    lattice = Lattice(tuple(n // 4 for n in f.shape), (4.0,) * 3, (0.0,) * 3, (4, 4, 4))
    pair = PatchPair(f[None], m[None], mask, mask, lattice, level=factor - 1, native=native)
    similarity, missing = engine.similarity.name, np.zeros(f.shape, bool)
    if similarity in SIMILARITIES:
        patch, found = estimate_matching(engine, pair, similarity)
        missing = found.where.numpy() > 0
    else:
        patch = estimate_fitting(engine, pair)
    # From mid-space to either side, hence twice.
    move = -2 * evaluate(patch.coefficients, (4, 4, 4)).numpy() / 8
    for _ in range(3):
        move = _composed(move, move)
    move = move * factor
    if factor > 1:
        at = (np.indices(whole) - (factor - 1) / 2) / factor
        move = np.stack([ndimage.map_coordinates(c, at, order=1, mode="nearest") for c in move])
    move = move[:, : fixed.shape[0], : fixed.shape[1], : fixed.shape[2]]
    grid = np.indices(fixed.shape).astype("f4")
    shared = ~missing[: fixed.shape[0], : fixed.shape[1], : fixed.shape[2]]
    if factor == 1:
        shared = ndimage.map_coordinates(shared.astype("f4"), grid + move / 2, order=1, mode="nearest") > 0.5
    return _composed(places - grid, move) + grid, shared


def _composed(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Displacement of the outer after the inner one, voxels."""
    at = np.indices(outer.shape[1:]).astype("f4") + inner
    return inner + np.stack([ndimage.map_coordinates(c, at, order=1, mode="nearest") for c in outer])


def _means(image: np.ndarray, width: int) -> np.ndarray:
    z, y, x = (n // width for n in image.shape)
    cut = image[: z * width, : y * width, : x * width]
    return cut.reshape(z, width, y, width, x, width).mean((1, 3, 5))
