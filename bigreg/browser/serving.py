"""Pyramids as OME-Zarr over HTTP, for programs of this machine: no copy, each chunk is read when it is asked for."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from ..errors import BigregError
from ..geometry import triple
from ..pipeline.looking.pyramids import Samples
from .layers import BrowserLayer

CHUNK = 64
"""Voxels of a chunk along each axis, or the whole axis where that is shorter."""
LOOPBACK = "127.0.0.1"


class Serving:
    """A server of layers on the loopback address, while used as a context manager.

    `address` of a layer is that of its OME-Zarr 0.5. All addresses hold a random part that nobody can guess; pages of
    other origins than `origin` are not allowed to read the answers.

    tell   hears once of each chunk that cannot be read; the answer is then 500
    """

    def __init__(self, layers: Sequence[BrowserLayer], tell: Callable[[str], Any], origin: str = "") -> None:
        self._layers = {f"{number}-{_plain(layer.name)}": layer for number, layer in enumerate(layers)}
        self._secret = secrets.token_urlsafe(24)
        self._tell, self._told = tell, set[str]()
        self.origin = origin
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="bigreg-serving", daemon=True)

    def __enter__(self) -> Serving:
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def addresses(self) -> list[str]:
        """Where the OME-Zarr of each layer is, in order."""
        return [f"http://{LOOPBACK}:{self._server.server_port}/{self._secret}/{key}" for key in self._layers]

    def answer(self, path: str) -> bytes | None:
        """What is at a path of an address; None where nothing is. Raises BigregError for what cannot be read."""
        secret, _, rest = path.lstrip("/").partition("/")
        key, _, inner = rest.partition("/")
        if not secrets.compare_digest(secret, self._secret) or key not in self._layers:
            return None
        layer = self._layers[key]
        if inner == "zarr.json":
            return _json(group_of(layer))
        if inner == "regions/info" and layer.names:
            return _json(regions_of(layer.names))
        level, _, place = inner.partition("/")
        if not level.isdecimal() or int(level) >= len(layer.levels):
            return None
        samples = layer.levels[int(level)]
        if place == "zarr.json":
            return _json(array_of(samples, layer.dtype))
        parts = place.split("/")
        if parts[:1] != ["c"] or len(parts) != 4 or not all(part.isdecimal() for part in parts[1:]):
            return None
        return chunk_of(samples, layer, [int(part) for part in parts[1:]])

    def failed(self, error: BigregError) -> None:
        if str(error) not in self._told:
            self._told.add(str(error))
            self._tell(str(error))


def _handler(serving: Serving) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                content = serving.answer(self.path.partition("?")[0])
            except BigregError as error:
                serving.failed(error)
                self._send(500, str(error).encode())
                return
            self._send(404, b"") if content is None else self._send(200, content)

        do_HEAD = do_GET

        def _send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if serving.origin:
                self.send_header("Access-Control-Allow-Origin", serving.origin)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            """Nothing: a page asks for thousands of chunks."""

    return Handler


def group_of(layer: BrowserLayer) -> dict[str, Any]:
    """OME-Zarr 0.5 of a layer: um along its own index axes, from the centre of its first voxel."""
    first = layer.levels[0].grid
    datasets = []
    for number, level in enumerate(layer.levels):
        inside = first.inverse @ level.grid.affine  # index of the level to index of the finest
        scale, move = np.diag(inside)[:3] * first.spacing, inside[:3, 3] * first.spacing
        transformations = [
            {"type": "scale", "scale": scale.tolist()},
            {"type": "translation", "translation": move.tolist()},
        ]
        datasets.append({"path": str(number), "coordinateTransformations": transformations})
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    multiscale = {"name": layer.name, "axes": axes, "datasets": datasets}
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"ome": {"version": "0.5", "multiscales": [multiscale]}},
    }


def array_of(samples: Samples, dtype: np.dtype[Any]) -> dict[str, Any]:
    """The metadata of a level as a Zarr v3 array, not compressed."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(samples.grid.shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(_chunk(samples))}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "fill_value": 0,
        "dimension_names": ["z", "y", "x"],
        "attributes": {},
    }


def chunk_of(samples: Samples, layer: BrowserLayer, index: Sequence[int]) -> bytes | None:
    """A chunk (z, y, x), 0 beyond the edge; None where the level has none."""
    size = _chunk(samples)
    start = triple(i * n for i, n in zip(index, size, strict=True))
    stop = triple(min(a + n, end) for a, n, end in zip(start, size, samples.grid.shape, strict=True))
    if any(a >= b for a, b in zip(start, stop, strict=True)):
        return None
    values = layer.shown(samples.read(start, stop))
    whole = np.zeros(size, layer.dtype.newbyteorder("<"))
    whole[tuple(slice(0, n) for n in values.shape)] = values
    return whole.tobytes()


def regions_of(names: Mapping[int, str]) -> dict[str, Any]:
    """Names of labels as neuroglancer reads them."""
    labels = {"id": "label", "type": "label", "values": list(names.values())}
    return {
        "@type": "neuroglancer_segment_properties",
        "inline": {"ids": [str(label) for label in names], "properties": [labels]},
    }


def _chunk(samples: Samples) -> tuple[int, int, int]:
    return triple(min(CHUNK, n) for n in samples.grid.shape)


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode()


def _plain(name: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
