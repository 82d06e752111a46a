"""How well the time left is foretold: finished runs are played again from what they keep, by the formula of the status.

    python tests/benchmarks/time_left.py RUN.zarr ...

The end of each stage is when its status was written last, its beginning that less the seconds that it took; between
them its blocks count as done one after another, evenly. Prints the estimate over the truth at 25, 50 and 75 % of the
time from where the total was known. Only runs that were never interrupted can be judged.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from bigreg import open_run
from bigreg.pipeline.judging.status import PACE, StageStatus, seconds_left

AT = (0.25, 0.5, 0.75)


def timeline(url: str) -> tuple[dict, float, list[tuple[str, int, float, float]]] | None:
    """Pace, end (unix seconds), and (name, blocks, begin, end) of each stage; None for a run that cannot be judged."""
    run = open_run(url).store.attributes
    pace, end = run.get(PACE), run["updated"]
    if pace is None or run["state"] != "finished":
        return None
    rows = []
    for name, _, blocks in run["stages"]:
        written = [p.stat().st_mtime for p in (Path(url) / name / "status").rglob("*") if p.name != "zarr.json"]
        stop = max((t for t in written if t <= end + 1), default=pace["since"])
        rows.append((name, blocks, stop - run["seconds"].get(name, 0.0), stop))
    return pace, end, rows


def estimated(pace: dict, rows: list[tuple[str, int, float, float]], now: float) -> float | None:
    """What the status would have said at `now`."""
    stages = []
    for name, blocks, begin, end in rows:
        share = 1.0 if now >= end else max(0.0, (now - begin) / max(end - begin, 1e-3))
        done = int(share * blocks)
        stages.append(StageStatus(name, name, blocks, done, running=int(0 < share < 1)))
    updated = max((end for *_, end in rows if end <= now), default=pace["since"])
    return seconds_left(pace, stages, now, updated)


def main() -> None:
    found = defaultdict(list)
    for url in sys.argv[1:]:
        known = timeline(url)
        if known is None:
            continue
        pace, end, rows = known
        told = []
        for at in AT:
            left = estimated(pace, rows, pace["since"] + at * (end - pace["since"]))
            told.append("-" if left is None else f"{left / ((1 - at) * (end - pace['since'])):.2f}")
            if left is not None:
                found[at].append(left / ((1 - at) * (end - pace["since"])))
        print(f"{url}: {end - pace['since']:.0f} s, estimate over truth {' '.join(told)}")
    for at, ratios in sorted(found.items()):
        near = np.mean([2 / 3 <= r <= 1.5 for r in ratios])
        print(f"at {at:.0%}: median {np.median(ratios):.2f} of {len(ratios)} runs, {near:.0%} within a factor of 1.5")


if __name__ == "__main__":
    main()
