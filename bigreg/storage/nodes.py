"""Groups, attributes, and what stands at a location."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tensorstore as ts

from ..errors import CorruptDataError, InputError, OutputError
from ..places import join, local_path, scheme, zip_parts
from .locations import filesystem, open_kvstore, read_error, write_error
from .retry import patiently


def read_file(url: str, name: str) -> bytes | None:
    """The content of a file below `url`; None where there is none. Raises InputError, CorruptDataError."""
    try:
        result = patiently(join(url, name), lambda: open_kvstore(url).read(name).result())
    except ValueError as error:
        raise read_error(join(url, name), error) from error
    return result.value if result.state == "value" else None


def read_json(url: str, key: str) -> dict[str, Any] | None:
    """The JSON object in a file below `url`, None where there is none. Raises CorruptDataError, InputError."""
    content = read_file(url, key)
    if content is None:
        return None
    try:
        data = json.loads(content)
    except ValueError as error:
        raise CorruptDataError(f"'{join(url, key)}' is not JSON ({error}); restore it from its source") from error
    if not isinstance(data, dict):
        raise CorruptDataError(f"'{join(url, key)}' is not a JSON object; restore it from its source")
    return data


def _write_json(url: str, key: str, data: dict[str, Any]) -> None:
    write_file(url, key, json.dumps(data, indent=1, allow_nan=False).encode())


def write_file(url: str, name: str, content: bytes) -> None:
    """Write a file below `url`; it appears complete or not at all. Raises OutputError."""
    try:
        patiently(join(url, name), lambda: open_kvstore(url).write(name, content).result())
    except ValueError as error:
        raise write_error(join(url, name), error) from error


@dataclass(frozen=True)
class Node:
    """What stands at a location: `format` zarr3, zarr2 or n5, an array or a group, its attributes and metadata."""

    format: str
    is_array: bool
    attributes: dict[str, Any]
    metadata: dict[str, Any]

    @property
    def codecs(self) -> list[str]:
        """Names of the codecs and filters of an array, as its metadata has them."""
        if self.format == "zarr3":
            return list(_v3_codecs(self.metadata.get("codecs")))
        if self.format == "n5":
            compression = self.metadata.get("compression", self.metadata.get("compressionType", "raw"))
            return [str(compression.get("type", "raw") if isinstance(compression, Mapping) else compression)]
        parts = [*(self.metadata.get("filters") or []), self.metadata.get("compressor")]
        return [str(part.get("id", part.get("type"))) for part in parts if isinstance(part, Mapping)]


def _v3_codecs(listed: Any) -> Iterator[str]:
    for codec in listed if isinstance(listed, list) else []:
        name = codec.get("name") if isinstance(codec, Mapping) else codec
        yield str(name)
        inner = codec.get("configuration") if isinstance(codec, Mapping) else None
        if isinstance(inner, Mapping):
            yield from _v3_codecs(inner.get("codecs"))


def find_node(url: str) -> Node | None:
    """The Zarr or N5 node at `url`, or None. An N5 group without attributes.json cannot be told from a folder."""
    data = read_json(url, "zarr.json")
    if data is not None:
        return Node("zarr3", data.get("node_type") == "array", data.get("attributes") or {}, data)
    for key, is_array in ((".zarray", True), (".zgroup", False)):
        data = read_json(url, key)
        if data is not None:
            return Node("zarr2", is_array, read_json(url, ".zattrs") or {}, data)
    data = read_json(url, "attributes.json")
    if data is not None:
        return Node("n5", "dimensions" in data and "dataType" in data, data, data)
    return None


def exists(url: str) -> bool:
    """Whether anything is stored at `url`: a Zarr or N5 node, a file, or a folder with something in it."""
    path = local_path(url)
    if path is not None:
        return any(path.iterdir()) if path.is_dir() else path.exists()
    if find_node(url) is not None or children(url):
        return True
    parent, _, key = str(url).rstrip("/").rpartition("/")
    if parent.endswith("/"):  # a whole bucket or server
        return False
    try:
        first = patiently(url, lambda: open_kvstore(parent).read(key, byte_range=slice(0, 1)).result())
    except ValueError as error:
        raise read_error(url, error) from error
    return first.state == "value"


def children(url: str) -> list[str]:
    """Names of what lies directly below a group, sorted; empty where a place cannot list (http)."""
    if zip_parts(url) is not None:
        return _below(url)
    path = local_path(url)
    if path is not None:
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    if scheme(url) in ("http", "https"):
        return []
    if scheme(url) == "memory":
        return _below(url)
    # tensorstore would list every chunk below it.
    files, place = filesystem(url)
    try:
        found = patiently(url, lambda: files.ls(place, detail=False))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise read_error(url, error) from error
    # A file is listed as itself, an empty folder may be too.
    return sorted(name.rstrip("/").rpartition("/")[2] for name in found if name.rstrip("/") != place.rstrip("/"))


def _below(url: str) -> list[str]:
    """The first parts of all keys."""
    try:
        keys = patiently(url, lambda: open_kvstore(url).list().result())
    except ValueError as error:
        raise read_error(url, error) from error
    return sorted({key.decode().partition("/")[0] for key in keys})


def remove(url: str) -> None:
    """Delete everything that is stored at `url`, if anything is."""
    path = local_path(url)
    if path is None:
        try:
            patiently(url, lambda: open_kvstore(url).delete_range(ts.KvStore.KeyRange()).result())
        except ValueError as error:
            raise write_error(url, error) from error
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def create_group(url: str, attributes: dict[str, Any] | None = None, *, exist_ok: bool = False) -> None:
    """Write a Zarr v3 group. With `exist_ok` a group that is there stays as it is, unless attributes are given."""
    node = find_node(url)
    if node is not None and not (exist_ok and node.format == "zarr3" and not node.is_array):
        raise OutputError(f"'{url}' exists already; choose another output or remove it")
    if node is None or attributes is not None:
        data = {"zarr_format": 3, "node_type": "group", "attributes": attributes or {}}
        _write_json(url, "zarr.json", data)


def read_attributes(url: str) -> dict[str, Any]:
    """Attributes of a Zarr v3, Zarr v2 or N5 node; raises InputError where there is none."""
    node = find_node(url)
    if node is None:
        raise InputError(f"'{url}' is not a Zarr or N5 array or group; check the path")
    return node.attributes


def write_attributes(url: str, attributes: dict[str, Any]) -> None:
    """Replace all attributes of a Zarr v3 node in one step."""
    node = find_node(url)
    if node is None or node.format != "zarr3":
        raise OutputError(f"'{url}' is not a Zarr v3 array or group, so it cannot take attributes")
    _write_json(url, "zarr.json", {**node.metadata, "attributes": attributes})
