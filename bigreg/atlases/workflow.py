"""From a brain and an atlas to everything that is asked of the two; what is there already is not made again."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import storage
from ..config import Config, load_config
from ..display import shown
from ..errors import ConfigError, InputError, OutputError, named
from ..geometry import Grid
from ..pipeline.run import register
from ..pipeline.schedule.streaming import Listener
from ..pipeline.store.inputs import as_volume, require_one_plane
from ..points import FORMATS, map_points_file
from ..volumes import Volume
from .axes import warning_of_axes, warning_of_turn
from .borders import write_borders
from .halves import warning_of_halves
from .intervals import sampled_moves
from .regions import CellCounter, Counts, Row, Watched, cell_rows, count_voxels, region_columns, region_rows, to_csv
from .report import write_atlas_report
from .result import ANNOTATION, AXES, BORDERS, CELLS, KEY, REGIONS, RUN, AtlasResult
from .source import Atlas, brainglobe_atlas

logger = logging.getLogger(__name__)
FORMAT = 1


def atlas(
    brain: Any,
    atlas: Atlas | str,
    *,
    out: str | os.PathLike[str],
    spacing: Sequence[float] | float | None = None,
    cells: str | Path | None = None,
    columns: Sequence[str] | None = None,
    units: str = "um",
    config: Config | dict[str, Any] | str | None = None,
    client: Any = None,
    progress: Listener | bool | None = None,
) -> AtlasResult:
    """Register a brain to an atlas, and write into the folder `out` what follows from it.

        axes.png                only where other axes than those stated fit better
        run.zarr                the registration, the brain in the atlas (run.zarr/warped) and its report
        annotation.ome.zarr     the annotation in the brain; borders.ome.zarr: where regions end
        regions.csv             the volume of each region, left and right
        cells.csv               the cells in each, and cells_in_atlas.* with each cell's place in the atlas and
                                the id and side (1 left, 2 right) of its region
        report/index.html       the borders over the tissue, and the largest regions

    brain     image as `register` takes it; its orientation must be known
    atlas     an Atlas (`local_atlas`), or the name of one of BrainGlobe's
    spacing   um (z, y, x) of the annotation in the brain, over the brain's box; None: the brain's own voxels
    cells     table (.csv .tsv .parquet) of points in the brain; columns, units: see `points.map_points_file`
    config    as `register` takes it; None is the preset "brain-to-atlas"
    client    a dask.distributed Client for the registration
    progress  as `register` takes it

    The same call again resumes after an interruption; with other cells it only makes their tables. Raises what
    `register` raises, InputError for an atlas that cannot be used, OutputError where `out` is of other images.
    """
    with shown(progress, str(out)) as listener:
        return _atlas(brain, atlas, str(out), spacing, cells, columns, units, config, client, listener)


def _atlas(
    brain: Any,
    atlas: Atlas | str,
    out: str,
    spacing: Sequence[float] | float | None,
    cells: str | Path | None,
    columns: Sequence[str] | None,
    units: str,
    config: Config | dict[str, Any] | str | None,
    client: Any,
    progress: Listener | None,
) -> AtlasResult:
    volume = as_volume(brain, "brain")
    if volume.orientation is None:
        asked = named("--orientation", "open_volume's orientation")
        raise InputError(f"the brain has no orientation; pass {asked}, such as 'psl': where its z, y, x axes start")
    grid = _sampled(volume, spacing)
    if cells is not None:
        _require_table(cells)
    if not storage.exists(storage.join(out, RUN)):
        require_one_plane(volume)
    work = _Work(out, progress)
    result = AtlasResult(work.url)
    source = brainglobe_atlas(atlas, work.path("atlas", atlas)) if isinstance(atlas, str) else atlas
    work.claim({"brain": volume.identity(), "atlas": source.identity(), "grid": grid.to_json()})
    settings = load_config("brain-to-atlas" if config is None else config)

    def look(told: Any) -> dict[str, str]:
        text, png = warning_of_axes(source, volume, settings)
        if png:
            storage.write_file(work.url, AXES, png)
            text += f"; drawn in {work.path(AXES)}"
        return {"warning": text}

    work.step("axes", look)
    if result.axes_warning:
        logger.warning(result.axes_warning)
    run = register(source.template, volume, out=work.path(RUN), client=client, progress=progress, config=settings)
    if not result.axes_warning:
        work.step("turn", lambda told: {"warning": warning_of_turn(run, source, volume)})
        if result.axes_warning:
            logger.warning(result.axes_warning)
    into = run.map("moving_to_fixed")

    work.image("annotation", ANNOTATION, lambda url, told: run.warp(
        source.annotation, out=url, direction="moving_to_fixed", interpolation="nearest", onto=grid, progress=told
    ))  # fmt: skip
    output = run.config.output
    work.image("borders", BORDERS, lambda url, told: write_borders(
        result.annotation, url, chunk=output.chunk, shard=output.shard, progress=told
    ))  # fmt: skip
    voxel = abs(float(np.linalg.det(grid.affine[:3, :3])))
    # The cells' densities need the voxels too, and those of an earlier call are in its table.
    counted: list[tuple[Counts, Counts | None]] = []

    def voxels(told: Any) -> tuple[Counts, Counts | None]:
        if not counted:
            unmatched = run.noncorrespondence_at if run.seeks_noncorrespondence else None
            counted.append(count_voxels(result.annotation, into, source, told, unmatched))
        return counted[0]

    def measure(told: Any) -> dict[str, str]:
        present, missing = voxels(told)
        rows = region_rows(source.structures, present, voxel, missing)
        work.table(REGIONS, rows)
        return {"warning": warning_of_halves(rows, source)}

    work.step("regions", measure)
    if result.warning:
        logger.warning(result.warning)
    if cells is not None:
        path = Path(cells)
        columns = None if columns is None else list(columns)
        known = {**_stamp(path), "columns": columns, "units": units}

        def count(told: Any) -> dict[str, int]:
            counter = CellCounter(source, sampled_moves(run))
            through = Watched(into, counter.add)
            name = "noncorrespondence"
            added = region_columns(source)
            if run.seeks_noncorrespondence:
                added[name] = run.noncorrespondence_column("moving_to_fixed")
            work.points(path, lambda target: map_points_file(
                path, target, through, columns=columns, units=units, to="um", grids=(volume.grid(), None), added=added
            ))  # fmt: skip
            work.table(CELLS, cell_rows(source.structures, counter, voxels(told)[0], voxel))
            return {"cells": counter.cells, "outside": counter.outside, "no region": counter.unlabelled}

        work.step("cells", count, known)
    work.step("report", lambda told: write_atlas_report(work.path("report"), run, result, source, work.done("cells")),
              {"cells": work.done("cells")})  # fmt: skip
    return result


def _sampled(volume: Volume, spacing: Sequence[float] | float | None) -> Grid:
    if spacing is None:
        return volume.grid()
    wanted = np.broadcast_to(np.asarray(spacing, float), 3)
    if not (np.isfinite(wanted) & (wanted > 0)).all():
        raise ConfigError(f"spacing {spacing} must be positive numbers in µm (z, y, x)")
    return volume.grid().resampled(wanted)


def _require_table(cells: str | Path) -> None:
    suffixes = (*FORMATS["text"], *FORMATS["parquet"])
    if not str(cells).lower().endswith(suffixes):
        raise InputError(f"cells '{cells}' are no table; give one of {' '.join(suffixes)} with columns z, y, x")
    if not Path(cells).is_file():
        raise InputError(f"cells '{cells}' cannot be read: no such file; check the path")


def _stamp(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"path": str(path.resolve()), "bytes": stat.st_size, "changed": stat.st_mtime_ns}


class _Work:
    """What is done of one output: a group whose attributes say so, each step after its results are complete."""

    def __init__(self, url: str, progress: Listener | None) -> None:
        self.url = url
        self.listener = progress
        if not storage.exists(url):
            storage.create_group(url, {KEY: {"format": FORMAT, "identity": None, "done": {}}})
        known = storage.read_attributes(url).get(KEY)
        if known is None or known["format"] != FORMAT:
            raise OutputError(f"'{url}' exists and was not made by this `bigreg atlas`; choose another output")
        self.state: dict[str, Any] = known

    def path(self, *parts: str) -> str:
        return storage.join(self.url, *parts)

    def _keep(self) -> None:
        storage.write_attributes(self.url, {KEY: self.state})

    def claim(self, identity: dict[str, Any]) -> None:
        """Say what the output is of. Raises OutputError where it is of something else."""
        if self.state["identity"] is None:
            self.state["identity"] = identity
            self._keep()
        differ = [name for name, value in identity.items() if self.state["identity"].get(name) != value]
        if differ:
            raise OutputError(f"'{self.url}' was made with another {' and '.join(differ)}; choose another output")

    def done(self, name: str) -> dict[str, Any] | None:
        """What a step was done with; None where it was not."""
        known: dict[str, Any] | None = self.state["done"].get(name)
        return known

    def step(self, name: str, make: Callable[[Any], Any], given: dict[str, Any] | None = None) -> None:
        """Do a step unless it was done with the same `given`; what `make` returns as a dict is kept beside it."""
        before = self.done(name)
        if before is not None and before["given"] == given:
            return
        self.state["done"].pop(name, None)
        self._keep()
        told = _Told(self.listener, name)
        kept = make(told)
        told.finish()
        self.state["done"][name] = {"given": given, **(kept if isinstance(kept, dict) else {})}
        self._keep()

    def image(self, name: str, place: str, make: Callable[[str, Any], Any]) -> None:
        """A step that writes an image; what an interrupted one has left is removed."""

        def anew(told: Any) -> None:
            storage.remove(self.path(place))
            make(self.path(place), told)

        self.step(name, anew)

    def table(self, name: str, rows: Sequence[Row]) -> None:
        storage.write_file(self.url, name, to_csv(rows))

    def points(self, source: Path, write: Callable[[Path], Any]) -> None:
        """Write a table of points beside the others; a URL gets it from a file of this machine."""
        import tempfile

        name = f"cells_in_atlas{source.suffix.lower()}"
        local = storage.local_path(self.url)
        if local is not None:
            (local / name).unlink(missing_ok=True)
            write(local / name)
            return
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder) / name)
            files, place = storage.filesystem(self.path(name))
            files.put_file(str(Path(folder) / name), place)


class _Told:
    """A step's progress as the listener of a run hears of stages."""

    def __init__(self, listener: Listener | None, name: str) -> None:
        self.listener, self.name, self.begun = listener, f"atlas/{name}", False

    def __call__(self, done: int, total: int, what: str) -> None:
        if self.listener is None:
            return
        if not self.begun:
            self.listener.stage(self.name, self.name.rsplit("/", 1)[1], total, 0)
            self.begun = True
        self.listener.block(self.name, 2, (done - 1,))

    def finish(self) -> None:
        if self.listener is not None and self.begun:
            self.listener.finish(self.name)
