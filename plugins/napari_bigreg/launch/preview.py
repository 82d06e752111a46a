"""The registration of one block in seconds: the real pipeline on a box cut out of both images. Knows no Qt.

The affine is found once, on the whole images at a coarse resolution, and kept while what it depends on stays. A box of
the fixed image around a point and the box of the moving image that the affine leads to are written as two small images,
and kept too. They are registered by one patch, with the parameters of the whole; what of that run nobody would look at,
the risk of errors and the report, is left out.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, LocalCluster

import bigreg
from bigreg.config import Config, load_config
from bigreg.errors import InputError
from bigreg.geometry import Grid
from bigreg.phantom import make_pair
from bigreg.pipeline.context.masks import OWN
from bigreg.pipeline.context.pairing import sought
from bigreg.transforms.affine import apply_affine
from bigreg.transforms.landmarks import read_pairs, spans_volume, write_bigwarp
from bigreg.volumes import Volume, open_volume

from ..shared.registration import SIDES
from .boxes import (
    MOST_BYTES,
    Report,
    box_around,
    channels_of,
    factors_of,
    from_plain,
    levels_of,
    read_box,
    read_boxes,
    renumbered,
    write_box,
)

SHOWN = (
    ("NCC after the affine", "NCC, affine"),
    ("NCC after the deformation", "NCC, deformation"),
    ("local correlation after the affine", "local correlation, affine"),
    ("local correlation after the deformation", "local correlation, deformation"),
    ("smallest Jacobian, fixed_to_moving", "smallest Jacobian"),
    ("largest displacement, fixed_to_moving", "largest displacement"),
)


@dataclass(frozen=True, eq=False)
class Preview:
    """float32 (z, y, x) on one `grid` of the fixed world: fixed, moving after the affine and after the deformation.

    limits    of contrast, of fixed and of moving
    figures   (what, value, unit); seconds: all of it
    levels    spacings (um) at which there are others, see `levels_of`
    """

    grid: Grid
    fixed: np.ndarray
    before: np.ndarray
    after: np.ndarray
    limits: tuple[tuple[float, float], tuple[float, float]]
    figures: list[tuple[str, float, str]]
    seconds: float
    levels: list[tuple[float, float, float]]


@dataclass(frozen=True, eq=False)
class Boxes:
    """The voxels of both boxes as images on disk, and the affine between them.

    key     what they depend on; grids: where they lie in the worlds of the whole images
    paths   of fixed and moving, each in a plain world of its own: no origin, no directions
    start   path of the affine from one plain world to the other
    """

    key: tuple
    grids: tuple[Grid, Grid]
    paths: tuple[str, str]
    start: str


class Previewer:
    """Registers blocks, one at a time, on a worker in this process. `close` it. For napari, see `preview_process`."""

    def __init__(self) -> None:
        self._cluster: LocalCluster | None = None
        self._client: Client | None = None
        # It goes at the end of the process, if not before.
        self._folder = tempfile.TemporaryDirectory(prefix="bigreg-preview-", ignore_cleanup_errors=True)
        self._affines: dict[str, np.ndarray] = {}
        self.boxes: Boxes | None = None
        self._warm = False

    def close(self) -> None:
        """End the worker and remove what was kept."""
        for thing in (self._client, self._cluster):
            if thing is not None:
                thing.close()
        self._folder.cleanup()
        self._client = self._cluster = self.boxes = None

    @property
    def folder(self) -> str:
        """Where its files are."""
        return self._folder.name

    def run(
        self, volumes: dict[str, Volume], config: Config, centre: np.ndarray | None, level: int, report: Report
    ) -> Preview:
        """Register the block of the configured size around a fixed point (um; None: the middle) at a level.

        `report` may raise to end it. Raises InputError where the block is not in both images, and what `register` does.
        """
        begin = time.monotonic()
        with self._scratch() as folder:
            affine = self._affine(volumes, config, folder, report)
            boxes = self._cut(volumes, config, affine, centre, level, report)
            run = bigreg.register(
                *boxes.paths, out=str(folder / "run.zarr"), config=settings_of(config, boxes), client=self._worker(),
                progress=_Told(report, "block"),
            )  # fmt: skip
            report(1, 1, "pictures")
            seen = run.patches("levels/0", (0, 0, 0))
            known = {name: (value, unit) for _, name, value, unit, _ in run.summary()}
            more = [f", channel pair {k + 1}" for k in range(len(config.channels)) if len(config.channels) > 1]
            asked = [(name + each, title + each) for each in ("", *more) for name, title in SHOWN]
            figures = [(title, *known[name]) for name, title in asked if name in known]
        grid = seen.grid.transformed(from_plain(boxes.grids[0]))
        limits = _limits(seen.fixed), _limits(seen.moving)
        seconds = time.monotonic() - begin
        return Preview(
            grid, seen.fixed, seen.moving, seen.warped, limits, figures, seconds, levels_of(volumes["fixed"])
        )

    def warm(self, report: Report) -> None:
        """Load what a preview runs, compiled for this machine, by one of a small made-up pair; only the first time."""
        if self._warm:
            return
        pair = make_pair((40, 40, 40), (2.0, 2.0, 2.0), seed=0, max_displacement_um=4.0)
        volumes = {
            w: open_volume(image, spacing=pair.spacing, name=w)
            for w, image in (("fixed", pair.fixed), ("moving", pair.moving))
        }
        self.run(volumes, load_config("rounds", overrides=["affine.voxels=32"]), None, 0, report)
        self._warm = True

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder.name))

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder that goes when it is no longer needed: a thousand small files, for which nobody waits."""
        folder = self._new_folder()
        try:
            yield folder
        finally:
            threading.Thread(target=shutil.rmtree, args=(folder, True), name="bigreg-preview-remove").start()

    def _worker(self) -> Client:
        if self._client is None:
            self._cluster = LocalCluster(
                n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", memory_limit=0
            )
            self._client = Client(self._cluster, set_as_default=False)
        return self._client

    def _affine(self, volumes: dict[str, Volume], config: Config, folder: Path, report: Report) -> np.ndarray:
        """Fixed world to moving world of the whole images, found on coarse ones."""
        start = config.affine.start
        if start is not None and bigreg.is_run(start):
            return bigreg.open_run(start).affine
        if start is None and config.affine.kind == "none":
            return np.eye(4)
        key = f"{_identities(volumes)} {config.model_dump_json(include={'affine', 'intensity', 'channels'})}"
        if key not in self._affines:
            coarse = {}
            finest = max(max(np.multiply(v.shape, v.grid().spacing)) for v in volumes.values()) / config.affine.voxels
            channels = channels_of(volumes, config)
            for which, volume in volumes.items():
                report(0, 1, f"{which}, coarse")
                factors = factors_of(volume.grid(), 0, finest)
                whole = np.zeros(3), np.asarray(volume.shape)
                read = [read_box(both[which], factors, *whole, MOST_BYTES) for both in channels]
                data, grid = [each for each, _ in read], read[0][1]
                coarse[which] = open_volume(
                    np.stack(data) if config.channels else data[0], spacing=grid.spacing, origin=grid.origin,
                    orientation=volume.orientation, name=which, channel=0 if config.channels else None,
                )  # fmt: skip
                if not grid.is_axis_aligned:
                    raise InputError(f"{which} is oblique; give affine.start, or preview it from a run's affine")
            ready = load_config(
                config,
                overrides=[
                    "ladder.finest=2", "ladder.coarsest=2", "ladder.iterations=[1]", "ladder.repeats=[1]",
                    "blocks.core=256", "engine=optimise", "coarse={}", "landmarks={}", *_no_mask_files(config),
                ],
            )  # fmt: skip
            place = str(folder / "affine.zarr")
            with suppress(_Known):
                bigreg.register(
                    coarse["fixed"], coarse["moving"], out=place, config=ready, client=self._worker(),
                    progress=_ToTheAffine(report, "affine"),
                )  # fmt: skip
            self._affines[key] = bigreg.open_run(place).affine
        return self._affines[key]

    def _cut(
        self, volumes: dict[str, Volume], config: Config, affine: np.ndarray, centre: np.ndarray | None, level: int,
        report: Report,
    ) -> Boxes:  # fmt: skip
        """Both boxes at the level; those before are used again where they are the same."""
        start, stop = box_around(volumes["fixed"].grid(), config, centre, level)
        chosen = [(c.fixed, c.moving) for c in config.channels]
        key = (_identities(volumes), str(chosen), affine.tobytes(), level, *start.tolist(), *stop.tolist())
        old = self.boxes
        if old is None or old.key != key:
            grids, paths = [], []
            folder = self._new_folder()
            read = [read_boxes(both, affine, start, stop, level, report) for both in channels_of(volumes, config)]
            for which in SIDES:
                grids.append(read[0][which][1])
                paths.append(str(folder / f"{which}.ome.zarr"))
                write_box(paths[-1], [each[which][0] for each in read], grids[-1], several=bool(config.channels))
            inner = np.linalg.inv(from_plain(grids[1])) @ affine @ from_plain(grids[0])
            np.savetxt(folder / "start.csv", inner, delimiter=",")
            self.boxes = Boxes(key, (grids[0], grids[1]), (paths[0], paths[1]), str(folder / "start.csv"))
            if old is not None:
                shutil.rmtree(Path(old.start).parent, ignore_errors=True)
            return self.boxes
        return old


def settings_of(config: Config, boxes: Boxes) -> Config:
    """The configuration of the whole for its boxes, each one block: what is found stays the same, less is written."""
    largest = max(max(open_volume(path).shape) for path in boxes.paths)
    return load_config(
        config,
        overrides=[
            f"affine.start={boxes.start}", "affine.kind=none", "ladder.finest=1", "ladder.coarsest=null",
            f"blocks.core={2 * largest}", "output.warped=false", "output.confidence=false", "output.report=false",
            "output.chunk=64", "output.shard=256", *_no_mask_files(config), *_own_pairs(config, boxes),
        ],
    )  # fmt: skip


def _own_pairs(config: Config, boxes: Boxes) -> list[str]:
    """The pairs of landmarks that lie in both boxes, in the worlds of these; a spline needs as many as ever."""
    if config.landmarks.path is None or sought(config):  # in the boxes they are looked for anew
        return []
    ends: list[np.ndarray] = []
    inside: Any = True
    for points, grid, path in zip(read_pairs(config.landmarks.path), boxes.grids, boxes.paths, strict=True):
        ends.append(apply_affine(np.linalg.inv(from_plain(grid)), points))
        inside = inside & open_volume(path).grid().contains(ends[-1])
    fixed, moving = (points[inside] for points in ends)
    if not len(fixed):
        return ["landmarks.path=null", "landmarks.spline=false"]
    pairs = Path(boxes.start).with_name("pairs.csv")
    write_bigwarp(pairs, fixed, moving)
    spline = config.landmarks.spline and spans_volume(fixed) and spans_volume(moving)
    return [f"landmarks.path={pairs}", f"landmarks.spline={str(spline).lower()}"]


def _limits(data: np.ndarray) -> tuple[float, float]:
    """Of contrast, by what is there: nothing, which would make the background bright, is around a turned image."""
    inside = data[data != 0]
    low, high = (float(v) for v in np.percentile(inside if inside.size else data, (1, 99.8)))
    return low, high if high > low else low + 1


def _identities(volumes: dict[str, Volume]) -> str:
    return str([volumes[which].identity() for which in ("fixed", "moving")])


def _no_mask_files(config: Config) -> list[str]:
    """Masks and labels in files lie in the worlds of the whole images, which those of boxes are not."""
    left_out = [f"masks.{w}=none" for w in ("fixed", "moving") if getattr(config.masks, w) not in OWN]
    left_out += renumbered(config)
    return left_out + (["labels=null"] if config.labels is not None else [])


class _Told:
    """What register tells, as progress; whatever `report` raises ends the run."""

    def __init__(self, report: Report, what: str) -> None:
        self.report, self.what = report, what
        self.total, self.done, self.title = 1, 0, ""

    def plan(self, stages: list[tuple[str, str, int]]) -> None:
        self.total = max(sum(blocks for _, _, blocks in stages), 1)

    def stage(self, name: str, title: str, blocks: int, done: int) -> None:
        self.title = title
        self._tell()

    def block(self, name: str, status: int, index: tuple) -> None:
        self.done += 1
        self._tell()

    def finish(self, name: str) -> None:
        self._tell()

    def _tell(self) -> None:
        self.report(min(self.done, self.total), self.total, f"{self.what}: {self.title}")


class _Known(Exception):
    """Raised once the affine is."""


class _ToTheAffine(_Told):
    """Ends a run as soon as its affine is kept: then the stages after it are told anew, as their sizes are known."""

    told = False

    def plan(self, stages: list[tuple[str, str, int]]) -> None:
        if self.told:
            raise _Known
        self.told = True
        super().plan(stages)
