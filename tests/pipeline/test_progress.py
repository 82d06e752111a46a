"""What is foreseen of a run is what it does, and its stages say what they do."""

from __future__ import annotations

import io
import shutil
import time

import numpy as np
import pytest
from rich.console import Console

from bigreg import open_run, register, storage
from bigreg.display import Display, shown, status_table
from bigreg.pipeline.judging.status import status_of
from bigreg.pipeline.labels import LABELS
from bigreg.pipeline.store.lock import working_on
from bigreg.pipeline.store.store import Status
from bigreg.quality.verdict import roughly


class Told:
    """Keeps all that a listener hears."""

    def __init__(self):
        self.plans, self.begun, self.done = [], {}, {}

    def plan(self, stages):
        self.plans.append({name: (title, blocks) for name, title, blocks in stages})

    def stage(self, name, title, blocks, done):
        self.begun[name] = title, blocks
        self.done[name] = done

    def block(self, name, status, index):
        self.done[name] += 1

    def finish(self, name): ...


@pytest.fixture(scope="module")
def heard(pair, small_config, thread_client, tmp_path_factory):
    told = Told()
    out = str(tmp_path_factory.mktemp("progress") / "run.zarr")
    fixed, moving = (pair.fixed, pair.spacing), (pair.moving, pair.spacing)
    run = register(fixed, moving, out=out, config=small_config(), client=thread_client, progress=told)
    return told, run


def test_every_stage_is_foreseen_at_the_start(heard):
    told, _ = heard
    again = {name for name in told.begun if "attempt" in name or ("/compose/" in name and not name.endswith("/0"))}
    assert {n: v for n, v in told.begun.items() if n not in again} == told.plans[-1]
    assert told.plans[0].keys() == told.plans[-1].keys()


def test_the_total_that_is_told_first_is_the_total_at_the_end(heard):
    told, run = heard
    totals = [sum(b for _, b in plan.values()) for plan in told.plans if all(b for _, b in plan.values())]
    status = run.status()
    assert totals == [status.total] and status.done == status.total


def test_before_the_affine_no_total_is_told(heard):
    told, _ = heard
    early = {name: blocks for name, (_, blocks) in told.plans[0].items()}
    assert early["stages/affine"] == 1 and early["levels/0"] == 0 and early["stages/warped"] == 0


def test_no_stage_is_called_as_its_place_is(heard):
    told, _ = heard
    for name, (title, _) in told.begun.items():
        assert title not in name and "_" not in title
    assert told.begun["stages/fixed_to_moving"][0] == "displacement field fixed to moving"
    assert LABELS["check"] == told.begun["stages/check"][0]


def test_attempts_that_nobody_foresaw_do_not_make_the_bar_grow():
    display = Display(Console(file=io.StringIO(), force_terminal=True))
    with display:
        display.plan([("a", "a", 2), ("b", "b", 1)])
        for name, blocks in (("a", 2), ("a again", 2), ("a", 2), ("b", 1)):
            display.stage(name, name, blocks, 0)
            for i in range(blocks):
                display.block(name, 2, (i, 0, 0))
            display.finish(name)
        task = display.bars.tasks[0]
        assert (task.completed, task.total) == (3, 3)


def test_progress_true_shows_what_a_run_does(registered, thread_client, tmp_path, capsys):
    out = tmp_path / "again.zarr"
    shutil.copytree(registered.run.url, out)
    shutil.rmtree(out / "stages" / "report")  # this is left to do
    again = open_run(str(out))
    again.store.update(state="incomplete")
    assert again.resume(client=thread_client, progress=True).status().state == "finished"
    assert capsys.readouterr().out.startswith("write the report: 1 block, ")


def test_bars_are_shown_in_notebooks_that_can(monkeypatch):
    for there in (True, False):
        monkeypatch.setattr("bigreg.display.find_spec", lambda name, there=there: there or None)
        assert Display(Console(force_jupyter=True)).live is there
    assert not Display(Console(file=io.StringIO())).live
    with shown(None, "run") as none, shown(False, "run") as off:
        assert none is None and off is None


def test_the_time_left_is_by_the_work_that_is_planned(registered, tmp_path):
    out = tmp_path / "half.zarr"
    shutil.copytree(registered.run.url, out)
    store = open_run(str(out)).store
    pace = store.attributes["pace"]
    assert pace["seconds"].keys() == {name for name, _, _ in store.attributes["stages"]}
    assert min(pace["seconds"].values()) > 0
    shutil.rmtree(out / "stages" / "warped")  # all but this is done
    left, total = pace["seconds"]["stages/warped"], sum(pace["seconds"].values())
    begun = {**pace, "since": time.time() - 100, "done": 0.0}
    store.update(state="running", pace=begun)
    assert status_of(store).seconds_left is None, "nobody works on it"
    with working_on(str(out)):
        found = status_of(store)
        assert found.seconds_left == pytest.approx(100 * left / (total - left), rel=0.02)
        assert found.to_json()["seconds_left"] == found.seconds_left
        console = Console(file=io.StringIO(), width=200)
        console.print(status_table(found))
        assert f"about {roughly(found.seconds_left)} left" in console.file.getvalue()
        store.update(pace={**begun, "since": time.time()})
        assert status_of(store).seconds_left is None, "too early to tell"
        store.update(pace=None)
        assert status_of(store).seconds_left is None, "the total is not known"


def test_the_time_left_falls_while_the_one_block_of_a_stage_is_under_way(registered, tmp_path):
    out = tmp_path / "late.zarr"
    shutil.copytree(registered.run.url, out)
    store = open_run(str(out)).store
    status = storage.open_array(store.path("stages/report", "status"), write=True)
    assert status.shape == (1, 1, 1)
    status.write((0, 0, 0), np.full((1, 1, 1), Status.RUNNING, "u1"))
    pace = store.attributes["pace"]
    own, total = pace["seconds"]["stages/report"], sum(pace["seconds"].values())
    foreseen = 1000 * own / (total - own)  # all else took 1000 s
    with working_on(str(out)):
        for passed in (0.1 * foreseen, 0.8 * foreseen, 5 * foreseen):
            now = time.time()
            store.update(
                state="running", pace={**pace, "since": now - 1000 - passed, "done": 0.0}, updated=now - passed
            )
            left = status_of(store).seconds_left
            assert left == pytest.approx(max(foreseen - passed, 0), abs=3 + 0.02 * foreseen)
