"""Converting: what is written holds the ramp of its place on every level, out of core, and whole or not at all."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr

from bigreg.errors import CorruptDataError, InputError, OutputError
from bigreg.volumes import convert, open_volume
from bigreg.volumes.pyramid import downsample, pyramid_factors

from .ramps import ORIGIN, SPACING, check_ramp, n5_levels, ome_zarr_04, ramp, sampled

SMALL = {"chunks": (8, 8, 8), "shards": (16, 16, 16)}


@pytest.mark.parametrize("shape", [(17, 23, 31), (5, 200, 130), (64, 65, 127)])
def test_every_level_of_the_pyramid_lies_where_it_belongs(tmp_path, shape):
    source = sampled(shape, origin=ORIGIN)
    volume = convert(source, tmp_path / "a.ome.zarr", spacing=SPACING, origin=ORIGIN, **SMALL)
    assert len(volume.levels) == len(pyramid_factors(volume.grid()))
    assert max(volume.levels[-1].grid.shape) <= 64
    check_ramp(volume)


def test_a_pyramid_coarsens_the_finer_axes_first(tmp_path):
    volume = convert(sampled((40, 160, 160)), tmp_path / "a.ome.zarr", spacing=(4.0, 1.0, 1.0), **SMALL)
    assert [level.factors for level in volume.levels] == [(1, 1, 1), (1, 2, 2), (1, 4, 4)]


def test_other_libraries_read_what_was_converted(tmp_path):
    convert(sampled(), tmp_path / "a.ome.zarr", spacing=SPACING, **SMALL)
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r")
    ome = dict(group.attrs)["ome"]
    assert ome["version"] == "0.5" and [a["unit"] for a in ome["multiscales"][0]["axes"]] == ["micrometer"] * 3
    array = group[ome["multiscales"][0]["datasets"][0]["path"]]
    assert array.shards == (16, 16, 16) and array.chunks == (8, 8, 8)
    assert np.array_equal(array[...], sampled())


def test_all_channels_or_the_chosen_one(tmp_path):
    data = np.stack([sampled(), -sampled()])
    zarr.create_array(tmp_path / "a.zarr", data=data, dimension_names=["c", "z", "y", "x"])
    both = convert(tmp_path / "a.zarr", tmp_path / "both.ome.zarr", spacing=SPACING, **SMALL)
    assert both.channels == 2
    check_ramp(open_volume(tmp_path / "both.ome.zarr", channel=0))
    assert np.array_equal(both.with_channel(1).read((0, 0, 0), both.shape), -sampled())
    one = convert(tmp_path / "a.zarr", tmp_path / "one.ome.zarr", spacing=SPACING, channel=1, **SMALL)
    assert one.channels == 1 and np.array_equal(one.read((0, 0, 0), one.shape), -sampled())


def test_integers_are_rounded_and_clipped_never_wrapped(tmp_path):
    data = np.full((8, 8, 8), 300.6, "float32")
    data[0, 0, :3] = -5, 1.4, 70_000
    volume = convert(data, tmp_path / "a.ome.zarr", spacing=SPACING, dtype="uint16", **SMALL)
    assert volume.read((0, 0, 0), (1, 1, 4)).ravel().tolist() == [0, 1, 65535, 301]


def test_labels_keep_the_commonest_number(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.choice(np.array([0, 7, 1_000_003], "uint32"), size=(70, 70, 70))
    volume = convert(data, tmp_path / "a.ome.zarr", spacing=(1, 1, 1), labels=True, **SMALL)
    coarse = volume.read((0, 0, 0), volume.levels[1].grid.shape, 1)
    assert set(np.unique(coarse)) <= {0, 7, 1_000_003}
    blocks = data.reshape(35, 2, 35, 2, 35, 2).transpose(0, 2, 4, 1, 3, 5).reshape(35, 35, 35, 8)
    share = (blocks == coarse[..., None]).sum(-1)
    most = np.max([(blocks == v).sum(-1) for v in (0, 7, 1_000_003)], axis=0)
    assert (share == most).all()


def test_means_are_exact_and_odd_ends_are_dropped():
    data = np.arange(5 * 4 * 7, dtype="uint16").reshape(5, 4, 7)
    expected = np.rint(data[:4, :4, :6].reshape(2, 2, 2, 2, 3, 2).mean((1, 3, 5)))
    assert np.abs(downsample(data, (2, 2, 2)).astype(float) - expected).max() <= 0.5
    with pytest.raises(ValueError, match="cannot downsample"):
        downsample(data, (8, 1, 1))


def test_an_existing_output_stays_unless_overwritten(tmp_path):
    convert(sampled(), tmp_path / "a.ome.zarr", spacing=SPACING, **SMALL)
    with pytest.raises(OutputError, match=r"a\.ome\.zarr' exists already"):
        convert(-sampled(), tmp_path / "a.ome.zarr", spacing=SPACING, **SMALL)
    check_ramp(open_volume(tmp_path / "a.ome.zarr"))
    convert(-sampled(), tmp_path / "a.ome.zarr", spacing=SPACING, overwrite=True, **SMALL)
    assert open_volume(tmp_path / "a.ome.zarr").read((0, 0, 0), (1, 1, 1)).item() == -ramp(np.zeros(3))


def test_a_source_that_breaks_leaves_nothing_behind(tmp_path):
    source, keywords = n5_levels(tmp_path)
    chunk = next(p for p in sorted((source / "group/c0/s0").rglob("*")) if p.is_file() and p.name != "attributes.json")
    chunk.write_bytes(chunk.read_bytes()[:20])
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(CorruptDataError, match="restore"):
        convert(source, out / "a.ome.zarr", **keywords, **SMALL)
    assert list(out.iterdir()) == []


MEASURE = """
import resource, sys
from bigreg.volumes import convert, open_volume
open_volume(sys.argv[1], spacing=(2, 1, 1)).read((0, 0, 0), (1, 8, 8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(sys.argv[1], sys.argv[2], spacing=(2, 1, 1), chunks=(32, 32, 32), shards=(64, 64, 64), workers=2)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_depends_on_the_shards_and_not_on_the_volume(tmp_path):
    """768 MB of planes with 64^3 shards of 0.5 MB: what is held is a few rows of planes and shards."""
    plane = np.random.default_rng(0).integers(0, 2**16, (1024, 1024), dtype="uint16")
    with tifffile.TiffWriter(tmp_path / "big.tif", bigtiff=True) as file:
        for _ in range(384):
            file.write(plane, contiguous=True, metadata=None)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "big.tif"), str(tmp_path / "big.ome.zarr")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 500e6, f"{int(done.stdout) / 1e6:.0f} MB for a volume of {384 * 2**21 / 1e6:.0f} MB"
    volume = open_volume(tmp_path / "big.ome.zarr")
    assert np.array_equal(volume.read((383, 0, 0), (384, 1024, 1024))[0], plane)


class _Whole(SimpleHTTPRequestHandler):
    """A server that knows no byte ranges."""

    def log_message(self, *args) -> None:
        pass


class _Ranges(_Whole):
    """Byte ranges as object stores answer them: `bytes=a-b` and `bytes=-n`."""

    def do_GET(self) -> None:
        path, wanted = Path(self.translate_path(self.path)), self.headers.get("Range", "")
        if not path.is_file() or not wanted:
            return super().do_GET()
        data = path.read_bytes()
        first, last = wanted.removeprefix("bytes=").split("-")
        start = int(first) if first else len(data) - int(last)
        stop = int(last) + 1 if first and last else len(data)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data[start:stop])))
        self.end_headers()
        self.wfile.write(data[start:stop])


@contextmanager
def serving(folder, handler):
    """The URL under which a folder is served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def served(tmp_path):
    with serving(tmp_path, _Ranges) as url:
        yield url


@pytest.mark.parametrize("write", [ome_zarr_04, n5_levels], ids=lambda write: write.__name__)
def test_images_are_read_over_http(tmp_path, served, write):
    source, keywords = write(tmp_path)
    if write is n5_levels:  # a plain web server lists nothing, so the dataset has to be said
        keywords = {"dataset": "group/c0/s0", "spacing": SPACING}
    volume = open_volume(f"{served}/{source.name}", **keywords)
    check_ramp(volume)


def test_a_converted_image_is_read_over_http_and_copied(tmp_path, served):
    convert(sampled(origin=ORIGIN), tmp_path / "a.ome.zarr", spacing=SPACING, origin=ORIGIN, **SMALL)
    check_ramp(convert(f"{served}/a.ome.zarr", tmp_path / "b.ome.zarr", **SMALL))


def test_a_server_without_byte_ranges_is_said_to_be_the_trouble(tmp_path):
    convert(sampled(), tmp_path / "a.ome.zarr", spacing=SPACING, **SMALL)
    with serving(tmp_path, _Whole) as url, pytest.raises(InputError, match="byte ranges"):
        volume = open_volume(f"{url}/a.ome.zarr")
        volume.read((0, 0, 0), volume.shape)


def test_what_is_not_there_is_named_over_http_too(served):
    with pytest.raises(InputError, match=r"nothing\.ome\.zarr"):
        open_volume(f"{served}/nothing.ome.zarr")


def test_a_missing_chunk_is_background_and_a_missing_level_is_left_out_and_told(tmp_path):
    """An absent chunk is legal Zarr (fill value); a level that was not copied along is not read, the first must be."""
    source, keywords = ome_zarr_04(tmp_path)
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{source}/s0/"}}
    assert ts.open(spec).result().shape == (2, 3, 17, 23, 31)
    (source / "s0" / "1.2.0.0.0").unlink()
    assert (open_volume(source, **keywords).read((0, 0, 0), (8, 8, 8)) == 0).all()
    (source / "s1" / ".zarray").unlink()
    volume = open_volume(source, **keywords)
    assert len(volume.levels) == 1 and "level s1 is not stored there" in volume.notes[0]
    (source / "s0" / ".zarray").unlink()
    with pytest.raises(InputError, match="level s0, s1 is not stored"):
        open_volume(source, **keywords)
