"""The table of figures of a run, added up from its blocks."""

from __future__ import annotations

import numpy as np

from ... import storage
from ...quality.confidence import RISKY, said
from ...quality.metrics import ErrorHistogram, JacobianSummary
from ..context.channels import side
from ..context.context import Context
from ..store.store import Status
from ..tasks.fields import DIRECTIONS
from . import likeness, risk_and_sigma
from .confidence import OF_CHANNEL, of_channel, threshold_um

Row = tuple[str, str, float, str, str]


def _metrics(context: Context, stage: str) -> dict[str, np.ndarray]:
    place = context.store.path(stage, "metrics")
    names = [n for n in storage.children(place) if n != "zarr.json"]
    return {n: storage.open_array(storage.join(place, n))[...].astype(float).ravel() for n in names}


def last_fill(context: Context, direction: str) -> str:
    """The stage whose attempt at a field stands."""
    names = [n for n in storage.children(context.store.path("stages")) if n.startswith(f"{direction}-attempt-")]
    last = max((int(n.rsplit("-", 1)[1]) for n in names), default=0)
    return f"stages/{direction}" + (f"-attempt-{last}" if last else "")


def inverse_errors(context: Context) -> ErrorHistogram:
    """Round trip fixed -> moving -> fixed between the samples of the stored fields, in voxels of the fixed image."""
    total = ErrorHistogram()
    url = context.store.path("check")
    for name in storage.children(url):
        if name == "zarr.json":
            continue
        values = storage.open_array(storage.join(url, name))[...]
        total = total + ErrorHistogram(values[:-2].astype(np.int64), float(values[-2]), float(values[-1]))
    return total


def similarity(context: Context) -> list[Row]:
    """Before registration, after the affine, after the deformation: over the whole, and in windows."""
    found = likeness.read(context)
    spacing = " x ".join(f"{s:.4g}" for s in likeness.display_grid(context).spacing)
    note = f"same voxels before and after, of {spacing} µm, smoothed"
    sign = "" if found.signed else ", of its size"
    channels = likeness.of_channels(context)
    note += f"; mean of {len(channels)} channels" if channels else ""
    rows: list[Row] = []
    for name, values, more in (
        ("NCC", found.ncc, ""),
        ("local correlation", found.local, f"; 9^3 windows with structure{sign}"),
        ("mutual information", found.mi, ""),
    ):
        unit = "nat" if name == "mutual information" else ""
        rows += [("similarity", f"{name} {t}", v, unit, note + more) for t, v in zip(TITLES, values, strict=True)]
    for pair, one in zip(context.pairs, channels, strict=False):
        what, of = one.overall
        unit = "" if one.signed else "nat"
        told = channel_pair(context, pair.number)
        for name, figures, measure in ((what, of, unit), ("local correlation", one.local, "")):
            rows += [
                ("similarity", f"{name} {t}, channel pair {pair.number}", v, measure, told)
                for t, v in zip(TITLES[1:], figures[1:], strict=True)
            ]
    return rows


def channels_off(context: Context) -> list[float]:
    """Of each pair of channels the expected share of its textured tiles that are off; nothing where there is one."""
    m = _metrics(context, "stages/confidence") if storage.exists(context.store.path("stages/confidence")) else {}
    shares = []
    for pair in context.pairs:
        structured, expected = (m.get(of_channel(name, pair.number)) for name in OF_CHANNEL)
        if structured is None or expected is None:  # one channel, or a run of before it was kept
            return []
        total = float(np.nansum(structured))
        shares.append(float(np.nansum(expected)) / total if total else float("nan"))
    return shares


def channel_pair(context: Context, number: int) -> str:
    """What the channels of a pair are called."""
    asked = context.config.channels[number - 1]  # an array that the run keeps has its channels one by one
    told = []
    for which, channel in zip(context.pairs[number - 1].images, (asked.fixed, asked.moving), strict=True):
        called = context.volumes[which].understood["channel_name"]
        told.append(f"channel {channel}{f' ({called})' if called else ''} of {side(which)}")
    return " and ".join(told)


TITLES = ("before registration", "after the affine", "after the deformation")


def figures(context: Context) -> list[Row]:
    """(group, name, value, unit, note); similarity, regularity, inverse, effort."""
    rows = similarity(context)
    inside = _metrics(context, "stages/warped")["inside"]
    rows.append(
        ("similarity", "overlap", float(np.nanmean(inside)) * 100, "%", "of the fixed image is inside the moving image")
    )
    for direction in DIRECTIONS:
        m = _metrics(context, last_fill(context, direction))
        summary = JacobianSummary()
        for n, mean, squares in zip(m["samples"], m["mean_log"], m["squares_log"], strict=True):
            summary = summary + JacobianSummary(samples=int(n), mean_log=mean, squares_log=squares)
        rows += [
            (
                "regularity",
                f"folds, {direction}",
                float(m["folds"].sum()),
                "cells",
                "whole field",
            ),
            ("regularity", f"smallest Jacobian, {direction}", float(m["min_jacobian"].min()), "", ""),
            ("regularity", f"SD of log Jacobian, {direction}", summary.sd_log, "", ""),
            (
                "regularity",
                f"largest displacement, {direction}",
                float(m["max_displacement"].max()),
                "um",
                "after the affine",
            ),
        ]
    damped = 0.0
    for index in context.levels:
        place = f"levels/{index}/compose"
        for attempt in (a for a in storage.children(context.store.path(place)) if a.isdigit()):
            damped = max(damped, float(_metrics(context, f"{place}/{attempt}")["damped"].max()))
    rows.append(
        ("regularity", "damping", damped * 100, "%", "velocity removed in the worst block, to keep the map invertible")
    )
    errors = inverse_errors(context)
    for name, value in (
        ("median", errors.percentile(50)),
        ("99.9th percentile", errors.percentile(99.9)),
        ("largest", errors.maximum),
    ):
        rows.append(("inverse error", name, value, "voxels", "fixed -> moving -> fixed, between samples"))
    if storage.exists(context.store.path("stages/confidence")):
        m = _metrics(context, "stages/confidence")
        tiles, risky, known, expected = (float(np.nansum(m[k])) for k in ("tiles", "risky", "structured", "expected"))
        large = said(threshold_um(context))
        note = f"risk of an error above {large} is {RISKY:.0%} or more"
        rows += [
            ("confidence", "tiles at risk", 100 * risky / tiles if tiles else float("nan"), "%", note),
            (
                "confidence",
                "textured tiles off",
                100 * expected / known if known else float("nan"),
                "%",
                f"expected share with an error above {large}; untextured tiles cannot be judged",
            ),
        ]
        rows += [
            ("confidence", f"textured tiles off, channel pair {number}", 100 * off, "%", channel_pair(context, number))
            for number, off in enumerate(channels_off(context), 1)
        ]
    compared = risk_and_sigma.told(context)
    if compared is not None:
        shares, sentence = compared
        rows.append(("confidence", "risk and sigma agree", 100 * shares["agree"], "%", sentence))
    seconds = context.attributes.get("seconds", {})
    elapsed = float(context.attributes.get("elapsed", float("nan")))
    rows.append(("time and memory", "all stages", elapsed, "s", "wall time; stages overlap"))
    for title, test in (("affine", "stages/affine"), ("levels", "levels/"), ("warped image", "stages/warped")):
        rows.append(
            (
                "time and memory",
                title,
                float(sum(v for k, v in seconds.items() if k.startswith(test))),
                "s",
                "wall time",
            )
        )
    if not context.config.deformation:
        return [*rows, *(("blocks", name, 0.0, "", "nothing was deformed") for name in ("done", "blank", "failed"))]
    peaks = [np.fmax.reduce(_metrics(context, f"levels/{index}")["peak_memory"], axis=None) for index in context.levels]
    rows.append(("time and memory", "peak memory per worker", float(max(peaks)), "GiB", "resident, while estimating"))
    # On a CPU there are none, nor in runs from before they were kept.
    cards = [_metrics(context, f"levels/{index}").get("card_memory", np.zeros(0)) for index in context.levels]
    measured = np.concatenate([card[np.isfinite(card)] for card in cards])
    if measured.size:
        largest = float(measured.max())
        rows.append(("time and memory", "peak GPU memory of a worker", largest, "GiB", "by PyTorch, while estimating"))
    done = blank = failed = 0
    for name, _, _ in context.attributes.get("stages", []):
        if name.startswith("levels/") and name.count("/") == 1:
            status = context.store.array(name, "status")[...]
            done += int((status == Status.DONE).sum())
            blank += int((status == Status.BLANK).sum())
            failed += int((status == Status.FAILED).sum())
    for name, count in (("done", done), ("blank", blank), ("failed", failed)):
        rows.append(("blocks", name, float(count), "", "patches of all levels"))
    finest = _metrics(context, "levels/0")
    # Runs from before it was kept have none.
    asked = np.isfinite(finest["agreement"]) if "agreement" in finest else np.zeros(0, bool)
    if asked.any():
        note = f"of {int(asked.sum())} patches: the images differ too much in detail; median agreement "
        note += f"{np.median(finest['agreement'][asked]):.3f} (1: identical)"
        # An earlier version kept the coarser map in such patches, and counted them as `left`.
        for name, key in (("finest level without detail", "smoothed"), ("finest level not followed", "left")):
            if np.isfinite(finest.get(key, np.nan)).any():
                rows.append(("blocks", name, float(np.nansum(finest[key])), "", note))
    chosen = finest.get("regularisation", np.zeros(0))
    chosen = chosen[np.isfinite(chosen)]
    if chosen.size:
        note = (
            f"{chosen.min():.2g} to {chosen.max():.2g} in {chosen.size} patches: with it, a map from one half of the "
        )
        note += "voxels fits the other half best"
        rows.append(("blocks", "stiffness that was chosen", float(np.median(chosen)), "", note))
    return rows
