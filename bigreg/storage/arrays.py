"""Chunked arrays: one small class over tensorstore, and how they are made and opened."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tensorstore as ts

from ..errors import BigregError, CorruptDataError, InputError, OutputError
from .locations import context, kvstore_spec, read_error, write_error
from .nodes import find_node, read_attributes
from .retry import error_code, error_reason, patiently
from .turns import waiting

if TYPE_CHECKING:
    from .second_reader import SecondReader


Codec = Literal["zstd", "lz4", "none"]


class Array:
    """An open array: `shape`, `dtype`, `chunks` (what is read at once), `shards` (what is written at once, or None),
    `codecs` (names, as its metadata has them).

    Holds no more than a handle; a pickle of it is its location, opened anew where it is unpickled.
    """

    def __init__(
        self,
        url: str,
        store: ts.TensorStore | SecondReader,
        *,
        codecs: Sequence[str],
        write: bool,
        constant: bool = False,
    ) -> None:
        self.url = url
        self.codecs = tuple(codecs)
        self._store = store
        self._write = write
        self._constant = constant
        self.shape: tuple[int, ...] = tuple(store.shape)
        self.shards: tuple[int, ...] | None = None
        if not isinstance(store, ts.TensorStore):
            self.dimension_names: tuple[str, ...] | None = store.dimension_names
            self.dtype: np.dtype = store.dtype.newbyteorder("=")
            self.chunks: tuple[int, ...] = store.chunks
            return
        names = tuple(store.domain.labels)
        self.dimension_names = names if all(names) else None
        self.dtype = np.dtype(store.dtype.numpy_dtype)
        layout = store.chunk_layout
        self.chunks = _lengths(layout.read_chunk)
        self.shards = _lengths(layout.write_chunk) if "sharding_indexed" in self.codecs else None

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.url, self._write, self._constant)

    def __repr__(self) -> str:
        return (
            f"Array('{self.url}', shape={self.shape}, dtype={self.dtype}, chunks={self.chunks}, shards={self.shards})"
        )

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def attributes(self) -> dict[str, Any]:
        return read_attributes(self.url)

    def read(self, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        """The box from `start` up to `stop`, C order, native bytes.

        Raises CorruptDataError naming a bad chunk, InputError where the place does not answer.
        """
        start, stop = self._box(start, stop)
        try:
            data = np.ascontiguousarray(patiently(self.url, lambda: self._load(start, stop)))
            return data.astype(self.dtype, copy=False)
        except (ValueError, OSError) as error:
            problem = read_error(self.url, error)
            if isinstance(problem, InputError):
                raise problem from error
            raise self._name_bad_chunk(start, stop, error) from error

    def write(self, start: Sequence[int], data: np.ndarray, *, partial: bool = False) -> None:
        """Store `data` with its first element at `start`.

        Raises ValueError where this covers part of a shard (or of a chunk without shards), since two such writers at
        once lose data without a word; `partial` is for a caller that knows itself to be alone. OutputError where the
        place is full or read-only.
        """
        data = np.asarray(data)
        start, stop = self._box(start, [a + n for a, n in zip(start, data.shape, strict=True)])
        unit = self.shards or self.chunks
        whole = all(
            a % u == 0 and (b % u == 0 or b == n) for a, b, u, n in zip(start, stop, unit, self.shape, strict=True)
        )
        if not whole and not partial:
            raise ValueError(f"'{self.url}': box {start} to {stop} covers parts of shards {unit}; write whole shards")
        try:
            data = data.astype(self.dtype, copy=False)
            try:
                patiently(self.url, lambda: self._save(start, stop, data))
            except ValueError as error:
                # tensorstore reads a chunk that juts out of the array before it replaces it. Damage is replaced too.
                if not whole or isinstance(read_error(self.url, error), InputError):
                    raise
                self._drop(start, stop)
                patiently(self.url, lambda: self._save(start, stop, data))
        except ValueError as error:
            raise write_error(self.url, error) from error

    def __getitem__(self, key: Any) -> np.ndarray:
        """Basic slicing with integers, slices of step 1 and one `...`."""
        key = key if isinstance(key, tuple) else (key,)
        if Ellipsis in key:
            at = key.index(Ellipsis)
            key = (*key[:at], *[slice(None)] * (self.ndim - len(key) + 1), *key[at + 1 :])
        key = (*key, *[slice(None)] * (self.ndim - len(key)))
        if len(key) != self.ndim:
            raise IndexError(f"{len(key)} indices for an array of {self.ndim} axes")
        boxes: list[tuple[int, int]] = []
        drop: list[slice | int] = []
        for part, n in zip(key, self.shape, strict=True):
            if isinstance(part, slice):
                first, last, step = part.indices(n)
                if step != 1:
                    raise IndexError(f"slice {part}: only step 1 is stored access; step over what is read")
                boxes.append((first, max(first, last)))
                drop.append(slice(None))
            else:
                index = int(part) + (n if part < 0 else 0)
                if not 0 <= index < n:
                    raise IndexError(f"index {part} of an axis of {n}")
                boxes.append((index, index + 1))
                drop.append(0)
        return self.read([a for a, _ in boxes], [b for _, b in boxes])[tuple(drop)]

    def _box(self, start: Sequence[int], stop: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        start, stop = tuple(int(a) for a in start), tuple(int(b) for b in stop)
        if len(start) != self.ndim or len(stop) != self.ndim:
            raise ValueError(f"'{self.url}': box {start} to {stop} for an array of shape {self.shape}")
        if any(not 0 <= a <= b <= n for a, b, n in zip(start, stop, self.shape, strict=True)):
            raise ValueError(f"'{self.url}': box {start} to {stop} is outside the shape {self.shape}")
        return start, stop

    def _slice(self, start: Sequence[int], stop: Sequence[int]) -> ts.TensorStore:
        assert isinstance(self._store, ts.TensorStore), "a second reader writes nothing"
        return self._store[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]

    def _load(self, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        with waiting():
            if isinstance(self._store, ts.TensorStore):
                return self._slice(start, stop).read().result()
            return self._store.read(tuple(slice(a, b) for a, b in zip(start, stop, strict=True)))

    def _save(self, start: Sequence[int], stop: Sequence[int], data: np.ndarray) -> None:
        with waiting():
            self._slice(start, stop).write(data).result()

    def _drop(self, start: Sequence[int], stop: Sequence[int]) -> None:
        """Delete the files of a box of whole shards."""
        assert isinstance(self._store, ts.TensorStore), "a second reader writes nothing"
        files = self._store.kvstore
        assert files is not None, "an array lies in a key-value store"
        names = self._store.spec().to_json()["metadata"].get("chunk_key_encoding", {"name": "default"})
        if names["name"] != "default" or names.get("configuration", {}).get("separator", "/") != "/":
            return
        for index in _tiles(start, stop, self.shards or self.chunks):
            files.write("/".join(["c", *map(str, index)]), None).result()

    def _chunk_boxes(self, start: Sequence[int], stop: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        for index in _tiles(start, stop, self.chunks):
            low = tuple(i * c for i, c in zip(index, self.chunks, strict=True))
            high = tuple(min(a + c, n) for a, c, n in zip(low, self.chunks, self.shape, strict=True))
            yield index, low, high

    def _name_bad_chunk(self, start: Sequence[int], stop: Sequence[int], error: ValueError | OSError) -> BigregError:
        # The message of the whole read does not always say which chunk failed, so each is tried by itself.
        for index, low, high in self._chunk_boxes(start, stop):
            try:
                patiently(self.url, partial(self._load, low, high))
            except (ValueError, OSError) as reason:
                problem = read_error(self.url, reason)
                if isinstance(problem, InputError):
                    return problem
                return CorruptDataError(
                    f"'{self.url}': chunk {index}, voxels {low} to {high}, cannot be decoded: {error_reason(reason)}; "
                    "restore the file or compute it again",
                    url=self.url,
                    box=(low, high),
                )
        return CorruptDataError(
            f"'{self.url}': box {tuple(start)} to {tuple(stop)} could not be read: {error_reason(error)}"
        )


def _lengths(part: ts.ChunkLayout.Grid) -> tuple[int, ...]:
    assert part.shape is not None, "an open array has its chunks"
    return tuple(n for n in part.shape if n is not None)


def _tiles(start: Sequence[int], stop: Sequence[int], unit: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Indices of the tiles of size `unit` that a box meets."""
    return itertools.product(*(range(a // u, -(-b // u)) for a, b, u in zip(start, stop, unit, strict=True)))


def _reopen(url: str, write: bool, constant: bool) -> Array:
    return open_array(url, write=write, constant=constant)


def open_array(url: str, *, write: bool = False, constant: bool = False) -> Array:
    """Open a Zarr v3, Zarr v2 or N5 array. N5 axes come out reversed, as numpy (z, y, x).

    `constant` promises that what is read will not change while the array is open: decoded chunks are cached, as far as
    `configure` has room for them. One that is opened later sees what was written before.

    What tensorstore does not decode (codecs, filters, dtypes) is read through zarr-python, which is said once.

    Raises InputError where there is no array or no reader knows its codec, CorruptDataError where its metadata is
    broken.
    """
    url = str(url)
    node = find_node(url)
    if node is None or not node.is_array:
        what = "nothing is stored there" if node is None else "a group is stored there, not an array"
        raise InputError(f"'{url}' is not an array: {what}; check the path")
    driver = {"zarr3": "zarr3", "zarr2": "zarr", "n5": "n5"}[node.format]
    spec = {"driver": driver, "kvstore": kvstore_spec(url), "recheck_cached_data": "open" if constant else True}
    try:
        store = patiently(
            url, lambda: ts.open(spec, context=context(caching=constant), open=True, read=True, write=write).result()
        )
    except ValueError as error:
        if write or isinstance(read_error(url, error), InputError):
            raise _opening_error(url, error) from error
        from .second_reader import SecondReader, unknown_parts

        if unknown := unknown_parts(node):
            parts = ", ".join(unknown)
            raise InputError(f"'{url}': {parts} is not supported; write it again with zstd, gzip or blosc") from error
        if node.format == "n5":
            raise _opening_error(url, error) from error
        try:
            second = patiently(url, lambda: SecondReader(url, node))
        except ValueError as other:
            raise _opening_error(url, error) from other
        return Array(url, second, codecs=node.codecs, write=False, constant=constant)
    opened = store.T if node.format == "n5" else store
    return Array(url, opened, codecs=node.codecs, write=write, constant=constant)


def _opening_error(url: str, error: ValueError) -> BigregError:
    if error_code(error) in ("INVALID_ARGUMENT", "UNIMPLEMENTED"):
        return InputError(f"'{url}' cannot be opened: {error_reason(error)}; `bigreg convert` it from its source")
    return read_error(url, error)


def create_array(
    url: str,
    *,
    shape: Sequence[int],
    dtype: np.dtype | str | type,
    chunks: Sequence[int],
    shards: Sequence[int] | None = None,
    fill_value: float = 0,
    dimension_names: Sequence[str] | None = None,
    attributes: dict[str, Any] | None = None,
    codec: Codec = "zstd",
    exist_ok: bool = False,
) -> Array:
    """Create a Zarr v3 array (blosc, checksummed; sharded where `shards`, a multiple of `chunks`, is given).

    codec   lz4 (with bitshuffle) writes three times as fast as zstd, and is little larger where the last bits of the
            values are zero (see `transforms.field.rounded`)
    With `exist_ok` an array that is there already is opened if shape, dtype and what is written at once (a shard, or a
    chunk without shards) are the same; how that is cut into chunks and packed may have been otherwise in an earlier
    version. Raises OutputError where something else is there or the place cannot be written.
    """
    url, dtype = str(url), np.dtype(dtype)
    chunks = tuple(int(c) for c in chunks)
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if codec == "zstd":
        blosc = {"cname": "zstd", "clevel": 3, "shuffle": "shuffle" if dtype.itemsize > 1 else "noshuffle"}
        codecs.append({"name": "blosc", "configuration": blosc})
    elif codec == "lz4":
        codecs.append({"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle"}})
    codecs.append({"name": "crc32c"})
    if shards is not None:
        shards = tuple(int(s) for s in shards)
        if len(shards) != len(chunks) or any(s % c for s, c in zip(shards, chunks, strict=True)):
            raise ValueError(f"shards {shards} must be a multiple of chunks {chunks}")
        codecs = [{"name": "sharding_indexed", "configuration": {"chunk_shape": chunks, "codecs": codecs}}]
    metadata = {
        "shape": [int(n) for n in shape],
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shards or chunks)}},
        "codecs": codecs,
        "fill_value": _json_number(fill_value, dtype),
        "attributes": attributes or {},
    }
    if dimension_names is not None:
        metadata["dimension_names"] = list(dimension_names)
    spec = {"driver": "zarr3", "kvstore": kvstore_spec(url), "metadata": metadata}
    try:
        patiently(url, lambda: ts.open(spec, context=context(), create=True, open=False).result())
    except ValueError as error:
        if error_code(error) != "ALREADY_EXISTS":
            raise write_error(url, error) from error
        if not exist_ok:
            raise OutputError(f"'{url}' exists already; choose another output or remove it") from error
    array = open_array(url, write=True)
    wanted = (tuple(metadata["shape"]), dtype, shards or chunks)
    if (array.shape, array.dtype, array.shards or array.chunks) != wanted:
        raise OutputError(f"'{url}' exists already with other contents ({array}); choose another output or remove it")
    return array


def _json_number(value: float, dtype: np.dtype) -> Any:
    if dtype.kind == "b":
        return bool(value)
    if dtype.kind in "iu":
        return int(value)
    value = float(value)
    if math.isnan(value):
        return "NaN"
    return ("Infinity" if value > 0 else "-Infinity") if math.isinf(value) else value
