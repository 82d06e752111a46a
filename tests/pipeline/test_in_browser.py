"""What `bigreg view --neuroglancer` serves: read by zarr-python, and looked at in neuroglancer itself."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

import nibabel
import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import Image
from PIL import Image as Picture
from typer.testing import CliRunner

from bigreg import open_volume
from bigreg.browser import BrowserLayer, Serving, layers_at, state_of
from bigreg.cli import app
from bigreg.errors import CorruptDataError
from bigreg.geometry import Grid
from bigreg.pipeline.looking.pyramids import Samples
from bigreg.volumes import convert

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless=new", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--no-first-run", "--window-size=900,700",
)  # fmt: skip
VOXEL = (10, 20, 30)
"""The bright one (z, y, x) of the phantom."""


def noise(shape=(40, 70, 80), bright=VOXEL) -> np.ndarray:
    data = np.random.default_rng(0).integers(100, 200, shape).astype("u2")
    data[bright] = 4000
    return data


def in_memory(data, grid, *, labels=False, read=None, **known) -> BrowserLayer:
    def box(start, stop):
        return data[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]

    samples = Samples(grid, data.dtype, read or box)
    return BrowserLayer("one", [samples], None if labels else (0.0, 1.0), **known)


def from_nibabel(path) -> tuple[float, float, float]:
    """An image of 3 x 2 x 4 mm voxels that lies askew, and where its bright voxel is, by nibabel: um, z y x."""
    data = noise()
    turn = np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.001, 0.002, 0.004])
    affine[:3, 3] = 0.1, -0.05, 0.2
    image = nibabel.Nifti1Image(data.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return tuple(nibabel.affines.apply_affine(affine, VOXEL[::-1])[::-1] * 1000)


def get(address, **headers):
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as answer:
        return answer.status, dict(answer.headers), answer.read()


def status_of(address) -> int:
    try:
        return get(address)[0]
    except urllib.error.HTTPError as error:
        return error.code


def placed(state, number, index) -> np.ndarray:
    """Where a state puts the centre of a voxel (z, y, x): um, x y z, as neuroglancer multiplies it out."""
    source = state["layers"][number]["source"]
    transform = (source[0] if isinstance(source, list) else source)["transform"]
    lengths = [n * step[0] for n, step in zip(index, transform["inputDimensions"].values(), strict=True)]
    unit = [step[0] for step in transform["outputDimensions"].values()]
    matrix = np.asarray(transform["matrix"])
    return (matrix[:, :3] @ lengths / unit + matrix[:, 3])[::-1]


def test_the_state_puts_a_voxel_where_nibabel_has_it(tmp_path):
    place = from_nibabel(tmp_path / "a.nii.gz")
    state = state_of(layers_at(str(tmp_path / "a.nii.gz")), ["http://127.0.0.1:1/a"])
    assert list(state["dimensions"]) == ["x", "y", "z"] and set(map(tuple, state["dimensions"].values())) == {
        (1e-6, "m")
    }
    assert list(state["layers"][0]["source"]["transform"]["outputDimensions"]) == ["z", "y", "x"]
    assert np.allclose(placed(state, 0, VOXEL), place[::-1], atol=1e-3)


def test_zarr_python_reads_all_levels_over_http_as_valid_ome_zarr(tmp_path):
    data = noise((70, 66, 131))
    convert(data, tmp_path / "a.ome.zarr", spacing=(4, 2, 1), levels=3, chunks=(16, 16, 16), shards=(32, 32, 32))
    layers = layers_at(str(tmp_path / "a.ome.zarr"))
    with Serving(layers, pytest.fail) as serving:
        group = zarr.open_group(serving.addresses[0], mode="r", zarr_format=3)
        Image.from_zarr(group)
        volume = open_volume(tmp_path / "a.ome.zarr")
        assert len(volume.levels) > 1
        for number, level in enumerate(volume.levels):
            assert np.array_equal(group[str(number)][...], volume.read((0, 0, 0), level.grid.shape, number))
            known = group.attrs["ome"]["multiscales"][0]["datasets"][number]["coordinateTransformations"]
            assert np.allclose(known[0]["scale"], level.grid.spacing)
            assert np.allclose(known[1]["translation"], np.subtract(level.grid.origin, volume.grid().origin))
        assert np.array_equal(group["0"][...], data)


@pytest.mark.parametrize(
    "dtype, labels, sent",
    [("f8", False, "float32"), ("?", False, "uint8"), (">u2", False, "uint16"), ("i8", False, "float32"),
     ("f2", False, "float32"), ("i8", True, "uint64"), ("u1", True, "uint32"), ("i4", True, "uint32")],
)  # fmt: skip
def test_types_that_webgl_lacks_are_sent_as_others_of_the_same_value(dtype, labels, sent):
    data = (np.arange(3 * 4 * 5).reshape(3, 4, 5) % 2).astype(dtype)
    with Serving([in_memory(data, Grid.from_spacing(data.shape, (1, 1, 1)), labels=labels)], pytest.fail) as serving:
        read = zarr.open_array(f"{serving.addresses[0]}/0", mode="r", zarr_format=3)
        assert read.dtype == sent and np.array_equal(read[...], data.astype(float))


def test_labels_below_zero_are_background_and_large_ones_stay():
    data = np.full((2, 2, 2), -1, "i8")
    data[0] = 2**62 + 1
    with Serving([in_memory(data, Grid.from_spacing(data.shape, (1, 1, 1)), labels=True)], pytest.fail) as serving:
        read = zarr.open_array(f"{serving.addresses[0]}/0", mode="r", zarr_format=3)[...]
    assert (read[0] == 2**62 + 1).all() and (read[1] == 0).all()


def test_only_who_has_the_address_is_answered_and_only_pages_of_the_viewer():
    data = noise()
    layer = in_memory(data, Grid.from_spacing(data.shape, (1, 1, 1)), names={7: "cortex"})
    with Serving([layer], pytest.fail, origin="http://127.0.0.1:5") as serving:
        address = serving.addresses[0]
        host, secret = address.split("/")[2:4]
        assert host.startswith("127.0.0.1:") and len(secret) >= 32
        assert get(f"{address}/zarr.json", Origin="http://evil.example")[1]["Access-Control-Allow-Origin"] == (
            "http://127.0.0.1:5"
        )
        assert json.loads(get(f"{address}/regions/info")[2])["inline"]["properties"][0]["values"] == ["cortex"]
        wrong = address.replace(secret, "x" * len(secret))
        absent = ("", "0/c/0/0/9", "0/c/0/0", "1/zarr.json", "0/c/-1/0/0", "../../etc/passwd")
        assert [status_of(f"{wrong}/zarr.json"), *(status_of(f"{address}/{place}") for place in absent)] == [404] * 7


def test_a_chunk_that_cannot_be_read_is_an_error_that_is_told_once():
    def read(start, stop):
        raise CorruptDataError("'a.tif' is damaged")

    told = []
    data = noise()
    with Serving([in_memory(data, Grid.from_spacing(data.shape, (1, 1, 1)), read=read)], told.append) as serving:
        assert [status_of(f"{serving.addresses[0]}/0/c/0/0/{n}") for n in (0, 1)] == [500, 500]
    assert told == ["'a.tif' is damaged"]


def test_a_run_shows_fixed_and_warped_in_the_fixed_world(registered):
    layers = layers_at(registered.run.url)
    assert [layer.name for layer in layers] == ["fixed", "warped"] and not any(layer.labels for layer in layers)
    state = state_of(layers, ["http://127.0.0.1:1/a"] * 2)
    for number, which in enumerate(("fixed", "warped")):
        grid = registered.run.pyramid(which)[0].grid
        assert np.allclose(placed(state, number, (3, 4, 5)), grid.index_to_world(np.array([[3, 4, 5]]))[0][::-1])
        low, high = layers[number].range
        assert low < high and f"[{low:.9g}, {high:.9g}]" in state["layers"][number]["shader"]


def test_the_verb_prints_address_and_state_serves_until_ctrl_c_and_ends_well(registered):
    pytest.importorskip("neuroglancer", reason="needs bigreg[neuroglancer]")
    command = [sys.executable, "-m", "bigreg", "view", registered.run.url, "--neuroglancer"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        text = ""
        while not text.endswith("\n}\n"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            text += line
        told = json.loads(text)
        assert told["url"].startswith("http://127.0.0.1:") and b"neuroglancer" in get(told["url"])[2].lower()
        for layer in told["state"]["layers"]:
            address = layer["source"]["url"].removeprefix("zarr3://")
            assert address.startswith("http://127.0.0.1:")
            assert zarr.open_group(address, mode="r", zarr_format=3)["0"].shape == (40, 56, 64)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and rest == "" and f"open {told['url']}" in errors and "Traceback" not in errors


def test_the_verb_says_what_is_missing_or_wrong(registered, tmp_path, monkeypatch):
    def view(*arguments):
        done = CliRunner().invoke(app, ["view", *map(str, arguments), "--neuroglancer"])
        return done.exit_code, " ".join(done.output.split())

    assert view(tmp_path / "no.zarr")[0] == 3
    (tmp_path / "text.txt").write_text("x")
    status, output = view(tmp_path / "text.txt")
    assert status == 3 and "nor an image" in output
    assert view(registered.run.url, "--panel", "inspect")[0] == 2
    monkeypatch.setitem(sys.modules, "neuroglancer", None)
    status, output = view(registered.run.url)
    assert status == 4 and "pip install 'bigreg[neuroglancer]'" in output


@contextmanager
def seen(layers, profile):
    """Neuroglancer in Chromium on some layers; gives a function from changes of the state to a picture (y, x, 3)."""
    neuroglancer = pytest.importorskip("neuroglancer", reason="needs bigreg[neuroglancer]")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt install chromium")

    viewer = neuroglancer.Viewer()
    page = viewer.get_viewer_url()
    with Serving(layers, pytest.fail, origin=page.partition("/v/")[0]) as serving:
        state = state_of(layers, serving.addresses)

        def picture(**changes):
            viewer.set_state({**state, "layout": "xy", **changes})
            shot = viewer.screenshot(size=[400, 300]).screenshot.image
            return np.asarray(Picture.open(io.BytesIO(shot)).convert("RGB")).astype(int)

        viewer.set_state(state)
        process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", page],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield picture
        finally:
            process.terminate()
            process.wait(30)


HIDDEN = {"showAxisLines": False, "showScaleBar": False, "showDefaultAnnotations": False}


def test_neuroglancer_shows_the_bright_voxel_at_its_place_and_of_its_size(tmp_path):
    place = np.asarray(from_nibabel(tmp_path / "a.nii.gz"))[::-1]  # x y z
    data = noise()
    layer = layers_at(str(tmp_path / "a.nii.gz"))[0]
    assert layer.levels[0].grid.shape == data.shape and not layer.levels[0].grid.is_axis_aligned
    with seen([layer], tmp_path / "profile") as picture:

        def middle(move=(0, 0, 0)):
            position = (place + move).tolist()
            shown = picture(position=position, crossSectionScale=0.02, **HIDDEN)
            return shown[148:152, 198:202].min() > 240

        assert middle()
        for axis, half in enumerate((0.5, 1.0, 2.0)):  # half a voxel of 1 x 2 x 4 um
            for sign in (-1, 1):
                along = layer.levels[0].grid.affine[:3, 2 - axis][::-1]
                step = sign * along / np.linalg.norm(along)
                assert middle(0.8 * half * step) and not middle(1.2 * half * step), (axis, sign)


def test_neuroglancer_shows_warped_over_fixed_and_labels_in_colour(registered, tmp_path):
    fixed = registered.run.pyramid("fixed")[0]
    labels = np.zeros(fixed.grid.shape, "i8")
    labels[:, :, : labels.shape[2] // 2] = 312782574
    layers = layers_at(registered.run.url)
    third = in_memory(labels, fixed.grid, labels=True, names={312782574: "left"})
    with seen([*layers, third], tmp_path / "profile") as picture:
        shown = picture(crossSectionScale=0.2, **HIDDEN)
    left, right = (part.reshape(-1, 3).mean(0) for part in (shown[:, 60:190], shown[:, 210:340]))
    assert right.min() > 15  # red and blue are of fixed, green is of warped
    assert (left - right)[0] > (left - right)[1] + 20  # the one label is red on the left, where its half is
