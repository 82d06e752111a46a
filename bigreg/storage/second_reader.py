"""The second reader: Zarr arrays that tensorstore does not decode are read through zarr-python, more slowly.

What neither knows is named: an unknown codec is not supported, which is not the same as damaged.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterable
from functools import cache
from typing import Any, Literal

import numcodecs
import numpy as np
import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from .locations import open_kvstore
from .nodes import Node
from .retry import error_code

logger = logging.getLogger(__name__)
# What tensorstore decodes by itself, by the names that Zarr v3 and N5 give it.
_V3 = {"blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose", "zstd"}
_N5 = {"raw", "gzip", "bzip2", "xz", "blosc", "zstd"}


class SecondReader:
    """An array that zarr-python decodes; it has of tensorstore's what bigreg.storage.Array asks for.

    Raises ValueError where zarr-python cannot open it either.
    """

    def __init__(self, url: str, node: Node) -> None:
        version: Literal[2, 3] = 3 if node.format == "zarr3" else 2
        try:
            self._array = zarr.open_array(_KeyValues(url), mode="r", zarr_format=version)
            self.dtype = np.dtype(self._array.dtype)
        except Exception as error:  # zarr-python has an error of its own for each key
            raise ValueError(f"DATA_LOSS: {error}") from error
        self.shape: tuple[int, ...] = tuple(self._array.shape)
        self.chunks: tuple[int, ...] = tuple(self._array.chunks)
        names = getattr(self._array.metadata, "dimension_names", None) or ()
        self.dimension_names = tuple(names) if names and all(names) else None
        _tell(url.rpartition("/")[0], ", ".join(node.codecs) or "its metadata")

    def read(self, box: tuple[slice, ...]) -> np.ndarray:
        try:
            return np.asarray(self._array[box])
        except (OSError, MemoryError):
            raise
        except Exception as error:  # each codec has errors of its own
            if isinstance(error, ValueError) and error_code(error):
                raise  # in tensorstore's words: it is the store that failed
            raise ValueError(f"DATA_LOSS: {type(error).__name__}: {error}") from error


@cache
def _tell(url: str, what: str) -> None:
    # Once a group: the levels of an image are written alike.
    logger.warning(
        "'%s' (%s) is read by zarr-python, more slowly; `bigreg convert` it once to read it often", url, what
    )


def unknown_parts(node: Node) -> list[str]:
    """What no reader here decodes: its codecs, or its dtype, as words for a message."""
    if node.format == "n5":
        return [f"N5 compression '{name}'" for name in node.codecs if name not in _N5]
    known = _known_v3 if node.format == "zarr3" else _known_v2
    found = [f"codec '{name}'" for name in node.codecs if not known(name)]
    kind = node.metadata.get("data_type" if node.format == "zarr3" else "dtype")
    if kind is not None and not _known_dtype(kind, 3 if node.format == "zarr3" else 2):
        found.append(f"dtype {kind!r}")
    return found


def _known_v2(name: str) -> bool:
    if name == "raw":
        return True
    if name.startswith("imagecodecs_") and name not in numcodecs.registry.codec_registry:
        from imagecodecs.numcodecs import register_codecs

        register_codecs(verbose=False)
    return name in numcodecs.registry.codec_registry or name in numcodecs.registry.entries


def _known_v3(name: str) -> bool:
    if name in _V3:
        return True
    try:
        zarr.registry.get_codec_class(name)
    except (KeyError, ValueError, ImportError):
        return False
    return True


def _known_dtype(kind: Any, version: Literal[2, 3]) -> bool:
    from zarr.dtype import parse_dtype

    try:
        parse_dtype(kind, zarr_format=version)
    except (TypeError, ValueError, KeyError):
        return False
    return True


class _KeyValues(Store):
    """A tensorstore key-value store as a read-only store of zarr-python: every place that bigreg opens."""

    supports_writes = supports_deletes = supports_listing = False

    def __init__(self, url: str) -> None:
        super().__init__(read_only=True)
        self._url = url
        self._store = open_kvstore(url)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _KeyValues) and other._url == self._url

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        part = slice(None)
        if isinstance(byte_range, RangeByteRequest):
            part = slice(byte_range.start, byte_range.end)
        elif isinstance(byte_range, OffsetByteRequest):
            part = slice(byte_range.offset, None)
        elif isinstance(byte_range, SuffixByteRequest):
            part = slice(-byte_range.suffix, None)
        result = await self._store.read(key, byte_range=part)
        if result.state != "value":
            return None
        return prototype.buffer.from_bytes(_without_raw(result.value) if key == ".zarray" else result.value)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def exists(self, key: str) -> bool:
        return (await self._store.read(key, byte_range=slice(0, 1))).state == "value"

    async def list(self) -> AsyncIterator[str]:
        for key in tuple[str, ...]():
            yield key

    list_prefix = list_dir = lambda self, prefix: self.list()

    async def set(self, key: str, value: Buffer) -> None:
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        raise NotImplementedError


def _without_raw(content: bytes) -> bytes:
    """Metadata in which old n5-zarr says {"type": "raw"} for no compressor."""
    data = json.loads(content)
    compressor = data.get("compressor")
    if isinstance(compressor, dict) and compressor.get("id", compressor.get("type")) == "raw":
        data["compressor"] = None
    return json.dumps(data).encode()
