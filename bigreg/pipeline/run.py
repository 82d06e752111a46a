"""A run as its user sees it: start or resume one, ask how it goes, use its map."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from typing import Any

import numpy as np

from .. import storage
from ..cluster import HERE, Cluster, require_memory
from ..cluster import client as cluster_client
from ..config import Config, load_cluster, load_config
from ..errors import ConfigError, CorruptDataError, InputError, OutputError
from ..transforms import ngff
from ..transforms.affine import apply_affine
from ..transforms.positions import Positions
from ..volumes import ImageWriter, Volume, convert, open_volume
from . import warp
from .context import IMAGES, Context
from .damage import forget
from .driver import Driver, Listener, new_stamp
from .engines import check_spacings, settled_engines
from .fields import DIRECTIONS, ends
from .identity import same_engines, same_run
from .ladder import ladder
from .lock import working_on
from .masks import given_mask
from .plan import as_volume, make_plan
from .stages import Stages
from .start import provisional
from .store import RunStore, Status

logger = logging.getLogger(__name__)
PACKAGES = ("bigreg", "torch", "numpy", "dask", "distributed", "zarr", "tensorstore")


@dataclass(frozen=True)
class StageStatus:
    """Progress of one stage in blocks."""

    name: str
    title: str
    blocks: int
    done: int = 0
    blank: int = 0
    failed: int = 0
    running: int = 0


@dataclass(frozen=True)
class RunStatus:
    """Progress of a run. `state`: planned, running, incomplete (ended early) or finished. `updated`: unix seconds."""

    state: str
    stages: tuple[StageStatus, ...]
    errors: tuple[str, ...]
    updated: float

    @property
    def blocks(self) -> int:
        return sum(s.blocks for s in self.stages)

    @property
    def done(self) -> int:
        return sum(s.done + s.blank for s in self.stages)


def register(
    fixed: Any,
    moving: Any,
    *,
    out: str,
    config: Config | dict | str | None = None,
    client: Any = None,
    resume: bool = True,
    progress: Listener | None = None,
    accept_failed: bool = False,
) -> Run:
    """Register `moving` to `fixed` and write everything into the run store `out`.

    fixed, moving   path, URL, Volume, or (array, spacing um z y x)
    config          preset name, YAML file, dict or Config; None is the preset "rounds"
    client          a dask.distributed Client; None makes the cluster of the configuration, a process a core by default
    resume          go on with a run of the same images and configuration that is at `out`; if False, or if another
                    thing is there, OutputError
    accept_failed   where the estimate of a block fails, its neighbours and coarser levels decide, as if it were blank;
                    otherwise the run ends incomplete

    Raises InputError, ConfigError, OutputError or ResourceError before any work, IncompleteError where blocks failed.
    """
    config = load_config(config)
    volumes = {"fixed": as_volume(fixed, "fixed"), "moving": as_volume(moving, "moving")}
    check_spacings(config, ladder(provisional(volumes["fixed"], volumes["moving"]), config))
    return begin(
        volumes, out=out, config=config, client=client, resume=resume, progress=progress, accept_failed=accept_failed
    )


def begin(
    volumes: dict[str, Volume],
    *,
    out: str,
    config: Config,
    client: Any = None,
    resume: bool = True,
    progress: Listener | None = None,
    accept_failed: bool = False,
) -> Run:
    """`register` for volumes whose voxels the engines may find strange."""
    config, engines = settled_engines(config)
    masks = {w: given_mask(getattr(config.masks, w), w, volumes[w]) for w in IMAGES}
    # A path is kept absolute, as those of the images are: a run may be gone on with from elsewhere.
    paths = {w: mask.spec.path for w, mask in masks.items() if mask is not None}
    config = config.model_copy(update={"masks": config.masks.model_copy(update=paths)})
    frames = provisional(volumes["fixed"], volumes["moving"])
    if client is None:
        require_memory(make_plan(frames, volumes, config).memory_per_worker, config.cluster)
    store = RunStore(out)
    identities = {which: volumes[which].identity() for which in IMAGES}
    there = storage.exists(out)
    if there:
        same_run(store, config, identities, resume)
    with working_on(out):
        if not there:
            store.create(
                {
                    "config": config.model_dump(mode="json", exclude={"cluster"}),
                    "cluster": config.cluster.stored(),
                    "identities": identities,
                    "engines": engines,
                    "images": {w: v.spec.model_dump(mode="json") if v.spec else None for w, v in volumes.items()},
                    "versions": {name: version(name) for name in PACKAGES} | {"python": sys.version.split()[0]},
                    "state": "planned",
                    "created": time.time(),
                    "updated": time.time(),
                }
            )
        _keep_arrays(store, volumes)
        return Run(out)._go_on(client, config.cluster if client is None else None, progress, accept_failed)


def _keep_arrays(store: RunStore, volumes: dict[str, Volume]) -> None:
    """Arrays in memory are written into the run, so that workers and later sessions can read them."""
    images = dict(store.attributes["images"])
    for which, volume in volumes.items():
        if images[which] is None:
            store.groups("inputs")
            url = store.path("inputs", f"{which}.ome.zarr")
            storage.remove(url)
            kept = convert(volume, url)
            settings = {"orientation": volume.orientation} if volume.orientation else {}
            images[which] = kept.spec.model_copy(update=settings).model_dump(mode="json")
            store.update(images=images)


def open_run(path: str) -> Run:
    """Open a run store. Raises InputError where there is none."""
    return Run(path)


class Run:
    """A registration on disk, finished or not."""

    def __init__(self, path: str) -> None:
        self.store = RunStore(path)
        self.store.attributes  # noqa: B018 - raises where this is no run

    def __repr__(self) -> str:
        return f"Run('{self.store.url}', {self.store.attributes['state']})"

    @property
    def url(self) -> str:
        return self.store.url

    @property
    def config(self) -> Config:
        return Config.model_validate(self.store.attributes["config"])

    @property
    def affine(self) -> np.ndarray:
        """The affine part, fixed world to moving world, 4 x 4, um. Raises InputError before it is known."""
        if "frames" not in self.store.attributes:
            raise InputError(f"'{self.url}' has no affine yet; `bigreg resume` it first")
        return self._context().frames.affine

    def resume(
        self,
        *,
        client: Any = None,
        cluster: Cluster | dict | str | None = None,
        workers: int | None = None,
        memory_limit: str | None = None,
        progress: Listener | None = None,
        accept_failed: bool = False,
    ) -> Run:
        """Do what is left to do.

        client                  a dask.distributed Client; None makes a cluster
        cluster                 name, YAML file, dict or Cluster; None is what the run began with, if on one machine
        workers, memory_limit   override the cluster's
        accept_failed           see `register`

        Raises OutputError where another process works on the run.
        """
        if self.store.attributes["state"] == "finished":
            return self
        settings = self._cluster(cluster, workers, memory_limit) if client is None else None
        with working_on(self.url):
            return self._go_on(client, settings, progress, accept_failed)

    def _go_on(self, client: Any, settings: Cluster | None, progress: Listener | None, accept_failed: bool) -> Run:
        attributes = self.store.attributes
        if attributes["state"] == "finished":
            return self
        for which in IMAGES:
            if attributes["images"][which] is None:
                raise InputError(f"{which} was an array in memory that was not kept yet; call register again with it")
        same_engines(attributes["engines"], settled_engines(self.config)[1], self.url)
        self.store.update(state="running", errors=[], updated=time.time())
        try:
            with cluster_client(settings) if settings is not None else nullcontext(client) as used:
                expected = (settings.workers or 0) if settings is not None else 0
                driver = Driver(used, self.store, progress, expected=expected, accept_failed=accept_failed)
                with driver.stopping_on_ctrl_c():
                    self._repaired(driver)
        except BaseException:
            try:
                self.store.update(state="incomplete", updated=time.time())
            except OutputError as error:  # a full disk: what ended the run is what is raised
                logger.warning("the run could not be marked as incomplete: %s", error)
            raise
        self.store.update(state="finished", updated=time.time())
        return self

    def _repaired(self, driver: Driver) -> None:
        """Run all stages; what was done and can no longer be read is done anew, once."""
        seen = set()
        while True:
            try:
                return Stages(driver).run()
            except CorruptDataError as error:
                place = error.url, error.box
                again = forget(self.store, error) if place not in seen else None
                if again is None:
                    raise
                seen.add(place)
                logger.warning("%s; computing %s %s anew", error, *again)

    def status(self) -> RunStatus:
        """Progress, read from the store: works from any process on any machine that sees it."""
        attributes = self.store.attributes
        stages = []
        for name, title, blocks in attributes.get("stages", []):
            url = self.store.path(name, "status")
            if not storage.exists(url):
                stages.append(StageStatus(name, title, blocks))
                continue
            status = storage.open_array(url)[...]
            count = {s: int((status == s).sum()) for s in Status}
            stages.append(
                StageStatus(
                    name,
                    title,
                    status.size,
                    count[Status.DONE],
                    count[Status.BLANK],
                    count[Status.FAILED],
                    count[Status.RUNNING],
                )
            )
        errors = tuple(
            f"{e['stage']} block {tuple(e['block'])}: {e['message']}" + " (treated as blank)" * e.get("accepted", False)
            for e in attributes.get("errors", [])
        )
        return RunStatus(attributes["state"], tuple(stages), errors, attributes["updated"])

    def metrics(self) -> dict[str, dict[str, np.ndarray]]:
        """For each stage that has begun, its metrics as float32 arrays over the blocks (z, y, x)."""
        found = {}
        for name, _, _ in self.store.attributes.get("stages", []):
            place = self.store.path(name, "metrics")
            names = [n for n in storage.children(place) if n != "zarr.json"]
            if names:
                found[name] = {n: storage.open_array(storage.join(place, n))[...] for n in names}
        return found

    def summary(self) -> list[tuple[str, str, float, str, str]]:
        """The table of figures: (group, name, value, unit, note)."""
        from .figures import figures

        return figures(self._context())

    def report(self) -> str:
        """Write the report anew; returns the path of its index.html."""
        from . import report

        self._require_fields()
        return report.write_report_of(self._context())

    def map_points(self, points: np.ndarray, direction: str = "fixed_to_moving") -> np.ndarray:
        """(N, 3) world points (um, z y x) to (N, 3); NaN only for points outside the frame they are given in.

        direction   "fixed_to_moving": points of the fixed frame to the moving one; "moving_to_fixed": back
        """
        frame, _ = self._ends(direction)
        points = np.asarray(points, dtype=float)
        if points.ndim != 2 or points.shape[1] != 3:
            raise InputError(f"points must be (N, 3) in um (z, y, x), got shape {points.shape}")
        self._require_fields()
        scene = ngff.read_scene(self.store.path("transforms"))
        grid_of_frame = scene.fixed if frame == "fixed" else scene.moving
        reader = ngff.FieldReader(scene.fixed_to_moving if frame == "fixed" else scene.moving_to_fixed)
        grid = reader.grids[0]
        out = np.full(points.shape, np.nan)
        inside = np.isfinite(points).all(1)
        inside[inside] = grid_of_frame.contains(points[inside])
        use = np.flatnonzero(inside)
        # Points are taken box by box of the field, so that memory does not grow with the volume.
        box = np.floor(grid.world_to_index(points[use]) / self.config.output.shard).astype(int)
        order = np.lexsort(box.T[::-1])
        use, box = use[order], box[order]
        edges = np.flatnonzero(np.any(np.diff(box, axis=0), axis=1)) + 1
        affine = scene.affine if frame == "fixed" else np.linalg.inv(scene.affine)
        for part in np.split(use, edges):
            if len(part):
                here = Positions.of_points(points[part])
                moved = here.sample(lambda a, b: reader.read(0, a, b), grid)
                out[part] = apply_affine(affine, points[part] + moved.T.double().numpy())
        return out

    def warp(
        self,
        image: Any,
        *,
        out: str,
        direction: str = "fixed_to_moving",
        interpolation: str = "linear",
        progress: Callable[[int, int, str], None] | None = None,
    ) -> Volume:
        """Resample an image through the map and write it as OME-Zarr.

        direction       the map that is followed for each output voxel: "fixed_to_moving" brings an image of the moving
                        frame onto the fixed grid, "moving_to_fixed" one of the fixed frame onto the moving grid
        interpolation   linear, nearest (labels) or cubic
        """
        frame, _ = self._ends(direction)
        if interpolation not in ("linear", "nearest", "cubic"):
            raise ConfigError(f"interpolation {interpolation!r} is unknown; use linear, nearest or cubic")
        self._require_fields()
        volume = as_volume(image, "image")
        if storage.exists(out):
            raise OutputError(f"'{out}' exists already; choose another output or remove it")
        context = self._context()
        grid = context.frames.grid(frame)
        labels = interpolation == "nearest"
        warp.create(out, grid, volume.dtype, context.config, name=f"{volume.name} on {frame}", labels=labels)
        jobs = [(0, i) for i in product(*map(range, warp.output_blocks(grid, context.config).counts))]
        writer = ImageWriter(out)
        for level in range(1, len(warp.output_grids(grid))):
            shape, unit = writer.array(level).shape, writer.unit(level)
            jobs += [(level, i) for i in product(*(range(-(-n // u)) for n, u in zip(shape, unit, strict=True)))]
        for number, (level, index) in enumerate(jobs):
            if level == 0:
                warp.warp_block(context, volume, grid, out, direction, interpolation, index)
            else:
                warp.coarsen_block(context, out, level, labels, index)
            if progress is not None:
                progress(number + 1, len(jobs), "resample" if level == 0 else f"level {level}")
        writer.finish()
        return open_volume(out)

    def _cluster(self, cluster: Cluster | dict | str | None, workers: int | None, memory_limit: str | None) -> Cluster:
        stored = self.store.attributes.get("cluster", {})
        if cluster is None and stored.get("kind", "local") not in HERE:
            raise ConfigError(
                f"'{self.url}' was run on cluster kind '{stored['kind']}', whose settings a run does not keep, as they "
                f"may hold credentials; say --cluster {stored['kind']} (or your file) again, or --cluster local"
            )
        given = {"workers": workers, "memory_limit": memory_limit}
        settings = load_cluster(
            stored if cluster is None else cluster, overrides={k: v for k, v in given.items() if v is not None}
        )
        self.store.update(cluster=settings.stored())
        return settings

    def _context(self) -> Context:
        return Context(self.store.url, new_stamp())

    def _ends(self, direction: str) -> tuple[str, str]:
        if direction not in DIRECTIONS:
            raise ConfigError(f"direction {direction!r} is unknown; use {' or '.join(DIRECTIONS)}")
        return ends(direction)

    def _require_fields(self) -> None:
        status = next((s for s in self.status().stages if s.name == "stages/check"), None)
        if status is None or status.done + status.blank < status.blocks:
            raise InputError(f"'{self.url}' has no fields yet (it is {self.status().state}); `bigreg resume` it first")
