"""The storage layer: what is written is read, by us and by zarr; nothing is half written; errors say what to do."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import zarr

from bigreg import storage
from bigreg.errors import CorruptDataError, InputError, OutputError

SHAPE = (17, 23, 31)


def ramp(shape=SHAPE, dtype="uint16") -> np.ndarray:
    return np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int16", "uint16", "uint32", "int64", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("shards", [None, (16, 16, 16)])
def test_an_array_reads_back_and_zarr_reads_the_same(tmp_path, dtype, shards):
    url = str(tmp_path / "a.zarr")
    data = ramp(dtype=dtype)
    array = storage.create_array(
        url, shape=SHAPE, dtype=dtype, chunks=(8, 8, 8), shards=shards, dimension_names="zyx", attributes={"k": [1]}
    )
    array.write((0, 0, 0), data)
    assert np.array_equal(storage.open_array(url).read((0, 0, 0), SHAPE), data)
    peer = zarr.open_array(url, mode="r")
    assert np.array_equal(peer[:], data)
    assert peer.shards == shards and peer.chunks == (8, 8, 8)
    assert dict(peer.attrs) == {"k": [1]} == array.attributes


@pytest.mark.parametrize("fill", [np.nan, np.inf, 3.5])
def test_what_is_not_written_is_the_fill_value(tmp_path, fill):
    array = storage.create_array(str(tmp_path / "a"), shape=(3,), dtype="float32", chunks=(2,), fill_value=fill)
    assert np.array_equal(array[:], np.full(3, fill, "float32"), equal_nan=True)


def test_slicing_is_numpy_slicing(tmp_path):
    array = storage.create_array(str(tmp_path / "a"), shape=SHAPE, dtype="uint16", chunks=(8, 8, 8))
    data = ramp()
    array.write((0, 0, 0), data)
    for key in [np.s_[:], np.s_[3], np.s_[-1, ..., 2], np.s_[2:5, :, 30:99], np.s_[..., 1:-1], np.s_[5:2]]:
        assert np.array_equal(array[key], data[key])
    with pytest.raises(IndexError, match="step 1"):
        array[::2]
    with pytest.raises(IndexError, match="index 17"):
        array[17]


def test_zarr_v2_of_any_byte_and_axis_order_is_read(tmp_path):
    data = ramp()
    for name, dtype, order in (("a", "<u2", "C"), ("b", ">u2", "F")):
        peer = zarr.create_array(
            str(tmp_path / name), shape=SHAPE, chunks=(8, 8, 8), dtype=dtype, order=order, zarr_format=2
        )
        peer[:] = data
        peer.attrs["unit"] = "um"
        array = storage.open_array(str(tmp_path / name))
        assert np.array_equal(array[:], data) and array[:].dtype.isnative and array[:].flags.c_contiguous
        assert array.attributes == {"unit": "um"}


def test_n5_axes_come_out_reversed(tmp_path):
    metadata = {
        "dimensions": [31, 23, 17],
        "blockSize": [8, 9, 10],
        "dataType": "uint16",
        "compression": {"type": "gzip"},
    }
    store = ts.open(
        {"driver": "n5", "kvstore": f"file://{tmp_path}/n5/s0/", "metadata": metadata}, create=True
    ).result()
    store[...] = ramp().T
    array = storage.open_array(str(tmp_path / "n5" / "s0"))
    assert array.shape == SHAPE and array.chunks == (10, 9, 8) and array.shards is None
    assert np.array_equal(array.read((1, 2, 3), SHAPE), ramp()[1:, 2:, 3:])


def test_a_write_must_cover_whole_shards(tmp_path):
    array = storage.create_array(str(tmp_path / "a"), shape=SHAPE, dtype="uint16", chunks=(4, 4, 4), shards=(8, 8, 8))
    array.write((8, 16, 24), ramp()[8:16, 16:23, 24:31])  # clipped by the array's end: whole
    with pytest.raises(ValueError, match="write whole shards"):
        array.write((0, 0, 0), ramp()[:4, :8, :8])
    array.write((0, 0, 0), ramp()[:4, :8, :8], partial=True)
    assert np.array_equal(array[:4, :8, :8], ramp()[:4, :8, :8])
    with pytest.raises(ValueError, match="outside"):
        array.write((16, 16, 24), ramp()[:8, :8, :8])


def test_threads_that_write_whole_shards_lose_nothing(tmp_path):
    array = storage.create_array(str(tmp_path / "a"), shape=(64, 64), dtype="uint32", chunks=(4, 4), shards=(16, 16))
    data = ramp((64, 64), "uint32")
    boxes = [(i, j) for i in range(0, 64, 16) for j in range(0, 64, 16)]
    threads = [
        threading.Thread(target=lambda b=b: array.write(b, data[b[0] : b[0] + 16, b[1] : b[1] + 16])) for b in boxes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(array[:], data)


def test_an_array_survives_a_pickle_and_another_process(tmp_path):
    url = str(tmp_path / "a.zarr")
    array = storage.create_array(url, shape=SHAPE, dtype="uint16", chunks=(8, 8, 8))
    array.write((0, 0, 0), ramp())
    again = pickle.loads(pickle.dumps(array))
    assert np.array_equal(again[:], ramp())
    again.write((0, 0, 0), ramp())
    code = "import pickle, sys; print(int(pickle.loads(bytes.fromhex(sys.argv[1]))[:].sum()))"
    out = subprocess.run(
        [sys.executable, "-c", code, pickle.dumps(array).hex()],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(storage.__file__).parents[2])},
    )
    assert int(out.stdout) == int(ramp().astype(int).sum())


def test_shards_that_four_processes_write_at_once_are_read_back_exactly(tmp_path):
    url = str(tmp_path / "a.zarr")
    storage.create_array(url, shape=(100, 90, 110), dtype="uint32", chunks=(8, 8, 8), shards=(32, 32, 32))
    code = (
        "import sys, itertools, numpy as np\nfrom bigreg import storage\n"
        "a = storage.open_array(sys.argv[1], write=True)\n"
        "whole = np.arange(np.prod(a.shape), dtype='uint32').reshape(a.shape)\n"
        "sys.stdin.readline()\n"  # so that all begin together
        "tiles = itertools.product(*(range(0, n, 32) for n in a.shape))\n"
        "for number, start in enumerate(tiles):\n"
        "    if number % 4 == int(sys.argv[2]):\n"
        "        a.write(start, whole[tuple(slice(s, s + 32) for s in start)])"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(storage.__file__).parents[2])}
    writers = [
        subprocess.Popen([sys.executable, "-c", code, url, str(k)], env=env, stdin=-1, text=True) for k in range(4)
    ]
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    assert [writer.wait() for writer in writers] == [0] * 4
    array = storage.open_array(url)
    assert np.array_equal(array[:], np.arange(array[:].size, dtype="uint32").reshape(array.shape))


def test_a_reader_never_sees_half_a_chunk(tmp_path):
    """A writer in another process rewrites one chunk as fast as it can; every read is all of one version."""
    url = str(tmp_path / "a.zarr")
    storage.create_array(url, shape=(128, 128), dtype="uint32", chunks=(128, 128), codec="none")
    code = (
        "import sys, numpy as np\nfrom bigreg import storage\na = storage.open_array(sys.argv[1], write=True)\n"
        "for i in range(1, 400): a.write((0, 0), np.full((128, 128), i, 'uint32'))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(storage.__file__).parents[2])}
    writer = subprocess.Popen([sys.executable, "-c", code, url], env=env)
    array, seen = storage.open_array(url), set()
    while writer.poll() is None:
        values = np.unique(array[:])
        assert len(values) == 1
        seen.add(int(values[0]))
    assert writer.returncode == 0 and len(seen) > 3
    assert sorted(os.listdir(tmp_path / "a.zarr" / "c" / "0")) == ["0"]


def test_groups_and_attributes(tmp_path):
    url = str(tmp_path / "g.zarr")
    assert not storage.exists(url)
    storage.create_group(url, {"a": 1})
    assert storage.exists(url) and storage.read_attributes(url) == {"a": 1}
    storage.create_group(url, exist_ok=True)
    assert storage.read_attributes(url) == {"a": 1}
    with pytest.raises(OutputError, match="exists already"):
        storage.create_group(url)
    storage.write_attributes(url, {"b": {"c": None}})
    assert dict(zarr.open_group(url, mode="r").attrs) == {"b": {"c": None}}
    storage.create_array(storage.join(url, "x", "y"), shape=(2,), dtype="f4", chunks=(2,))
    storage.write_attributes(storage.join(url, "x/y"), {"d": 2})
    assert storage.open_array(storage.join(url, "x/y")).attributes == {"d": 2}
    assert storage.children(url) == ["x", "zarr.json"]
    with pytest.raises(InputError, match="not a Zarr or N5"):
        storage.read_attributes(str(tmp_path / "nothing"))


def test_memory_locations_outlive_a_change_of_concurrency():
    url = "memory://test-storage/a.zarr"
    array = storage.create_array(url, shape=(4,), dtype="uint8", chunks=(2,))
    array.write((0,), np.arange(4))
    storage.configure(copies=1, transfers=1, cache_bytes=1000)
    try:
        assert storage.open_array(url)[:].tolist() == [0, 1, 2, 3]
        assert storage.exists(url) and not storage.exists(url + "x")
        assert storage.children("memory://test-storage") == ["a.zarr"]
    finally:
        storage.configure()


def test_file_urls_name_local_paths(tmp_path):
    folder = tmp_path / "a b"
    storage.create_group(folder.as_uri() + "/g.zarr")
    assert (folder / "g.zarr" / "zarr.json").exists()
    assert storage.join("s3://bucket/a/", "b", "", "/c") == "s3://bucket/a/b/c"
    with pytest.raises(InputError, match="unknown scheme 'ftp'"):
        storage.exists("ftp://a/b")


def test_an_existing_array_is_opened_only_if_it_is_the_same(tmp_path):
    url, same = str(tmp_path / "a"), {"shape": (4, 4), "dtype": "u1", "chunks": (2, 2)}
    storage.create_array(url, **same).write((0, 0), np.ones((4, 4), "u1"))
    assert storage.create_array(url, **same, exist_ok=True)[:].all()
    with pytest.raises(OutputError, match="exists already"):
        storage.create_array(url, **same)
    for change in ({"shape": (5, 4)}, {"dtype": "u2"}, {"chunks": (4, 4)}, {"shards": (4, 4)}):
        with pytest.raises(OutputError, match="other contents"):
            storage.create_array(url, **{**same, **change}, exist_ok=True)
    finer = storage.create_array(url, **{**same, "chunks": (1, 2)}, shards=(2, 2), codec="lz4", exist_ok=True)
    assert finer[:].all() and finer.chunks == (
        2,
        2,
    )  # of an earlier version, which cut otherwise what is written at once
    with pytest.raises(ValueError, match="multiple of chunks"):
        storage.create_array(str(tmp_path / "b"), shape=(4,), dtype="u1", chunks=(2,), shards=(3,))


@pytest.mark.parametrize("shards", [None, (8, 16, 16)])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_chunk_is_named(tmp_path, shards, damage):
    url = str(tmp_path / "a.zarr")
    array = storage.create_array(url, shape=SHAPE, dtype="uint16", chunks=(8, 8, 8), shards=shards)
    array.write((0, 0, 0), ramp())
    index = (1, 1, 2) if shards is None else (1, 0, 1)
    file = tmp_path / "a.zarr" / "c" / "/".join(map(str, index))
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 255
    file.write_bytes({"flip": bytes(data), "cut": bytes(data[:-9]), "empty": b""}[damage])
    with pytest.raises(CorruptDataError) as caught:
        array.read((0, 0, 0), SHAPE)
    assert url in str(caught.value) and "voxels (8, " in str(caught.value) and "restore" in str(caught.value)
    assert np.array_equal(array.read((0, 0, 0), (8, 23, 31)), ramp()[:8])


@pytest.mark.parametrize("shards", [None, (8, 16, 16)])
def test_whole_shards_are_written_over_damaged_ones(tmp_path, shards):
    url = str(tmp_path / "a.zarr")
    array = storage.create_array(url, shape=SHAPE, dtype="uint16", chunks=(8, 8, 8), shards=shards)
    array.write((0, 0, 0), ramp())
    for file in (tmp_path / "a.zarr" / "c").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:9])
    array.write((0, 0, 0), ramp() + 1)
    assert np.array_equal(array[...], ramp() + 1)


def test_damaged_metadata_is_named(tmp_path):
    storage.create_array(str(tmp_path / "a"), shape=(4,), dtype="u1", chunks=(2,))
    (tmp_path / "a" / "zarr.json").write_text('{"zarr_format": 3,')
    with pytest.raises(CorruptDataError, match="zarr.json"):
        storage.open_array(str(tmp_path / "a"))
    (tmp_path / "a" / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "array"}))
    with pytest.raises((CorruptDataError, InputError), match="/a'"):
        storage.open_array(str(tmp_path / "a"))


def test_no_array_says_what_is_there(tmp_path):
    with pytest.raises(InputError, match="nothing is stored there"):
        storage.open_array(str(tmp_path / "a"))
    storage.create_group(str(tmp_path / "g"))
    with pytest.raises(InputError, match="a group is stored there"):
        storage.open_array(str(tmp_path / "g"))


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file.*cannot be written.*another output"):
        storage.create_group(str(tmp_path / "file" / "g.zarr"))
    with pytest.raises(OutputError, match="cannot be written"):
        storage.create_array(str(tmp_path / "file" / "a"), shape=(2,), dtype="u1", chunks=(2,))


def mounted(folder: Path, options: str) -> bool:
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_and_a_read_only_disk_are_output_errors(tmp_path):
    if not mounted(tmp_path, "size=1m"):
        pytest.skip("no permission to mount a small disk")
    try:
        array = storage.create_array(
            str(tmp_path / "a"), shape=(1 << 20,), dtype="float64", chunks=(1 << 20,), codec="none"
        )
        with pytest.raises(OutputError, match="No space left.*free some space"):
            array.write((0,), np.random.default_rng(0).random(1 << 20))
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        with pytest.raises(OutputError, match="Read-only.*make the place writable"):
            array.write((0,), np.ones(1 << 20))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.fixture
def cache():
    storage.configure(cache_bytes=2**24)
    yield
    storage.configure()


def reads() -> int:
    """Files or parts of files that this process has read so far."""
    name = "/tensorstore/kvstore/file/read"
    found = [m for m in ts.experimental_collect_matching_metrics(name) if m["name"] == name]
    return found[0]["values"][0]["value"] if found else 0


@pytest.mark.parametrize("shards", [None, (32, 32, 32)])
def test_overlapping_boxes_of_a_constant_array_read_each_chunk_once(tmp_path, cache, shards):
    url, shape = str(tmp_path / "a"), (32, 64, 64)
    data = ramp(shape)
    storage.create_array(url, shape=shape, dtype="uint16", chunks=(16, 16, 16), shards=shards).write((0, 0, 0), data)

    def count(constant: bool) -> int:
        array, before = storage.open_array(url, constant=constant), reads()
        for y in range(0, 48, 8):
            assert np.array_equal(array.read((4, y, 8), (30, y + 16, 60)), data[4:30, y : y + 16, 8:60])
        return reads() - before

    chunks = 2 * 4 * 4
    assert count(True) <= chunks + 4  # and the index of each shard
    assert count(False) > 1.5 * chunks


def test_the_cache_never_shows_what_is_no_longer_so(tmp_path, cache):
    url = str(tmp_path / "a")
    writer = storage.create_array(url, shape=(8,), dtype="uint16", chunks=(4,))
    reader, early = storage.open_array(url), storage.open_array(url, constant=True)
    assert not early[:].any()  # chunks that are not there yet are kept as such
    for value in (1, 2):
        writer.write((0,), np.full(8, value))
        assert (reader[:] == value).all() and (writer[:] == value).all()
        assert (storage.open_array(url, constant=True)[:] == value).all()
        assert (pickle.loads(pickle.dumps(early))[:] == value).all()


def test_a_passing_error_is_tried_again_and_a_lasting_one_is_not(tmp_path, monkeypatch, caplog):
    from bigreg.storage import retry

    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
    array = storage.create_array(str(tmp_path / "a"), shape=(2,), dtype="u1", chunks=(2,))
    load, calls = storage.Array._load, []

    def fail(message: str, times: int):
        def broken(self, start, stop):
            calls.append(start)
            if len(calls) <= times:
                raise ValueError(message)
            return load(self, start, stop)

        calls.clear()
        monkeypatch.setattr(storage.Array, "_load", broken)

    for message in (
        "UNKNOWN: Error reading local file \"a\": Input/output error [os_error_code='5']",
        "ABORTED: Error reading local file \"a\": Stale file handle [os_error_code='116']",
        "DEADLINE_EXCEEDED: Error reading local file \"a\": Connection timed out [os_error_code='110']",
        "UNAVAILABLE: Error reading local file \"a\": Connection reset by peer [os_error_code='104']",
    ):
        fail(message, 3)
        assert array[:].tolist() == [0, 0] and len(calls) == 4
    assert f"{tmp_path}/a" in caplog.text and f"try 4 of {retry.TRIES} follows" in caplog.text
    fail("UNKNOWN: Input/output error [os_error_code='5']", 10**6)
    with pytest.raises(
        InputError, match=rf"/a' cannot be read: Input/output error \(tried {retry.TRIES} times\); check"
    ):
        array[:]
    assert len(calls) == retry.TRIES
    for message, kind in (
        ("PERMISSION_DENIED: Permission denied [os_error_code='13']", InputError),
        ("NOT_FOUND: nothing there", CorruptDataError),
        ("DATA_LOSS: checksum", CorruptDataError),
    ):
        fail(message, 10**6)
        with pytest.raises(kind):
            array[:]
        assert len(calls) <= 2  # once, and once more to find the chunk
