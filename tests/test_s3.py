"""Object stores: everything that is done with files is done with objects; errors say what to do."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from bigreg import storage
from bigreg.errors import CorruptDataError, InputError, OutputError
from bigreg.storage import retry
from bigreg.volumes import convert, open_volume

SHAPE = (17, 23, 31)
DATA = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype("uint16")
SMALL = {"chunks": (8, 8, 8), "shards": (16, 16, 16)}


@pytest.fixture
def place(s3, request):
    """A folder of its own for each test, with a name that has to be quoted."""
    return f"s3://bucket/{request.node.name} + a/b"


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.01)


@pytest.mark.parametrize("shards", [None, (16, 16, 16)])
def test_an_array_is_written_opened_and_read(place, shards):
    url, kind = storage.join(place, "x.zarr"), {"shape": SHAPE, "dtype": "u2", "chunks": (8, 8, 8), "shards": shards}
    array = storage.create_array(url, dimension_names="zyx", attributes={"k": [1]}, **kind)
    array.write((0, 0, 0), DATA)
    again = storage.open_array(url)
    assert np.array_equal(again[...], DATA) and again.attributes == {"k": [1]}
    assert (again.chunks, again.shards) == ((8, 8, 8), shards)
    assert np.array_equal(pickle.loads(pickle.dumps(again))[3:9], DATA[3:9])
    assert np.array_equal(storage.create_array(url, exist_ok=True, **kind)[...], DATA)
    with pytest.raises(OutputError, match="exists already"):
        storage.create_array(url, **kind)


def test_groups_attributes_children_and_removal(place):
    assert not storage.exists(place) and storage.children(place) == []
    storage.create_group(place, {"a": 1})
    assert storage.exists(place) and storage.read_attributes(place) == {"a": 1}
    storage.write_attributes(place, {"b": {"c": None}})
    assert storage.read_attributes(place) == {"b": {"c": None}}
    for name in ("x", "y"):
        storage.create_array(storage.join(place, "in", name), shape=(2,), dtype="u1", chunks=(1,)).write((0,), [1, 2])
    # A listing is never one that was kept from before.
    assert storage.children(place) == ["in", "zarr.json"] and storage.children(storage.join(place, "in")) == ["x", "y"]
    assert storage.exists(storage.join(place, "in")) and storage.exists(storage.join(place, "in/x/c/0"))
    assert not storage.exists(storage.join(place, "i"))
    storage.remove(storage.join(place, "in/x"))
    assert storage.children(storage.join(place, "in")) == ["y"]
    assert storage.exists("s3://bucket")
    storage.remove(place)
    assert not storage.exists(place) and storage.children(place) == []


def test_attributes_are_replaced_in_one_request(place, s3):
    storage.create_group(place, {"a": 1})
    s3.requests.clear()
    storage.write_attributes(place, {"b": 2})
    assert [method for method, _ in s3.requests if method not in ("GET", "HEAD")] == ["PUT"]


def test_an_image_is_converted_to_and_from_objects(place, tmp_path):
    image = convert(DATA, f"{place}/i.ome.zarr", spacing=(3, 2, 2), **SMALL)
    assert image.spec.path == f"{place}/i.ome.zarr" and np.array_equal(image.read((0, 0, 0), SHAPE), DATA)
    back = convert(f"{place}/i.ome.zarr", tmp_path / "i.ome.zarr", **SMALL)
    assert np.array_equal(back.read((0, 0, 0), SHAPE), DATA) and back.grid() == image.grid()
    with pytest.raises(OutputError, match="exists already"):
        convert(DATA, f"{place}/i.ome.zarr", spacing=(3, 2, 2))


def test_an_object_that_is_one_file_is_an_image_too(place, tmp_path):
    tifffile.imwrite(tmp_path / "i.tif", DATA)
    storage.write_file(place, "i.tif", (tmp_path / "i.tif").read_bytes())
    assert np.array_equal(open_volume(f"{place}/i.tif", spacing=(1, 1, 1)).read((0, 0, 0), SHAPE), DATA)


PUBLIC = """
import sys
from bigreg import storage
from bigreg.errors import InputError
assert storage.open_array(sys.argv[1])[...].tolist() == [1, 2]
assert storage.children(sys.argv[1].rpartition("/")[0]) == ["a"]
try:
    storage.find_node("s3://bucket/private")
except InputError as error:
    print(error)
"""


def test_a_public_bucket_needs_no_credentials_and_a_private_one_says_so(s3, monkeypatch):
    import boto3

    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="public", ACL="public-read")
    storage.create_array("s3://public/in/a", shape=(2,), dtype="u1", chunks=(2,)).write((0,), [1, 2])
    for key in ("in/a/zarr.json", "in/a/c/0"):
        client.put_object_acl(Bucket="public", Key=key, ACL="public-read")
    storage.create_group("s3://bucket/private")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("PYTHONPATH", str(Path(storage.__file__).parents[2]))
    command = [sys.executable, "-c", PUBLIC, "s3://public/in/a"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "s3://bucket/private" in done.stdout and "permission denied (HTTP 403); check" in done.stdout


SIGNED = """
from bigreg import storage
storage.find_node("s3://bucket/a")
storage.children("s3://bucket/a")
"""


@pytest.mark.parametrize("profile", [None, "lab"])
def test_credentials_are_found_in_the_files_of_the_aws_tools(s3, monkeypatch, tmp_path, profile):
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = KEYdefault\naws_secret_access_key = x\n"
        "[lab]\naws_access_key_id = KEYlab\naws_secret_access_key = x\n"
    )
    (tmp_path / "config").write_text("[default]\nregion = us-east-1\n[profile lab]\nregion = us-east-1\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    if profile:
        monkeypatch.setenv("AWS_PROFILE", profile)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("PYTHONPATH", str(Path(storage.__file__).parents[2]))
    subprocess.run([sys.executable, "-c", SIGNED], check=True, capture_output=True, timeout=100)
    assert s3.keys == {f"KEY{profile or 'default'}"}


def test_places_that_are_not_there_are_named(s3):
    with pytest.raises(InputError, match="s3://bucket/nothing' is not an array: nothing is stored there"):
        storage.open_array("s3://bucket/nothing")
    with pytest.raises(InputError, match="s3://nobucket/a"):
        storage.open_array("s3://nobucket/a")
    with pytest.raises(OutputError, match="s3://nobucket/a.*choose another output"):
        storage.create_group("s3://nobucket/a")


def test_a_damaged_object_is_named(place):
    array = storage.create_array(place, shape=SHAPE, dtype="uint16", chunks=(8, 8, 8), shards=(8, 16, 16))
    array.write((0, 0, 0), DATA)
    files, path = storage.filesystem(f"{place}/c/1/0/1")
    files.pipe_file(path, files.cat_file(path)[:-9])
    with pytest.raises(CorruptDataError, match=r"voxels \(8, ") as caught:
        array.read((0, 0, 0), SHAPE)
    assert caught.value.url == place and caught.value.box[0][0] == 8
    assert pickle.loads(pickle.dumps(caught.value)).box == caught.value.box


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_server_that_is_too_busy_for_a_while_is_waited_for(place, s3, hasty, caplog, method):
    array = storage.create_array(place, shape=(4,), dtype="u1", chunks=(2,))
    refused = []

    def busy(came: str, path: str) -> bool:
        if came == method and path.endswith("/c/0") and len(refused) < 5:  # more than tensorstore itself repeats
            refused.append(path)
            return True
        return False

    s3.refuse = busy
    with caplog.at_level(logging.WARNING, logger="bigreg"):
        array.write((0,), [1, 2, 3, 4])
        assert array[:].tolist() == [1, 2, 3, 4]
    assert len(refused) == 5
    assert place in caplog.text and "try 2 of" in caplog.text and "known-to" not in caplog.text


def test_a_server_that_stays_too_busy_is_an_error_that_says_how_often(place, s3, hasty, monkeypatch):
    monkeypatch.setattr(retry, "TRIES", 2)
    array = storage.create_array(place, shape=(4,), dtype="u1", chunks=(2,))
    array.write((0,), [1, 2, 3, 4])
    s3.refuse = lambda method, path: path.endswith("/c/0")
    with pytest.raises(InputError, match=r"cannot be read.*tried 2 times.*check address"):
        array.read((0,), (2,))
    with pytest.raises(OutputError, match=r"cannot be written.*tried 2 times"):
        array.write((0,), [4, 3, 2, 1])
    s3.refuse = None
    assert array.read((0,), (2,)).tolist() == [1, 2]
