"""A run whose jobs wait in a queue: it says so, and stops when it is asked to."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from bigreg import load_config, open_run, register
from bigreg.display import status_table
from bigreg.errors import StoppedError
from bigreg.pipeline import run as running


def test_a_run_stops_while_its_jobs_wait_and_says_that_they_do(pair, tmp_path, monkeypatch):
    seen = []

    @contextmanager
    def queued(settings, stopped):
        """A batch system that never starts a job."""
        run = open_run(str(tmp_path / "run.zarr"))
        stopped()  # nobody has asked yet
        seen.append(run.status())
        assert run.request_stop()["process"]
        stopped()
        yield None

    monkeypatch.setattr(running, "cluster_client", queued)
    images = (pair.fixed, pair.spacing), (pair.moving, pair.spacing)
    with pytest.raises(StoppedError, match="resume"):
        register(*images, out=str(tmp_path / "run.zarr"), config=load_config(preset="demo", cluster="slurm"))
    assert seen[0].waiting == "slurm" and "waiting for jobs of slurm" in status_table(seen[0]).title
    after = open_run(str(tmp_path / "run.zarr")).status()
    assert (after.state, after.waiting, after.to_json()["waiting"]) == ("incomplete", "", "")
