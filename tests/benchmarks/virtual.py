"""A pair of volumes that are nowhere: every chunk is computed when it is asked for, over http on this machine.

Both images are sums of products of one function of each axis, so a chunk costs a few outer products; the moving image
is the same tissue stretched a little, differently along each axis. Spacing 1 um, uint16, OME-Zarr 0.5 with a pyramid.
"""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

CHUNK = 64
LEVELS = 6
TERMS = 12
STRETCH = 0.01
"""Amplitude of the displacement over the period of half the volume."""


def axis_points(name: str, size: int, level: int, chunk: int) -> np.ndarray:
    """Where the voxels of a chunk lie in the tissue, as a fraction of the volume, along one axis."""
    voxel = 2**level
    x = ((chunk * CHUNK + np.arange(CHUNK)) * voxel + (voxel - 1) / 2) / size
    return x if name == "fixed" else x + STRETCH * np.sin(2 * np.pi * x)


@lru_cache(maxsize=4096)
def factors(name: str, size: int, level: int, axis: int, chunk: int) -> np.ndarray:
    """(TERMS + 1, CHUNK) the function of one axis of each term, and the outline."""
    x = axis_points(name, size, level, chunk)
    rng = np.random.default_rng(axis)
    scale = size / 512  # features of the same size in um whatever the volume
    waves = [np.sin(2 * np.pi * rng.uniform(1.5, 8) * scale * x + rng.uniform(0, 6.28)) for _ in range(TERMS)]
    outline = np.clip(4 * np.sin(np.pi * np.clip(x, 0, 1)) ** 2 - 0.4, 0, 1)
    return np.stack([*waves, outline]).astype(np.float32)


def chunk(name: str, size: int, level: int, index: tuple[int, int, int]) -> bytes:
    """One chunk, uint16, C order, little endian."""
    z, y, x = (factors(name, size, level, axis, i) for axis, i in enumerate(index))
    waves = np.einsum("tz,ty,tx->zyx", z[:-1], y[:-1], x[:-1], optimize=True) / np.sqrt(TERMS / 8)
    tissue = z[-1][:, None, None] * y[-1][None, :, None] * x[-1][None, None, :]
    return (tissue * (400 + 200 * np.clip(waves, -1.9, 1.9))).astype("<u2").tobytes()


def group() -> dict:
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    datasets = []
    for level in range(LEVELS):
        transforms = [
            {"type": "scale", "scale": [float(2**level)] * 3},
            {"type": "translation", "translation": [(2**level - 1) / 2] * 3},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    image = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets, "name": "virtual"}]}
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": image}}


def array(size: int, level: int) -> dict:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [size // 2**level] * 3,
        "data_type": "uint16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [CHUNK] * 3}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "fill_value": 0,
        "attributes": {},
    }


class Handler(BaseHTTPRequestHandler):
    """/SIZE/fixed.zarr/... and /SIZE/moving.zarr/..."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms

    def do_GET(self) -> None:
        body = self.body()
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if body and self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def body(self) -> bytes | None:
        match self.path.strip("/").split("/"):
            case [_, "fixed.zarr" | "moving.zarr", "zarr.json"]:
                return json.dumps(group()).encode()
            case [size, "fixed.zarr" | "moving.zarr", level, "zarr.json"]:
                return json.dumps(array(int(size), int(level))).encode()
            case [size, name, level, "c", z, y, x]:
                return chunk(name.removesuffix(".zarr"), int(size), int(level), (int(z), int(y), int(x)))
        return None

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
