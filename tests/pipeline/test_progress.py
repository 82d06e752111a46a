"""What is foreseen of a run is what it does, and its stages say what they do."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bigreg import register
from bigreg.display import Display
from bigreg.pipeline.labels import LABELS


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
