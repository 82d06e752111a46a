"""Measure a finished run: against landmarks, against labels, for each region of an annotation. Block by block.

Every figure is a sum over blocks that are read with as large a margin as its window needs, so a volume of any size
takes a few blocks of memory, and the size of the blocks changes no figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ...geometry import Grid, Shape
from ...quality.evaluation import Evaluation
from ...quality.metrics import (
    JointHistogram,
    LabelCounts,
    RegionSums,
    SeamSummary,
    SurfacePoints,
    central_jacobian,
    local_correlation,
    min_jacobian,
    moments,
    structural_similarity,
    surface_distance,
    target_registration_error,
)
from ...quality.metrics.regularity import LOG_JACOBIAN_FLOOR
from ...transforms.affine import apply_affine
from ...transforms.landmarks import read_pairs
from ...transforms.maps import Map
from ...transforms.positions import Positions
from ...volumes import Volume
from ..context.context import IMAGES, Context
from ..tasks import steering
from ..tasks.fields import field_grids, follow
from ..tasks.warp import TEXTURED, measured_factors
from .figures import figures

BOX = 96  # voxels along an axis of what is measured at once
MARGIN = 4  # voxels around it: the largest radius of a window
TEXTURE_SD = 0.02  # of images scaled to 0 .. 1; windows with less are flat
STATES = ("before", "affine", "after")
TITLES = {"before": "before registration", "affine": "after the affine", "after": "after the deformation"}

Row = tuple[str, str, float, str, str]
Table = list[dict[str, Any]]


def evaluate(
    context: Context,
    url: str,
    through: Map,
    *,
    landmarks: str | None = None,
    labels: tuple[Volume, Volume] | None = None,
    annotation: Volume | None = None,
) -> Evaluation:
    """All that can be measured; see Run.evaluate. `through`: the run's map from fixed to moving."""
    pairs = None if landmarks is None else read_pairs(landmarks)  # a wrong path ends this before hours of images
    rows = list(figures(context))
    regions, summary = _images(context, annotation)
    rows += summary
    if annotation is not None:
        regions |= _jacobians(context, annotation)
    rows.append(_seams(context))
    points: Table = []
    if pairs is not None:
        points, found = _landmarks(context, through, pairs, annotation)
        rows += found
    of_labels: Table = []
    if labels is not None:
        of_labels, found = _labels(context, *labels)
        rows += found
    identities = context.attributes["identities"]
    return Evaluation(
        url, identities["fixed"], identities["moving"], rows, points, of_labels, _region_table(regions, points)
    )


def boxes(shape: Shape, margin: int) -> Iterator[tuple[Shape, Shape, Shape, Shape, tuple[slice, ...]]]:
    """Of each box that tiles `shape`: start, stop, the same with a margin, and where it lies in the latter."""
    counts = [range(0, n, BOX) for n in shape]
    for start in np.stack(np.meshgrid(*counts, indexing="ij"), -1).reshape(-1, 3).tolist():
        stop = tuple(min(a + BOX, n) for a, n in zip(start, shape, strict=True))
        low = tuple(max(a - margin, 0) for a in start)
        high = tuple(min(b + margin, n) for b, n in zip(stop, shape, strict=True))
        inner = tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, low, strict=True))
        yield tuple(start), stop, low, high, inner


def labels_at(places: Positions, image: Volume) -> np.ndarray:
    """(...) int64: the label of the voxel nearest to each place, 0 outside of the image."""
    grid = image.grid()
    inside = places.inside(grid).cpu().numpy()
    if not inside.any():
        return np.zeros(inside.shape, np.int64)
    index = places.index(grid)
    nearest = index.offset.double().cpu().numpy() + index.anchor.reshape(3, *[1] * inside.ndim)
    nearest = np.rint(nearest[:, inside]).astype(np.int64)
    nearest = np.clip(nearest, 0, np.subtract(grid.shape, 1)[:, None])
    low, high = nearest.min(1), nearest.max(1) + 1
    out = np.zeros(inside.shape, np.int64)
    out[inside] = image.read(tuple(low), tuple(high))[tuple(nearest - low[:, None])]
    return out


# ------------------------------------------------------------------------------------------------------------- images


def _images(context: Context, annotation: Volume | None) -> tuple[dict[str, RegionSums | JointHistogram], list[Row]]:
    """Similarity and inverse error of each region, and of the whole as rows."""
    fixed, moving = (
        context.image(w, measured_factors(context.frames, context.levels[0], context.config, w)) for w in IMAGES
    )
    frames, grid = context.frames, fixed.grid
    voxel = np.reshape(frames.fixed.spacing, (3, 1, 1, 1))
    sums: dict[str, Any] = {}

    def add(name: str, part: RegionSums | JointHistogram) -> None:
        sums[name] = sums[name] + part if name in sums else part

    for _, _, low, high, inner in boxes(grid.shape, MARGIN):
        here = Positions.of_grid(grid.cropped(low, high), context.device)
        there = follow(context, here, "fixed_to_moving")
        places = {"before": here.through(frames.before), "affine": here.through(frames.affine), "after": there}
        seen = {k: p.inside(moving.grid) for k, p in places.items()}
        for which in IMAGES:
            if (tissue := context.mask(which)) is not None:
                for state, place in places.items():
                    seen[state] = seen[state] & tissue.at(here if which == "fixed" else place)
        seen["affine"] = seen["after"] = seen["affine"] & seen["after"]  # one set of voxels, to be compared
        region = None if annotation is None else labels_at(here, annotation)[inner]
        f = context.scaled("fixed", torch.as_tensor(fixed.read(low, high).astype(np.float32)))
        for state, place in places.items():
            mask = seen[state].cpu().numpy()
            if not mask[inner].any():
                continue
            m = context.scaled("moving", place.sample(moving.read, moving.grid)[0].cpu())
            own = mask[inner]
            a, b = f.numpy()[inner][own], m.numpy()[inner][own]
            quantities = moments(a, b)
            if state != "before":
                local = local_correlation(f.numpy(), m.numpy(), mask, radius=MARGIN, texture_sd=TEXTURE_SD)
                local = np.where(f.numpy() > TEXTURED, local, np.nan)[inner][own]
                ssim = np.asarray(structural_similarity(f.numpy(), m.numpy(), mask))[inner][own]
                quantities |= {"local": local, "local_n": np.isfinite(local), "ssim": ssim, "ssim_n": np.isfinite(ssim)}
            for scope, ids in (("whole", np.zeros(a.shape, np.int64)), ("region", region)):
                if ids is not None:
                    ids = ids if scope == "whole" else ids[own]
                    add(f"{scope} {state}", RegionSums.of(ids, quantities))
                    add(f"{scope} {state} joint", JointHistogram.of(ids, a, b))
        if region is not None and bool(seen["after"].any()):
            back = follow(context, there, "moving_to_fixed")
            shift = np.reshape(back.anchor - here.anchor, (3, 1, 1, 1))
            error = np.sqrt(((((back.offset - here.offset).cpu().numpy() + shift) / voxel) ** 2).sum(0))
            own = seen["after"].cpu().numpy()[inner]
            error = error[inner][own]
            add(
                "region inverse",
                RegionSums.of(region[own], {"n": np.ones_like(error), "error": error}, {"error": error}),
            )
    rows: list[Row] = []
    for state in STATES:
        if f"whole {state}" not in sums:
            continue
        part, joint, title = sums[f"whole {state}"], sums[f"whole {state} joint"], TITLES[state]
        where = "whole overlap" if state != "before" else "overlap before registration"
        if state != "before":
            rows.append(("evaluation", f"LNCC {title}", float(part.mean("local", "local_n")[0]), "", "9^3 windows"))
            rows.append(("evaluation", f"SSIM {title}", float(part.mean("ssim", "ssim_n")[0]), "", "7^3 windows"))
        rows.append(("evaluation", f"mutual information {title}", float(joint.information[0]), "nat", where))
        rows.append(("evaluation", f"normalised mutual information {title}", float(joint.normalised[0]), "", "1 .. 2"))
    return {k.removeprefix("region "): v for k, v in sums.items() if k.startswith("region ")}, rows


def _jacobians(context: Context, annotation: Volume) -> dict[str, RegionSums]:
    """Folds and volume change of fixed_to_moving, without its affine, at the samples of the field in each region."""
    grid = field_grids(context, "fixed_to_moving")[0]
    array = context.array("transforms", "fixed_to_moving", "0")
    total = RegionSums()
    for start, stop, low, high, inner in boxes(grid.shape, 1):
        here = Positions.of_grid(grid.cropped(start, stop))
        own = here.inside(context.frames.fixed).numpy()
        if not own.any():
            continue
        values = array.read((0, *low), (3, *high))
        smallest, central = (np.asarray(j(values, grid.spacing))[inner][own] for j in (min_jacobian, central_jacobian))
        log = np.log(np.maximum(central.astype(float), LOG_JACOBIAN_FLOOR))
        quantities = {"n": np.ones_like(log), "folds": smallest <= 0, "log": log, "squares": log**2}
        total += RegionSums.of(labels_at(here, annotation)[own], quantities, {"least": -smallest})
    return {"jacobian": total}


def _seams(context: Context) -> Row:
    """Of the finest level's half-way map, on whose lattice the blocks have their faces."""
    level = context.levels[0]
    grid, samples = level.lattice.grid, level.lattice.samples
    faces = [
        [cell * s for cell in range(core, cells, core)]
        for core, cells, s in zip(level.blocks.core, level.blocks.cells, samples, strict=True)
    ]
    array = context.array("levels", 0, "maps", "fixed")
    total = SeamSummary()
    for start, stop, low, high, _ in boxes(grid.shape, 2):
        values = array.read((0, *low), (3, *high))
        core = list(zip(start, stop, strict=True))
        total += SeamSummary.of(values, grid.spacing, faces, start=low, core=core)
    note = "second differences at block faces over elsewhere, finest level; 1: no seam"
    return "regularity", "seam ratio", total.ratio, "", note


# ---------------------------------------------------------------------------------------------------------- landmarks


def _landmarks(
    context: Context, through: Map, pairs: tuple[np.ndarray, np.ndarray], annotation: Volume | None
) -> tuple[Table, list[Row]]:
    """The error at every pair, and their summaries; pairs that the run began with are told apart."""
    fixed, truth = pairs
    frames = context.frames
    inside = frames.fixed.contains(fixed)
    places = {
        "before": apply_affine(frames.before, fixed),
        "affine": apply_affine(frames.affine, fixed),
        "after": through.points(fixed),
    }
    error = {k: np.where(inside, np.linalg.norm(p - truth, axis=1), np.nan) for k, p in places.items()}
    seen = _seen(context, fixed, truth)
    region = np.zeros(len(fixed), np.int64)
    if annotation is not None:
        region = labels_at(Positions.of_points(fixed), annotation)
    table = [
        {
            "landmark": i,
            **{f"fixed_{a}": float(v) for a, v in zip("zyx", fixed[i], strict=True)},
            **{f"moving_{a}": float(v) for a, v in zip("zyx", truth[i], strict=True)},
            **{f"error_{k}": float(error[k][i]) for k in STATES},
            "seen": bool(seen[i]),
            **({"region": int(region[i])} if annotation is not None else {}),
        }
        for i in range(len(fixed))
    ]
    rows: list[Row] = []
    held = ~seen
    for group, use in (("landmarks", held), ("landmarks of the run", seen)):
        if not use.any():
            continue
        for state in STATES:
            e = target_registration_error(places[state][use] + np.where(inside[use], 0, np.nan)[:, None], truth[use])
            figures_of = {"mean": e.mean, "median": e.median, "95 %": e.p95, "largest": e.maximum}
            rows += [
                (group, f"TRE {name} {TITLES[state]}", value, "um", f"{e.points} pairs, {e.missing} outside")
                for name, value in figures_of.items()
            ]
    return table, rows


def _seen(context: Context, fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """(N,) bool: pairs of the file that the run started from or was steered by, where there was one."""
    known = []
    if context.steered:
        known.append(context.array(*steering.PLACE.split("/"))[...])
    start = context.config.affine.start
    if start is not None and str(start).endswith(".csv"):
        with suppress(InputError):  # a matrix, or a file that is gone
            known.append(np.concatenate(read_pairs(start), axis=1))
    seen = np.zeros(len(fixed), bool)
    pairs = np.concatenate([fixed, moving], axis=1)
    for others in known:
        seen |= np.array([bool((np.abs(others - p).max(1) < 1e-3).any()) for p in pairs], bool)
    return seen


# ------------------------------------------------------------------------------------------------------------- labels


def _labels(context: Context, fixed: Volume, moving: Volume) -> tuple[Table, list[Row]]:
    """Overlap and surface distances of every label, on the grid of the fixed labels, where moving ones reach."""
    grid = fixed.grid()
    counts = {"affine": LabelCounts(), "after": LabelCounts()}
    surfaces = SurfacePoints(), SurfacePoints()
    for _, _, low, high, inner in boxes(grid.shape, 1):
        here = Positions.of_grid(grid.cropped(low, high))
        target = fixed.read(low, high).astype(np.int64)
        inside = here.inside(context.frames.fixed)
        places = {
            "affine": here.through(context.frames.affine),
            "after": follow(context, here, "fixed_to_moving"),
        }
        for state, place in places.items():
            known = (inside & place.inside(moving.grid())).numpy()
            if not known.any():
                continue
            warped = labels_at(place, moving)
            counts[state] += LabelCounts.of(target[inner], warped[inner], known[inner])
            if state == "after":
                for points, image in zip(surfaces, (target, warped), strict=True):
                    points.add(image, low, inner, known)
    table = _label_table(counts, surfaces, grid)
    rows: list[Row] = []
    names = (
        ("dice_affine", "mean Dice after the affine", ""), ("dice", "mean Dice", ""), ("jaccard", "mean Jaccard", ""),
        ("hd95_um", "mean HD95", "um"), ("surface_distance_um", "mean surface distance", "um"),
    )  # fmt: skip
    for key, name, unit in names:
        values = np.array([row[key] for row in table], float)
        known = np.isfinite(values)
        value = float(values[known].mean()) if known.any() else float("nan")
        rows.append(("labels", name, value, unit, f"{known.sum()} of {len(values)} labels, each of one weight"))
    return table, rows


def _label_table(counts: dict[str, LabelCounts], surfaces: tuple[SurfacePoints, SurfacePoints], grid: Grid) -> Table:
    affine = dict(zip(counts["affine"].ids.tolist(), counts["affine"].dice.tolist(), strict=True))
    c = counts["after"]
    table = []
    for i, label in enumerate(c.ids.tolist()):
        (a, step_a), (b, step_b) = (s.of(label) for s in surfaces)
        distance = surface_distance(a, b, grid.affine[:3, :3], max(step_a, step_b))
        table.append(
            {
                "label": label, "voxels_fixed": int(c.first[i]), "voxels_warped": int(c.second[i]),
                "dice_affine": affine.get(label, float("nan")), "dice": float(c.dice[i]),
                "jaccard": float(c.jaccard[i]), "hd95_um": distance.hd95, "surface_distance_um": distance.mean,
                "hausdorff_um": distance.maximum, "surface_step": distance.step,
            }
        )  # fmt: skip
    return table


# ------------------------------------------------------------------------------------------------------------ regions


def _region_table(found: dict[str, Any], landmarks: Table) -> Table:
    """One row a region (0 is what has none), from the sums of all passes."""
    if not found:
        return []
    columns: dict[str, dict[int, float]] = {}

    def put(name: str, part: RegionSums | JointHistogram, values: np.ndarray) -> None:
        columns[name] = dict(zip(part.ids.tolist(), np.asarray(values, float).tolist(), strict=True))

    for state in STATES:
        if (part := found.get(state)) is None:
            continue
        joint = found[f"{state} joint"]
        if state == "after":
            put("voxels", part, part.sums["n"])
        put(f"ncc_{state}", part, part.correlation())
        put(f"mi_{state}", joint, joint.information)
        put(f"nmi_{state}", joint, joint.normalised)
        if state != "before":
            put(f"lncc_{state}", part, part.mean("local", "local_n"))
            put(f"ssim_{state}", part, part.mean("ssim", "ssim_n"))
    j = found["jacobian"]
    put("folds", j, j.sums["folds"])
    put("smallest_jacobian", j, -j.largest["least"])
    mean = j.mean("log", "n")
    put("sd_log_jacobian", j, np.sqrt(np.maximum(j.mean("squares", "n") - mean**2, 0)))
    put("volume_ratio", j, np.exp(mean))
    if "inverse" in found:
        put("inverse_error_voxels", found["inverse"], found["inverse"].mean("error", "n"))
        put("largest_inverse_error_voxels", found["inverse"], found["inverse"].largest["error"])
    for region in {row["region"] for row in landmarks if "region" in row}:
        errors = np.array([row["error_after"] for row in landmarks if row["region"] == region and not row["seen"]])
        errors = errors[np.isfinite(errors)]
        if len(errors):
            columns.setdefault("landmarks", {})[region] = float(len(errors))
            columns.setdefault("tre_mean_um", {})[region] = float(errors.mean())
            columns.setdefault("tre_median_um", {})[region] = float(np.median(errors))
    ids = sorted(set().union(*columns.values()))
    return [{"region": i, **{name: column.get(i, float("nan")) for name, column in columns.items()}} for i in ids]
