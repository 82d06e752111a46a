"""Codecs that tensorstore does not decode are read through zarr-python; what neither knows is named, not corrupt."""

from __future__ import annotations

import json
import logging
import pickle
import zipfile

import numcodecs
import numpy as np
import pytest
import zarr

from bigreg.errors import CorruptDataError, InputError
from bigreg.storage import open_array
from bigreg.storage.locations import open_kvstore
from bigreg.storage.second_reader import _tell
from bigreg.volumes import open_volume

DATA = (np.arange(9 * 12 * 15).reshape(9, 12, 15) % 251).astype("u2")


def write_v2(folder, *, compressor=None, filters=(), data=DATA, **more):
    """A Zarr v2 array of one chunk, byte for byte."""
    folder.mkdir(parents=True)
    content = data
    for codec in filters:
        content = codec.encode(content)
    content = np.asarray(content).tobytes() if compressor is None else bytes(compressor.encode(content))
    meta = {"zarr_format": 2, "shape": data.shape, "chunks": data.shape, "dtype": data.dtype.str, "order": "C"}
    meta |= {"compressor": compressor and compressor.get_config(), "fill_value": 0}
    meta |= {"filters": [codec.get_config() for codec in filters] or None}
    (folder / ".zarray").write_text(json.dumps(meta | more))
    (folder / ".".join("0" * data.ndim)).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "compressor",
    [numcodecs.Zstd(3), numcodecs.LZ4(), numcodecs.LZMA(), numcodecs.BZ2(), numcodecs.GZip()],
    ids=lambda c: c.codec_id,
)
def test_a_v2_compressor_is_decoded(tmp_path, compressor):
    array = open_array(str(write_v2(tmp_path / "a", compressor=compressor)))
    assert array.dtype == DATA.dtype and array.shape == DATA.shape
    np.testing.assert_array_equal(array.read((1, 2, 3), (8, 9, 10)), DATA[1:8, 2:9, 3:10])


@pytest.mark.parametrize(
    "filters",
    [[numcodecs.Delta("<u2")], [numcodecs.Shuffle(2)], [numcodecs.Zlib(1)], [numcodecs.Delta("<u2"), numcodecs.LZ4()]],
    ids=lambda f: "-".join(c.codec_id for c in f),
)
def test_v2_filters_are_undone(tmp_path, filters):
    array = open_array(str(write_v2(tmp_path / "a", filters=filters, compressor=numcodecs.Zlib(1))))
    np.testing.assert_array_equal(array[...], DATA)


def test_v2_metadata_of_other_writers_is_read(tmp_path):
    raw = write_v2(tmp_path / "raw", compressor=None)
    meta = json.loads((raw / ".zarray").read_text()) | {"compressor": {"type": "raw"}}
    (raw / ".zarray").write_text(json.dumps(meta))
    np.testing.assert_array_equal(open_array(str(raw))[...], DATA)
    mask = write_v2(tmp_path / "mask", data=DATA > 100)
    np.testing.assert_array_equal(open_array(str(mask))[...], DATA > 100)
    big = write_v2(tmp_path / "big", data=DATA.astype(">u2"), filters=[numcodecs.Shuffle(2)])
    found = open_array(str(big))[...]
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, DATA)


@pytest.mark.parametrize(
    "codec", [zarr.codecs.numcodecs.LZ4(), zarr.codecs.numcodecs.Zlib(), zarr.codecs.numcodecs.BZ2()]
)
def test_v3_codecs_of_numcodecs_are_decoded(tmp_path, codec):
    zarr.create_array(tmp_path / "a", shape=DATA.shape, chunks=(4, 4, 4), dtype="u2", compressors=codec)[:] = DATA
    array = open_array(str(tmp_path / "a"), constant=True)
    assert array.chunks == (4, 4, 4)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(array))[...], DATA)


def test_an_absent_chunk_holds_the_fill_value(tmp_path):
    folder = write_v2(tmp_path / "a", compressor=numcodecs.LZ4(), fill_value=7)
    (folder / "0.0.0").unlink()
    assert (open_array(str(folder))[...] == 7).all()


def test_that_the_slower_reader_reads_is_said_once(tmp_path, caplog):
    _tell.cache_clear()
    folder = write_v2(tmp_path / "a", compressor=numcodecs.LZ4())
    with caplog.at_level(logging.WARNING):
        open_array(str(folder))
        open_array(str(folder))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and "lz4" in said[0] and "zarr-python" in said[0]


def change(folder, name, **more):
    meta = json.loads((folder / name).read_text()) | more
    (folder / name).write_text(json.dumps(meta))
    return str(folder)


def test_a_codec_that_no_reader_knows_is_an_input_error_that_names_it(tmp_path):
    v2 = write_v2(tmp_path / "v2")
    filtered = write_v2(tmp_path / "f")
    zarr.create_array(tmp_path / "three", shape=DATA.shape, chunks=DATA.shape, dtype="u2", compressors=None)[:] = DATA
    n5 = {"dimensions": [4, 4, 4], "blockSize": [4, 4, 4], "dataType": "uint8", "compression": {"type": "lz4"}}
    (tmp_path / "n5").mkdir()
    (tmp_path / "n5/attributes.json").write_text(json.dumps(n5))
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "wavelets"}]
    cases = {
        change(v2, ".zarray", compressor={"id": "wavelets"}): "wavelets",
        change(filtered, ".zarray", filters=[{"id": "wavelets"}]): "wavelets",
        change(tmp_path / "three", "zarr.json", codecs=codecs): "wavelets",
        str(tmp_path / "n5"): "lz4",
    }
    for path, codec in cases.items():
        with pytest.raises(InputError, match=f"'{codec}' is not supported"):
            open_array(path)


def test_a_dtype_that_no_reader_knows_is_an_input_error_that_names_it(tmp_path):
    v2 = write_v2(tmp_path / "v2")
    with pytest.raises(InputError, match="quaternion"):
        open_array(change(v2, ".zarray", dtype="quaternion"))


def test_damage_is_still_called_damage(tmp_path):
    folder = write_v2(tmp_path / "a", compressor=numcodecs.LZMA())
    (folder / "0.0.0").write_bytes(b"no lzma at all")
    array = open_array(str(folder))
    with pytest.raises(CorruptDataError, match="chunk"):
        array.read((0, 0, 0), (2, 2, 2))
    with pytest.raises(CorruptDataError):
        open_array(change(write_v2(tmp_path / "b"), ".zarray", shape="many"))


@pytest.mark.parametrize("name", ["a.ozx", "a.ome.zarr.zip"])
def test_an_image_in_a_zip_archive_is_read_in_place(tmp_path, name):
    root = zarr.create_group(tmp_path / "a.ome.zarr", zarr_format=3)
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    steps = [{"type": "scale", "scale": [3.0, 1.5, 0.7]}]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    root.create_array("0", shape=DATA.shape, chunks=(4, 4, 4), dtype="u2")[:] = DATA
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        for file in sorted((tmp_path / "a.ome.zarr").rglob("*")):
            archive.write(file, file.relative_to(tmp_path / "a.ome.zarr"))
    volume = open_volume(tmp_path / name)
    assert volume.grid().spacing == (3.0, 1.5, 0.7)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(volume)).read((0, 0, 0), DATA.shape), DATA)


def test_a_zip_archive_of_a_folder_names_the_folder(tmp_path):
    write_v2(tmp_path / "image.zarr", compressor=numcodecs.LZ4())
    with zipfile.ZipFile(tmp_path / "b.zarr.zip", "w") as archive:
        for file in sorted((tmp_path / "image.zarr").rglob("*")):
            archive.write(file, file.relative_to(tmp_path))
    with pytest.raises(InputError, match="open_volume's dataset 'image.zarr'"):
        open_volume(tmp_path / "b.zarr.zip")
    volume = open_volume(tmp_path / "b.zarr.zip", dataset="image.zarr", spacing=(1, 1, 1))
    np.testing.assert_array_equal(volume.read((0, 0, 0), DATA.shape), DATA)


def test_other_places_are_read_by_the_second_reader_too(tmp_path):
    folder = write_v2(tmp_path / "a", compressor=numcodecs.LZ4())
    store = open_kvstore("memory://second/a")
    for file in folder.iterdir():
        store.write(file.name, file.read_bytes()).result()
    np.testing.assert_array_equal(open_array("memory://second/a")[...], DATA)
