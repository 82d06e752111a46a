"""Any image that can be read to OME-Zarr, sharded, with a pyramid, or to one file; out of core, and all or nothing."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..endings import OME_ZARR, check_version, output_format
from ..errors import ConfigError, OutputError, named
from ..geometry import Shape, triple
from ..storage import check_replaceable, exists, local_path, remove
from .multiscale import CHUNKS, SHARDS, ImageWriter, create_image
from .pyramid import downsample, pyramid_factors
from .volume import Volume, open_volume

Progress = Callable[[int, int, str], None]
# What one thread may read of the source at once where its chunks reach across many shards (planes of a TIFF).
READ_BYTES = 512 << 20


def convert(
    source: Any,
    out: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    channel: int | None = None,
    time: int | None = None,
    spacing: Sequence[float] | None = None,
    origin: Sequence[float] | None = None,
    orientation: str | None = None,
    chunks: Sequence[int] = CHUNKS,
    shards: Sequence[int] | None = SHARDS,
    levels: int | None = None,
    dtype: np.dtype | str | None = None,
    labels: bool = False,
    ome_version: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Volume:
    """Write `source` (anything open_volume takes) to `out` and return it opened.

    The ending of `out` is the format: OME-Zarr 0.5 (or `ome_version` "0.4", for older programs, on a disk), TIFF, NIfTI
    or NRRD, see `image_files.write_file`; the last three have no chunks, shards and levels.

    Without `channel` and `time` all channels and time points are written. `levels` limits the pyramid (default: until
    64 voxels are left along the longest axis); `labels` takes the majority label instead of the mean. `dtype` casts
    (integers are rounded and clipped). `progress(done, total, what)` counts shards. Memory: a few shards a thread,
    whatever the volume, unless the format has to be loaded whole (compressed NRRD and NIfTI).

    A local output is written beside its final name and renamed at the end; elsewhere its metadata is written last. So
    an output that exists is complete. Raises OutputError where `out` exists, unless `overwrite`.
    """
    volume = open_volume(
        source,
        dataset=dataset,
        channel=channel,
        time=time,
        spacing=spacing,
        origin=origin,
        orientation=orientation,
    )
    out = os.fspath(out)
    older = check_version(out, ome_version)
    dtype = None if dtype is None else voxel_dtype(dtype)
    if output_format(out) != OME_ZARR:
        from .image_files import write_file

        if levels is not None or (tuple(chunks), shards) != (CHUNKS, SHARDS):
            raise ConfigError(f"'{out}' is one image without chunks and levels; leave them out, or write .ome.zarr")
        write_file(volume, out, dtype=dtype, overwrite=overwrite, progress=progress)
        return open_volume(out, name=volume.name)
    if older and local_path(out) is None:
        raise OutputError(f"'{out}': OME-Zarr 0.4 is written to disks of this machine; choose one, or version 0.5")
    if exists(out) and not overwrite:
        raise OutputError(
            f"'{out}' exists already; choose another output or pass {named('--overwrite', 'overwrite=True')}"
        )
    planes = volume.planes
    sources = [volume] if len(planes) == 1 else [volume.plane(*plane) for plane in planes]
    times, channel_numbers = (sorted({plane[axis] for plane in planes}) for axis in (0, 1))
    factors = pyramid_factors(volume.grid())[:levels]
    target = local_path(out)
    if target is not None:
        target = Path(os.path.realpath(target))  # what a link names: its disk is meant, and the link stays
        check_replaceable(target)
    part = str(target.with_name(f"{target.name[:200]}.partial-{uuid.uuid4().hex[:8]}")) if target is not None else out
    try:
        if target is None and exists(out):
            remove(out)
        writer = create_image(
            part,
            [volume.grid().downsampled(f) for f in factors],
            volume.dtype if dtype is None else np.dtype(dtype),
            name=Path(out.rstrip("/")).name.removesuffix(".zarr").removesuffix(".ome"),
            chunks=chunks,
            shards=shards,
            channels=len(channel_numbers) if len(channel_numbers) > 1 else 0,
            times=len(times) if len(times) > 1 else 0,
            labels=labels,
            orientation=volume.orientation,
            display=volume.shown(channel_numbers),
            finished=False,
        )
        _fill(writer, sources, factors, labels, progress, workers or min(4, os.cpu_count() or 1))
        writer.finish()
        if older:
            part = _as_04(part, progress)
        if target is not None:
            _put_in_place(Path(part), target, overwrite)
    except BaseException:
        remove(part)
        raise
    return open_volume(out, name=volume.name)


def _as_04(part: str, progress: Progress | None) -> str:
    """The same image in the older version, beside it and in its place."""
    from .ome_zarr_04 import write_04

    older = f"{part}.04"
    try:
        write_04(part, Path(older), progress=progress)
    except BaseException:
        remove(older)
        raise
    remove(part)
    os.rename(older, part)
    return part


def _put_in_place(part: Path, target: Path, overwrite: bool) -> None:
    old = None
    if target.exists() and overwrite:
        old = target.with_name(f"{part.name}.old")
        target.rename(old)
    try:
        part.rename(target)
    except OSError as error:
        raise OutputError(f"'{target}' cannot be written: {error}; choose another output") from error
    if old is not None:
        shutil.rmtree(old) if old.is_dir() else old.unlink()


def _fill(
    writer: ImageWriter,
    sources: list[Volume],
    factors: list[Shape],
    labels: bool,
    progress: Progress | None,
    workers: int,
) -> None:
    counts = [sum(1 for _ in boxes(writer.array(k).shape[-3:], writer.unit(k))) for k in range(len(factors))]
    total, done, lock = sum(counts) * len(sources), itertools.count(1), threading.Lock()

    def report(level: int) -> None:
        if progress is not None:
            with lock:
                progress(next(done), total, f"level {level}")

    with ThreadPoolExecutor(workers) as pool:
        for channel, source in enumerate(sources):
            shape, unit = source.shape, writer.unit(0)
            jobs = [
                pool.submit(_copy, writer, source, channel, start, stop, lambda: report(0))
                for start, stop in boxes(shape, _reading_box(source, unit))
            ]
            _all(jobs, pool)
            # A level is made from the one before it, so levels are finished one after the other.
            for level in range(1, len(factors)):
                step = triple(b // a for a, b in zip(factors[level - 1], factors[level], strict=True))
                jobs = [
                    pool.submit(_coarsen, writer, level, channel, start, stop, step, labels, partial(report, level))
                    for start, stop in boxes(writer.array(level).shape[-3:], writer.unit(level))
                ]
                _all(jobs, pool)


def _all(jobs: list[Any], pool: ThreadPoolExecutor) -> None:
    """Wait for all; on the first failure drop what has not started and raise it."""
    done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
    failed = next((job for job in done if job.exception() is not None), None)
    if failed is not None:
        pool.shutdown(cancel_futures=True)
        failed.result()


def boxes(shape: Sequence[int], unit: Sequence[int]) -> Iterator[tuple[Shape, Shape]]:
    """Start and stop of the boxes of size `unit` that tile `shape`, the last ones clipped."""
    for start in itertools.product(*(range(0, n, u) for n, u in zip(shape, unit, strict=True))):
        yield triple(start), triple(min(a + u, n) for a, u, n in zip(start, unit, shape, strict=True))


def _reading_box(source: Volume, unit: Shape) -> Shape:
    """Whole shards that are read together, so that wide source chunks are not decoded once for each shard."""
    box = list(unit)
    for axis in (2, 1, 0):
        wanted = min(source.chunks[axis], source.shape[axis])
        while box[axis] < wanted and 2 * int(np.prod(box)) * source.dtype.itemsize <= READ_BYTES:
            box[axis] *= 2
    return triple(box)


def _copy(
    writer: ImageWriter, source: Volume, channel: int, start: Shape, stop: Shape, report: Callable[[], None]
) -> None:
    data = source.read(start, stop)
    for low, high in boxes(data.shape, writer.unit(0)):
        part = data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        place = tuple(a + b for a, b in zip(start, low, strict=True))
        writer.write(0, place, cast(part, writer.array(0).dtype), channel=channel)
        report()


def _coarsen(
    writer: ImageWriter,
    level: int,
    channel: int,
    start: Shape,
    stop: Shape,
    step: Shape,
    labels: bool,
    report: Callable[[], None],
) -> None:
    result = np.empty([b - a for a, b in zip(start, stop, strict=True)], dtype=writer.array(level).dtype)
    # By parts, because the finer box of a whole shard is eight shards.
    for low, high in boxes(result.shape, [max(1, u // 2) for u in writer.unit(level)]):
        first = [(s + a) * f for s, a, f in zip(start, low, step, strict=True)]
        last = [(s + b) * f for s, b, f in zip(start, high, step, strict=True)]
        data = writer.read(level - 1, first, last, channel=channel)
        result[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = downsample(data, step, labels=labels)
    writer.write(level, start, result, channel=channel)
    report()


def voxel_dtype(dtype: Any) -> np.dtype:
    """A dtype as its users name it. Raises ConfigError for what is none."""
    try:
        found: np.dtype = np.dtype(dtype)
    except TypeError as error:
        raise ConfigError(f"dtype {dtype!r} is not a type of voxels; use one such as uint16 or float32") from error
    return found


def cast(data: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """To another dtype; integers are rounded and clipped to their range, never wrapped; a mask is true from 0.5."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b" and data.dtype.kind == "f":
        return data >= 0.5
    if dtype.kind in "iu" and data.dtype != dtype:
        limits = np.iinfo(dtype)
        if data.dtype.kind == "f":
            data = np.rint(np.clip(data.astype(np.float64), limits.min, limits.max))
        elif data.dtype.kind in "iu":
            low, high = max(limits.min, np.iinfo(data.dtype).min), min(limits.max, np.iinfo(data.dtype).max)
            data = np.clip(data, low, high)
    return data.astype(dtype, copy=False)
