"""Images and runs that are not files: the same bits as with files, and everything that is done with a run."""

from __future__ import annotations

import numpy as np
import pytest

from bigreg import open_run, register, storage
from bigreg.volumes import convert

from ..volumes.test_convert import _Ranges, serving


class Stop(Exception):
    pass


class StopsAt:
    """Ends a run when the first block of a stage is done."""

    def __init__(self, name: str) -> None:
        self.name = name

    def plan(self, stages):
        pass

    def stage(self, name, title, blocks, done):
        pass

    def block(self, name, status, index):
        if name == self.name:
            raise Stop

    def finish(self, name):
        pass


@pytest.mark.slow
def test_a_run_on_an_object_store_ends_with_the_bits_of_a_local_one(
    registered, small_config, same_bits, thread_client, s3, tmp_path
):
    where = "s3://bucket/study 1"
    images = [f"{where}/{which}.ome.zarr" for which in ("fixed", "moving")]
    for url, (data, spacing) in zip(images, (registered.fixed, registered.moving), strict=True):
        convert(data, url, spacing=spacing)
    arguments = {"out": f"{where}/run.zarr", "config": small_config(), "client": thread_client}
    with pytest.raises(Stop):
        register(*images, progress=StopsAt("levels/0"), **arguments)
    assert open_run(f"{where}/run.zarr").status().state == "incomplete"
    run = register(*images, **arguments)
    assert run.status().state == "finished" and run.status().done == run.status().blocks
    assert same_bits(run, registered.run)

    points = np.array([[60.0, 50.0, 70.0], [1e6, 0.0, 0.0]])
    assert np.array_equal(run.map_points(points), registered.run.map_points(points), equal_nan=True)
    assert set(run.metrics()) == set(registered.run.metrics())
    warped = run.warp(images[1], out=f"{where}/warped.ome.zarr")
    known = registered.run.warp(registered.moving, out=str(tmp_path / "warped.ome.zarr"))
    assert np.array_equal(warped.read((0, 0, 0), warped.shape), known.read((0, 0, 0), known.shape))
    page = run.report()
    assert page == f"{where}/run.zarr/report/index.html" and storage.exists(page)

    files, path = storage.filesystem(where)
    stored = [name for name in files.find(path) if name.endswith((".json", ".html"))]
    assert len(stored) > 50 and not any(b"known-to" in files.cat_file(name) for name in stored)


@pytest.mark.slow
def test_images_behind_http_give_the_bits_of_local_ones(registered, small_config, same_bits, thread_client, tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    for which, (data, spacing) in (("fixed", registered.fixed), ("moving", registered.moving)):
        convert(data, folder / f"{which}.ome.zarr", spacing=spacing)
    with serving(folder, _Ranges) as url:
        images = [f"{url}/{which}.ome.zarr" for which in ("fixed", "moving")]
        run = register(*images, out=str(tmp_path / "run.zarr"), config=small_config(), client=thread_client)
    assert same_bits(run, registered.run)
