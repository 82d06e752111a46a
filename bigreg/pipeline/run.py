"""A run as its user sees it: start or resume one, ask how it goes, use its map."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np

from .. import storage
from ..cluster import HERE, JOBS, Cluster, prepare, require_memory
from ..cluster import client as cluster_client
from ..config import Config, load_cluster, load_config
from ..display import shown
from ..errors import ConfigError, CorruptDataError, InputError, OutputError, named
from ..transforms import ngff
from ..transforms.files import scene_maps
from ..transforms.maps import Map
from ..volumes import Volume, convert
from .choosing.choice import Choice, chosen_config, stored_choice
from .context import looked, starts
from .context.beginning import beginning
from .context.context import IMAGES, Context
from .context.engines import check_spacings, settled_engines
from .context.guided import Guided
from .context.inputs import channel_masks, chosen_channels, with_labels
from .context.ladder import ladder
from .context.ladder import quick as coarse_levels
from .context.lying import provisional
from .context.masks import given_masks
from .judging import verdict
from .judging.judged import Judged
from .judging.status import CHOICE, UNDERSTOOD, RunStatus, status_of
from .looking.viewing import Viewed
from .planning.plan import make_plan
from .results.transform import Transform, checked
from .schedule.driver import Driver, new_stamp
from .schedule.streaming import Listener
from .stages import Stages
from .store import stopping
from .store.damage import forget
from .store.identity import same_engines, same_run
from .store.inputs import as_pair, require_depth, require_one_plane
from .store.lock import at_work, working_on
from .store.stopping import forget_request, request_stop
from .store.store import RunStore, is_run, require_fields
from .tasks import steering
from .tasks.preprocess import level_of

logger = logging.getLogger(__name__)
PACKAGES = ("bigreg", "torch", "numpy", "dask", "distributed", "zarr", "tensorstore")


def register(
    fixed: Any,
    moving: Any,
    *,
    out: str,
    config: Config | dict[str, Any] | str | None = None,
    client: Any = None,
    resume: bool = True,
    progress: Listener | bool | None = None,
    accept_failed: bool = False,
    accept_start: int | None = None,
    allow_device_change: bool = False,
    quick: bool = False,
    choice: Choice | None = None,
) -> Run:
    """Register `moving` to `fixed` and write everything into the run store `out`.

    fixed, moving   path, URL, Volume, or (array, spacing um z y x)
    config          preset name, YAML file, dict or Config; None: what `bigreg.doctor` suggests, or what the run has
    client          a dask.distributed Client; None makes the cluster of the configuration, by default one
                    process per core
    resume          resume a run of the same images and configuration that is at `out`; if False, or if something
                    else is there, OutputError
    progress        True: bars as in the command line, in a terminal or a notebook (which needs ipywidgets), lines
                    elsewhere; or a Listener
    accept_failed   where the estimate of a block fails, its neighbours and coarser levels decide, as if it were blank;
                    otherwise the run ends incomplete
    accept_start    number, from 1, of the right start, among those listed by the run that StartError stopped
    allow_device_change   continue on another kind of device (CPU, model of GPU) than the run began with, where sums
                    differ in their last digits; the run records which were used
    quick           a look before the long run: only the coarse levels, of at most 4 million voxels, with map, risk and
                    report but no warped image
    choice          how `config` was chosen, where its user named no preset: kept in the run

    Raises InputError, ConfigError, OutputError or ResourceError before any work, StartError where the global start is
    too doubtful, IncompleteError where blocks failed.
    """
    known = None if config is None else load_config(config)
    volumes = as_pair(fixed, moving, known.channels if known is not None else ())
    require_depth(*volumes.values())
    if known is None:
        known, choice = chosen_config(volumes, out=out)
        if choice is not None:
            logger.info(choice.line)
    config, volumes = chosen_channels(known, volumes)
    if quick:
        config = coarse_levels(config, [volume.grid() for volume in volumes.values()])
    _, given = beginning(config, volumes)
    check_spacings(config, ladder(provisional(volumes["fixed"], volumes["moving"], given), config))
    return begin(
        volumes, out=out, config=config, client=client, resume=resume, progress=progress, accept_failed=accept_failed,
        accept_start=accept_start, allow_device_change=allow_device_change, choice=choice,
    )  # fmt: skip


def begin(
    volumes: dict[str, Any],
    *,
    out: str,
    config: Config,
    client: Any = None,
    resume: bool = True,
    progress: Listener | bool | None = None,
    accept_failed: bool = False,
    accept_start: int | None = None,
    allow_device_change: bool = False,
    choice: Choice | None = None,
) -> Run:
    """`register` for volumes whose voxels the engines may find strange."""
    if client is None:
        prepare(config.cluster)
    config, volumes = chosen_channels(config, volumes)
    config, labels = with_labels(config, volumes)
    config, engines = settled_engines(config)
    config, given = beginning(config, volumes)
    config, pairs = steering.given_pairs(config, volumes)
    frames = provisional(volumes["fixed"], volumes["moving"], given)
    # A path is kept absolute, as those of the images are: a run may be gone on with from elsewhere.
    there = storage.exists(out)
    store = RunStore(out)
    begun = store.attributes if is_run(out) else None
    asked = config
    config, found = given_masks(config, volumes, begun)
    found |= channel_masks(asked, volumes, found, begun)
    volumes |= labels
    masks = {which: mask.to_json(level_of(frames, config, which)) for which, mask in found.items()}
    for which, mask in found.items():
        if mask.padding is not None:
            logger.info(
                "%s: voxels of value %g around the data are padding, and not compared; masks.%s=none compares them",
                which, mask.padding, which,
            )  # fmt: skip
    if client is None:
        require_memory(make_plan(frames, volumes, config, given=given).memory_per_worker, config.cluster)
    if not there:
        require_one_plane(*volumes.values())
    identities = {which: volume.identity() for which, volume in volumes.items()}
    start = None if given is None else given.to_json()
    if there:
        same_run(store, config, identities, start, resume, steering.identity(pairs), masks)
    with working_on(out):
        if there and store.attributes["config"] != config.model_dump(mode="json", exclude={"cluster"}):
            # The result is the same: when to ask has changed.
            store.update(config=config.model_dump(mode="json", exclude={"cluster"}))
        if not there:
            store.create(
                {
                    "config": config.model_dump(mode="json", exclude={"cluster"}),
                    "cluster": config.cluster.stored(),
                    "identities": identities,
                    "masks": masks,
                    "start": start,
                    "landmarks": steering.identity(pairs),
                    "orientations": {w: volumes[w].orientation for w in IMAGES},
                    **({"label_grids": {w: v.grid().to_json() for w, v in labels.items()}} if labels else {}),
                    "engines": engines,
                    UNDERSTOOD: {w: v.understood for w, v in volumes.items()},
                    CHOICE: None if choice is None else choice.to_json(),
                    "images": {w: v.spec.model_dump(mode="json") if v.spec else None for w, v in volumes.items()},
                    "versions": {name: version(name) for name in PACKAGES} | {"python": sys.version.split()[0]},
                    "state": "planned",
                    "created": time.time(),
                    "updated": time.time(),
                }
            )
            if choice is not None:
                looked.keep(store, choice.answers)
        _keep_arrays(store, volumes)
        if pairs is not None:
            steering.keep(store, pairs)
        settings = config.cluster if client is None else None
        return Run(out)._go_on(client, settings, progress, accept_failed, accept_start, allow_device_change)


def _keep_arrays(store: RunStore, volumes: dict[str, Any]) -> None:
    """Arrays in memory are written into the run, so that workers and later sessions can read them."""
    images = dict(store.attributes["images"])
    for which, volume in volumes.items():
        if images[which] is None:
            store.groups("inputs")
            url = store.kept_input(which)
            storage.remove(url)
            kept = convert(volume, url)
            settings = {"orientation": volume.orientation} if volume.orientation else {}
            assert kept.spec is not None, "what was written has a place"
            images[which] = kept.spec.model_copy(update=settings).model_dump(mode="json")
            store.update(images=images)


def open_run(path: str) -> Run:
    """Open a run store. Raises InputError where there is none."""
    return Run(path)


class Run(Guided, Judged, Viewed, Transform):
    """A registration on disk, finished or not."""

    def __init__(self, path: str) -> None:
        self.store = RunStore(path)
        self.store.attributes  # noqa: B018 - raises where this is no run

    def __repr__(self) -> str:
        return f"Run('{self.store.url}', {self.store.attributes['state']})"

    def identity(self) -> str:
        return f"Run('{self.store.url}', {self.store.attributes['created']})"

    def frame_image(self, frame: str) -> Volume:
        volume: Volume = self._context().volumes[frame]
        return volume

    @property
    def url(self) -> str:
        return self.store.url

    @property
    def config(self) -> Config:
        return Config.model_validate(self.store.attributes["config"])

    @property
    def choice(self) -> Choice | None:
        """How its preset was chosen; None if the user named one."""
        return stored_choice(self.store)

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
        cluster: Cluster | dict[str, Any] | str | None = None,
        workers: int | None = None,
        memory_limit: str | None = None,
        progress: Listener | bool | None = None,
        accept_failed: bool = False,
        accept_start: int | None = None,
        allow_device_change: bool = False,
    ) -> Run:
        """Do what is left to do.

        client                  a dask.distributed Client; None makes a cluster
        cluster                 name, YAML file, dict or Cluster; None: what the run began with, if that is one machine
        workers, memory_limit   override the cluster's
        progress                see `register`
        accept_failed           see `register`
        accept_start            see `register`; it may change until the levels have begun
        allow_device_change     see `register`

        Raises OutputError where another process works on the run, where another start comes too late, or where the
        workers compute on another kind of device; InputError where there is no such start; StartError where the start
        is too doubtful.
        """
        if accept_start is not None:
            starts.require_acceptable(self.store, accept_start)
        if self.store.attributes["state"] == "finished":
            return self
        settings = self._cluster(cluster, workers, memory_limit) if client is None else None
        with working_on(self.url):
            return self._go_on(client, settings, progress, accept_failed, accept_start, allow_device_change)

    def _go_on(
        self,
        client: Any,
        settings: Cluster | None,
        progress: Listener | bool | None,
        accept_failed: bool,
        accept_start: int | None,
        device_change: bool,
    ) -> Run:
        if accept_start is not None:
            starts.require_acceptable(self.store, accept_start)
        attributes = self.store.attributes
        if attributes["state"] == "finished":
            return self
        for which in attributes["images"]:
            if attributes["images"][which] is None:
                raise InputError(f"{which} was an array in memory that was not kept yet; call register again with it")
        same_engines(attributes["engines"], settled_engines(self.config)[1], self.url)
        forget_request(self.url)
        waiting = settings.kind if settings is not None and settings.kind in JOBS else None
        self.store.update(state="running", errors=[], updated=time.time(), waiting=waiting, pace=None)
        stopped = partial(stopping.check, self.url)
        try:
            with (
                shown(progress, self.url) as listener,
                cluster_client(settings, stopped) if settings is not None else nullcontext(client) as used,
            ):
                if waiting is not None:
                    self.store.update(waiting=None)
                expected = (settings.workers or 0) if settings is not None else 0
                driver = Driver(
                    used, self.store, listener, expected=expected, accept_failed=accept_failed,
                    device_change=device_change,
                )  # fmt: skip
                with driver.stopping_on_ctrl_c():
                    self._repaired(driver, accept_start)
            verdict.keep(self._context())
        except BaseException:
            try:
                self.store.update(state="incomplete", updated=time.time())
            except OutputError as error:  # a full disk: what ended the run is what is raised
                logger.warning("the run could not be marked as incomplete: %s", error)
            raise
        self.store.update(state="finished", updated=time.time())
        return self

    def _repaired(self, driver: Driver, accept_start: int | None) -> None:
        """Run all stages; what was done and can no longer be read is done anew, once."""
        seen = set()
        while True:
            try:
                return Stages(driver, accept_start).run()
            except CorruptDataError as error:
                place = error.url, error.box
                again = forget(self.store, error) if place not in seen else None
                if again is None:
                    raise
                seen.add(place)
                logger.warning("%s; computing %s %s again", error, *again)

    def status(self) -> RunStatus:
        """Progress, read from the store: works from any process on any machine that sees it."""
        return status_of(self.store)

    def held_by(self) -> dict[str, Any] | None:
        """The process that works on the run, on any machine: host, process, seen; None if there is none."""
        return at_work(self.url)

    def request_stop(self) -> dict[str, Any]:
        """Ask whoever works on the run, on whatever machine, to stop; it does within seconds. Returns who that is.

        Completed blocks are kept; `resume` continues. Raises OutputError if no process works on it.
        """
        return request_stop(self.url)

    def map(self, direction: str = "fixed_to_moving") -> Map:
        forth = checked(direction) == "fixed_to_moving"
        require_fields(self.store)
        there, back = scene_maps(ngff.read_scene(self.store.path("transforms")), *self._orientations())
        return there if forth else back

    def _orientations(self) -> tuple[str | None, str | None]:
        known = self.store.attributes.get("orientations")
        if known is None:  # a run of before they were kept
            known = {which: self._context().volumes[which].orientation for which in IMAGES}
        return known["fixed"], known["moving"]

    def _cluster(
        self, cluster: Cluster | dict[str, Any] | str | None, workers: int | None, memory_limit: str | None
    ) -> Cluster:
        stored = self.store.attributes.get("cluster", {})
        if cluster is None and stored.get("kind", "local") not in HERE:
            said = named("--cluster ", "cluster=")
            raise ConfigError(
                f"'{self.url}' was run on cluster kind '{stored['kind']}', whose settings a run does not keep, as they "
                f"may hold credentials; give {said}{stored['kind']} (or your file) again, or {said}local"
            )
        given = {"workers": workers, "memory_limit": memory_limit}
        settings = load_cluster(
            stored if cluster is None else cluster, overrides={k: v for k, v in given.items() if v is not None}
        )
        self.store.update(cluster=settings.stored())
        return settings

    def _context(self) -> Context:
        return Context(self.store.url, new_stamp())
