"""How often a start is found, and whether it says so where it is not: real pairs with marks of others or a known map.

    python tests/benchmarks/starts.py --out OUT.jsonl --work DIR [--start | --run] [--only GLOB ...] [--limit N]
    python tests/benchmarks/starts.py --list [--only GLOB ...] [--limit N]
    python tests/benchmarks/starts.py --summary OUT.jsonl ...

--start (the default) gives the command line of a user and ends it where the levels would begin, in this process on one
thread; --run gives it whole, as a process with one worker. Each case appends a line to OUT.jsonl, and what is there is
not done again. The cases: start_cases.py, and verdict_cases.py (`verdicts/...`, whole runs alone). --limit takes so
many of each suite, drawn by --seed. Images come from BIGREG_TEST_DATA.

A case is   found     the mean error is below `lost` (5 voxels of the 128 along the longest axis that the affine sees;
                      1.5 mm of heads, .5 mm after a whole run)
            named     a mirrored pair that is said to be one; to a symmetric atlas it must lie on its other side, too
            refused   exit status 3, or a confidence below .5 (whether right or wrong; the summary tells both)
            told      wrong, and the verdict of the whole run is not good
            silent    wrong, and none of these
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zlib
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from distributed import Client, LocalCluster
from start_cases import SUITES
from start_images import DATA, Pair, Picture
from typer.testing import CliRunner
from verdict_cases import verdicts

import bigreg
from bigreg import storage
from bigreg.pipeline.stages import Stages
from bigreg.pipeline.store.store import RunStore
from bigreg.transforms.affine import apply_affine
from bigreg.volumes import convert

REFUSED = 3  # exit status
SURE = 0.5  # a confidence below is a refusal
MIRROR = re.compile(r"mirror|left and right|left-right", re.IGNORECASE)


@dataclass
class Row:
    """A line of the file; lengths in the pair's unit (um): voxels of the 128 along the longest axis, or mm of heads."""

    case: str
    mode: str
    outcome: str = ""
    right: bool | None = None
    error: float | None = None
    error_95: float | None = None
    affine_error: float | None = None
    other_side_error: float | None = None
    exit: int | None = None
    confidence: float | None = None
    similarity: float | None = None
    overlap: float | None = None
    verdict: str | None = None
    reasons: list[str] = field(default_factory=list)
    expected_off: float | None = None
    true_off: float | None = None
    mirrored: Any = None
    warnings: list[str] = field(default_factory=list)
    message: str = ""
    start: str = ""
    seconds: float = 0.0
    unit_um: float = 0.0
    kind: str = ""
    note: str = ""
    code: str = ""


class Reached(Exception):
    """The levels would begin."""


class Beginning(Stages):
    """The stages of a run up to the levels."""

    def _levels(self) -> None:
        raise Reached


def written(pair: Pair, folder: Path) -> list[str]:
    """Arguments of `bigreg register`: both images as files, the run, the options."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in ("fixed", "moving"):
        image = getattr(pair, name)
        if isinstance(image, Picture):
            path = folder / f"{name}.ome.zarr"
            convert(image.data, path, spacing=image.spacing, origin=image.origin, overwrite=True)
            image = str(path)
        paths.append(image)
    options = list(pair.options)
    if pair.start is not None:
        np.savetxt(folder / "start.csv", pair.start, fmt="%.12g", delimiter=",")
        options += ["--start", str(folder / "start.csv")]
    return ["register", *paths, str(folder / "run.zarr"), *options]


def begin(pair: Pair, folder: Path, client: Client) -> tuple[int, str]:
    """The command of a user up to where the levels would begin: exit status and what was printed."""
    from bigreg.cli.app import app
    from bigreg.cli.registering import register  # noqa: F401 - adds the verb

    command = written(pair, folder)
    with mock.patch("bigreg.pipeline.run.Stages", Beginning), mock.patch(
        "bigreg.pipeline.run.cluster_client", lambda *settings: nullcontext(client)
    ):  # fmt: skip
        result = CliRunner().invoke(app, command)
    if isinstance(result.exception, Reached):
        return 0, result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return 1, f"{type(result.exception).__name__}: {result.exception}"
    return result.exit_code, result.output


def whole(pair: Pair, folder: Path) -> tuple[int, str]:
    """The command of a user as a process: exit status and what was printed."""
    command = [*written(pair, folder), "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "bigreg.cli", *command], capture_output=True, text=True, check=False,
        env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def told(run: Path) -> dict[str, Any]:
    """What the start says of itself, from the run store; empty where it did not come so far."""
    place = RunStore(str(run)).path("affine")
    if not storage.exists(place):
        return {}
    found = storage.read_attributes(place).get("bigreg", {})
    return {"matrix": found.get("matrix"), **found.get("details", {})}


def verdict(run: bigreg.Run) -> tuple[str, list[str]]:
    """Level and reasons."""
    found = getattr(run, "verdict", None)
    if found is None:
        from bigreg.pipeline.judging.report import collect
        from bigreg.quality.verdict import judge

        found = judge(collect(run._context()).outcome)
    elif callable(found):
        found = found()
    return found.level, list(found.reasons)


def measured(name: str, mode: str, pair: Pair, folder: Path, client: Client | None) -> Row:
    row = Row(name, mode, unit_um=pair.unit, kind=pair.kind, note=pair.note, code=version())
    clock = time.perf_counter()
    row.exit, output = begin(pair, folder, client) if client is not None else whole(pair, folder)
    row.seconds = round(time.perf_counter() - clock, 2)
    run = folder / "run.zarr"
    said = told(run) if run.exists() else {}
    row.warnings = [str(w) for w in said.get("warnings", [])]
    row.start = str(said.get("start", ""))
    row.mirrored = said.get("mirrored")
    for key in ("confidence", "similarity", "overlap"):
        if isinstance(said.get(key), (int, float)):
            setattr(row, key, float(said[key]))
    if row.exit:
        row.message = " ".join(output.split())[-600:]
    finished = mode == "run" and row.exit in (0, None)
    if finished:
        opened = bigreg.open_run(str(run))
        row.verdict, row.reasons = verdict(opened)
        off = [v for group, what, v, *_ in opened.summary() if (group, what) == ("confidence", "textured tiles off")]
        row.expected_off = float(off[0]) / 100 if off else None
    if pair.points is not None and said.get("matrix") is not None:
        affine = distances(apply_affine(np.asarray(said["matrix"]), pair.points), pair)
        row.affine_error = float(affine.mean())
        if pair.as_good is not None:
            other = replace(pair, targets=pair.as_good)
            row.other_side_error = float(distances(apply_affine(np.asarray(said["matrix"]), pair.points), other).mean())
        error = distances(opened.map_points(pair.points), pair) if finished else affine
        error = error[np.isfinite(error)]
        row.error, row.error_95 = float(error.mean()), float(np.percentile(error, 95))
        if finished:
            off_um = 2 * float(max(opened._context().frames.fixed.spacing))
            row.true_off = float((error * pair.unit > off_um).mean())
    row.right = row.error is not None and row.error * pair.unit < (pair.accurate if mode == "run" else pair.lost)
    row.outcome = outcome(row, output, pair)
    return row


def distances(found: np.ndarray, pair: Pair) -> np.ndarray:
    return np.linalg.norm(found - pair.targets, axis=1) / pair.unit


def outcome(row: Row, output: str, pair: Pair) -> str:
    if row.exit == REFUSED or (row.confidence is not None and row.confidence < SURE):
        return "refused"
    if row.exit:
        return "failed"  # another error than one that says the images do not fit
    if row.right:
        return "found"
    said = row.mirrored or MIRROR.search(" ".join([*row.warnings, output]))
    placed = row.other_side_error is None or row.other_side_error * pair.unit < pair.lost
    if row.kind == "mirrored" and said and placed:
        return "named"
    return "told" if row.verdict in ("look", "bad") else "silent"


def version() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(bigreg.__file__).parent, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return done.stdout.strip()


# ------------------------------------------------------------------------------------------------------ command


def chosen(patterns: list[str], limit: int | None, seed: int) -> dict[str, Any]:
    """Cases by name that a pattern fits, at most `limit` of each suite in the order that the seed draws."""
    out = {}
    for cases in (*SUITES.values(), verdicts):
        fitting = {n: make for n, make in cases().items() if any(fnmatch(n, p) for p in patterns or ["*"])}
        names = sorted(fitting, key=lambda n: zlib.crc32(f"{seed}:{n}".encode())) if limit else list(fitting)
        out |= {n: fitting[n] for n in names[:limit]}
    return out


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.exists() else []


def go(cases: dict[str, Any], mode: str, out: Path, work: Path) -> None:
    done = {(row["case"], row["mode"]) for row in lines(out)}
    torch.set_num_threads(1)
    local = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0")
    with local as cluster, Client(cluster, set_as_default=False) as client:
        for name, make in cases.items():
            if (name, mode) in done:
                continue
            folder = work / mode / name
            shutil.rmtree(folder, ignore_errors=True)
            row = measured(name, mode, make(), folder, client if mode == "start" else None)
            shutil.rmtree(folder, ignore_errors=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            with open(out, "a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
            error = "" if row.error is None else f", error {row.error:.2f}"
            sure = "" if row.confidence is None else f", confidence {row.confidence:.2f}"
            print(f"{name}: {row.outcome}{error}{sure}, {row.verdict or ''} {row.seconds:.0f} s", flush=True)


OUTCOMES = ("found", "named", "refused", "told", "silent", "failed")


def summary(paths: list[Path]) -> str:
    """A Markdown table: a row a group of cases of a suite."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in (row for path in paths for row in lines(path)):
        suite, rest = row["case"].split("/", 1)
        group = suite if suite == "heads" else f"{suite}: {rest.split('-')[0]}"
        groups.setdefault((row["mode"], group), []).append(row)
    out = [
        "| cases | mode | n | " + " | ".join(OUTCOMES) + " | right among refused | silent, but warned | "
        "median error of found | median seconds |",
        "|---" * (len(OUTCOMES) + 7) + "|",
    ]
    for (mode, group), rows in sorted(groups.items()):
        of = {o: [r for r in rows if r["outcome"] == o] for o in OUTCOMES}
        counts = " | ".join(str(len(of[o])) for o in OUTCOMES)
        errors = [r.get("error", r.get("error_mm")) for r in of["found"]]
        median = f"{np.median(errors):.2f}" if errors else ""
        kept = sum(bool(r.get("right")) for r in of["refused"])
        warned = sum(bool(r.get("warnings")) for r in of["silent"])
        seconds = np.median([r["seconds"] for r in rows])
        out.append(f"| {group} | {mode} | {len(rows)} | {counts} | {kept} | {warned} | {median} | {seconds:.0f} |")
    return "\n".join(out)


LEVELS = ("good", "look", "bad", "refused")


def judged(paths: list[Path]) -> str:
    """A Markdown table of the verdicts by what is true. Right: a mean error below one voxel and below 2 % of the places
    off by more than two; wrong: at least 10 % are, or nothing corresponds; between: neither."""
    counts = {truth: dict.fromkeys(LEVELS, 0) for truth in ("right", "between", "wrong")}
    worst: dict[str, list[str]] = {}
    shares = []
    for row in (r for path in paths for r in lines(path) if r["case"].startswith("verdicts/")):
        off = row["true_off"]
        if row["kind"] != "nothing" and off is None and row["outcome"] != "refused":
            continue  # it failed
        truth = "wrong" if off is None or off >= 0.1 else "right" if row["error"] < 1 and off < 0.02 else "between"
        if off is None and row["case"].startswith("verdicts/right"):
            truth = "right"
        level = "refused" if row["outcome"] == "refused" else row["verdict"]
        counts[truth][level] += 1
        if (truth, level) in (("wrong", "good"), ("right", "bad"), ("right", "refused")):
            worst.setdefault(f"{truth}, {level}", []).append(row["case"].removeprefix("verdicts/"))
        if off is not None and row["expected_off"] is not None:
            shares.append(abs(off - row["expected_off"]))
    out = ["| truth | " + " | ".join(LEVELS) + " |", "|---" * (len(LEVELS) + 1) + "|"]
    out += [f"| {t} | " + " | ".join(str(c[level]) for level in LEVELS) + " |" for t, c in counts.items()]
    out += [f"\n{key}: {', '.join(names)}" for key, names in worst.items()]
    if shares:
        within = np.mean(np.array(shares) <= 0.05)
        out.append(
            f"\nexpected share off against the true one: {100 * np.mean(shares):.0f} points apart on average, "
            f"{within:.0%} of {len(shares)} within 5"
        )
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--start", action="store_true", help="the start alone (default)")
    mode.add_argument("--run", action="store_true", help="whole runs by the command line")
    mode.add_argument("--list", action="store_true", help="print the names")
    mode.add_argument("--summary", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, help="images and runs while they are needed")
    parser.add_argument("--only", nargs="+", default=[], metavar="GLOB")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.summary:
        print(summary(given.summary))
        if any(row["case"].startswith("verdicts/") for path in given.summary for row in lines(path)):
            print("\n" + judged(given.summary))
        return
    if not DATA.is_dir():
        parser.error(f"no real volumes at {DATA}; set BIGREG_TEST_DATA to their folder")
    cases = chosen(given.only, given.limit, given.seed)
    if given.list:
        print(*cases, sep="\n")
        return
    if not given.out or not given.work:
        parser.error("--out and --work are needed")
    go(cases, "run" if given.run else "start", given.out, given.work)


if __name__ == "__main__":
    main()
