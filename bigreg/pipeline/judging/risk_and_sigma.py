"""Task: whether the risk and sigma say the same of each tile of the fixed image, and where they do not.

The risk is that a place was matched to a wrong structure; sigma is how far noise takes a map that matched the right
one. Both say how probable an error above LARGE voxels is: a tile is doubtful by either from RISKY on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage, special

from ... import storage
from ...geometry import BlockGrid, Grid, Shape
from ...quality.confidence import LARGE, RISKY, TILE, said
from ..context.context import Context
from ..labels import label
from ..schedule.flow import Need, Stage, same_block
from ..store.store import Status
from . import confidence, sigma

KINDS = ("risk_alone", "sigma_alone")
METRICS = ("tiles", *(f"{kind}{part}" for kind in KINDS for part in ("", "_densest", "_z", "_y", "_x")))
"""Tiles of which both are known; those that one alone doubts; how many of these are among NEAR^3 around the place with
most of them, and that place, um in the fixed world."""
STAGE = "stages/risk_and_sigma"
NEAR = 5
"""Tiles along an axis."""
DOUBTFUL = LARGE / np.sqrt(special.chdtri(3, RISKY) / 3)
"""Voxels: root mean square distance by sigma from which on an error above LARGE voxels has a probability of RISKY, if
the error is normally distributed and alike along the axes."""


def stage(tiles: Grid) -> Stage:
    blocks = confidence.blocks_of(tiles)
    return Stage(
        STAGE, label("risk and sigma"), blocks.counts, measure, metrics=METRICS,
        needs=(Need(confidence.stage(tiles).name, same_block), Need(sigma.stage(tiles).name, _of_sigma(tiles, blocks))),
    )  # fmt: skip


def _of_sigma(tiles: Grid, blocks: BlockGrid) -> Callable[[Shape], tuple[Shape, Shape]]:
    """The blocks of sigma that a block reads."""
    own = sigma.blocks_of(tiles)

    def box(index: Shape) -> tuple[Shape, Shape]:
        block = blocks[index]
        return own.touching(block.start, block.stop)

    return box


def doubted(risk: np.ndarray, deviations: np.ndarray, voxel: np.ndarray) -> dict[str, np.ndarray]:
    """Bool (z, y, x) of tiles: those of which both are known, and those that either alone doubts.

    risk        (z, y, x) 0 .. 1; NaN where it is not known
    deviations  (3, z, y, x) sigma, um; NaN where it is not known
    voxel       (3,) um, of the finest level along z, y and x
    """
    distance = np.sqrt(np.square(deviations / np.reshape(voxel, (3, 1, 1, 1)), dtype=float).sum(0))
    known = np.isfinite(risk) & np.isfinite(distance)
    by_risk, by_sigma = risk >= RISKY, distance >= DOUBTFUL * np.sqrt(1 - 1e-9)
    return {"tiles": known, "risk_alone": known & by_risk & ~by_sigma, "sigma_alone": known & by_sigma & ~by_risk}


def measure(context: Context, index: Shape) -> tuple[Status, dict[str, float]]:
    """Count the tiles of one block."""
    tiles = confidence.tiles_of(context)
    block = confidence.blocks_of(tiles)[index]
    risk = context.array(confidence.PLACE, "0").read(block.start, block.stop)
    deviations = context.array(sigma.PLACE, "0").read((0, *block.start), (3, *block.stop))
    found = doubted(risk, deviations, np.array(tiles.spacing) / TILE)
    out = {name: float(values.sum()) for name, values in found.items()}
    for kind in KINDS:
        count, place = densest(found[kind])
        at = tiles.index_to_world((np.array(place) + block.start)[None])[0]
        out |= {f"{kind}_densest": float(count), **{f"{kind}_{a}": float(v) for a, v in zip("zyx", at, strict=True)}}
    return (Status.DONE if out["tiles"] else Status.BLANK), out


def densest(marked: np.ndarray) -> tuple[int, tuple[int, ...]]:
    """How many tiles are marked around the marked tile that has most of them around it, and its index."""
    if not marked.any():
        return 0, (0,) * marked.ndim
    around = marked.astype(np.int32)
    for axis in range(marked.ndim):
        around = ndimage.correlate1d(around, np.ones(NEAR, np.int32), axis, mode="constant")
    around[~marked] = 0
    place = np.unravel_index(int(around.argmax()), marked.shape)
    return int(around[place]), tuple(int(i) for i in place)


def told(context: Context) -> tuple[dict[str, float], str] | None:
    """Shares of tiles, 0 .. 1 (`agree`, and each of KINDS), and one sentence on them; None where a run has not both."""
    place = context.store.path(STAGE, "metrics")
    if not storage.exists(place):
        return None
    found = {name: storage.open_array(storage.join(place, name))[...].astype(float).ravel() for name in METRICS}
    total = float(np.nansum(found["tiles"]))
    if not total:
        return None
    shares = {kind: float(np.nansum(found[kind])) / total for kind in KINDS}
    agree = 1 - sum(shares.values())
    allows = f"allows an error above {said(confidence.threshold_um(context))} with {RISKY:.0%} or more"
    texts = {
        "risk_alone": "only the risk is high, as where a wrong structure was matched",
        "sigma_alone": f"only sigma {allows}, as where the images show little",
    }
    parts = [f"on {shares[k]:.1%} {text} ({_where(found, k)})" for k, text in texts.items() if shares[k]]
    return {"agree": agree, **shares}, "; ".join(
        [f"The risk and sigma agree on {agree:.1%} of the tiles", *parts]
    ) + "."


def _where(found: dict[str, np.ndarray], kind: str) -> str:
    block = int(np.nanargmax(found[f"{kind}_densest"]))
    at = ", ".join(f"{found[f'{kind}_{a}'][block]:.4g}" for a in "zyx")
    return f"most around z, y, x = {at} µm"
