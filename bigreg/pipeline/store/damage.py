"""Chunks of a run that can no longer be read: the blocks that wrote them are set back, so that they are computed anew.

Every chunk (shard, where there are shards) of a run belongs to one block of one stage, and a block computed again gives
the same bits. So a file that a crash or a bad disk has damaged costs one block, not the run.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from ... import storage
from ...errors import CorruptDataError
from ...geometry import Shape, triple
from .store import RunStore, Status


def forget(store: RunStore, error: CorruptDataError) -> tuple[str, list[Shape]] | None:
    """Set back the blocks of the chunk that `error` speaks of; returns (stage, blocks), or None where none can do it.

    None: the chunk is not of this run, or is one of an image that was given as an array. Only the client may do so,
    while no task runs.
    """
    if error.url is None or not error.url.startswith(f"{store.url}/"):
        return None
    parts = error.url.removeprefix(f"{store.url}/").split("/")
    for name, depth in (("status", 1), ("metrics", 2)):
        if len(parts) > depth and parts[-depth] == name:
            stage = "/".join(parts[:-depth])
            _blank(store, "/".join(parts), error)
            return stage, _set_back(store, stage, [triple(index) for index in product(*map(range, *_box(error)))])
    found = _owner(store, parts, *_unit(error))
    return None if found is None else (found[0], _set_back(store, found[0], [found[1]]))


def _box(error: CorruptDataError) -> tuple[tuple[int, ...], tuple[int, ...]]:
    assert error.box is not None, "damage in an array has the box of its chunk"
    return error.box


def _unit(error: CorruptDataError) -> tuple[np.ndarray, np.ndarray]:
    """First voxel of the damaged chunk, and the box that one block writes."""
    assert error.url is not None, "forget() asks for damage in an array"
    array = storage.open_array(error.url)
    return np.asarray(_box(error)[0]), np.asarray(array.shards or array.chunks)


def _owner(store: RunStore, parts: list[str], low: np.ndarray, unit: np.ndarray) -> tuple[str, Shape] | None:
    """Stage and block that wrote the chunk from index `low` on."""
    block = triple(int(i) for i in low[-3:] // unit[-3:])
    match parts:
        case ["images", which, factors]:
            return f"stages/prepare/{which}-{factors}", block
        case ["preprocess", which, "stripes"]:
            return f"stages/stripes/{which}", block
        case ["preprocess", which, "histograms"]:
            return f"stages/histograms/{which}", triple(int(i) for i in low[:3])
        case ["masks", _]:
            return "stages/affine", (0, 0, 0)
        case ["masks", which, factors]:
            return f"stages/prepare/{which}-{factors}", block
        case ["start", _]:
            return "stages/start", block
        case ["levels", level, "patches" | "patch_sigma"]:
            return f"levels/{level}", triple(int(i) for i in low[:3])
        case ["levels", level, "noncorrespondence"]:
            return f"levels/{level}", block
        case ["landmarks", "found", number, "pairs"]:
            return f"landmarks/found/{number}", triple(int(i) for i in low[:3])
        case ["landmarks", "kept", number, _]:
            return f"landmarks/kept/{number}", (0, 0, 0)
        case ["levels", level, "landmarks", "pulls"]:
            return f"levels/{level}/landmarks", (0, 0, 0)
        case ["levels", level, "velocity" | "sigma"]:
            return f"levels/{level}/stitch", block
        case ["levels", level, "maps", _]:
            return _latest(store, f"levels/{level}/compose", ""), block
        case ["transforms", direction, "0"]:
            return _latest(store, "stages", direction), block
        case ["transforms", direction, level]:
            return f"stages/{direction}-level-{level}", block
        case ["warped", "0"]:
            return "stages/warped", block
        case ["warped", level]:
            return f"stages/warped-level-{level}", block
        case ["confidence", "0"]:
            return "stages/confidence", block
        case ["sigma", "0"]:
            return "stages/sigma", block
        case ["noncorrespondence", "0"]:
            return "stages/noncorrespondence", block
        case ["check", name]:
            return "stages/check", triple(int(i) for i in name.split("."))
    return None


def _latest(store: RunStore, place: str, direction: str) -> str:
    """The stage of the last attempt at something."""
    names = storage.children(store.path(place))
    prefix = f"{direction}-attempt-" if direction else ""
    numbers = [int(n.removeprefix(prefix)) for n in names if n.startswith(prefix) and n.removeprefix(prefix).isdigit()]
    return f"{place}/{prefix}{max(numbers)}" if numbers else f"{place}/{direction}"


def _set_back(store: RunStore, stage: str, blocks: list[Shape]) -> list[Shape]:
    array = store.array(stage, "status", write=True)
    # The last block of a level also owns what lies beyond the whole blocks.
    blocks = [triple(min(i, n - 1) for i, n in zip(block, array.shape, strict=True)) for block in blocks]
    for block in blocks:
        low = tuple(i // c * c for i, c in zip(block, array.chunks, strict=True))
        values = array.read(low, tuple(min(a + c, n) for a, c, n in zip(low, array.chunks, array.shape, strict=True)))
        values[tuple(i - a for i, a in zip(block, low, strict=True))] = Status.TODO
        array.write(low, values)
    return blocks


def _blank(store: RunStore, name: str, error: CorruptDataError) -> None:
    """Replace a damaged chunk of a status or a metric by what stands for "not known"."""
    array = store.array(name, write=True)
    empty = np.nan if array.dtype.kind == "f" else Status.TODO
    low, high = _box(error)
    array.write(low, np.full(np.subtract(high, low), empty, array.dtype))
