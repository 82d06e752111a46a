"""The progress and the figures that a command shows."""

from __future__ import annotations

import io

from rich.console import Console

from bigreg.display import Display, figure
from bigreg.pipeline.store.store import Status


def test_progress_counts_every_stage_once_when_the_plan_changes():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Display(console) as display:
        display.plan([("affine", "affine", 1), ("levels/0", "level 0", 8), ("levels/1", "level 1", 8)])
        display.stage("affine", "affine", 1, 0)
        display.block("affine", Status.DONE, (0, 0, 0))
        display.finish("affine")
        display.plan([("affine", "affine", 1), ("levels/0", "level 0", 12)])
        display.stage("levels/0", "level 0", 12, 4)
        for i in range(8):
            display.block("levels/0", Status.FAILED if i == 0 else Status.DONE, (0, 0, i))
        task = display.bars.tasks[0]
        assert task.completed == task.total == 13
        assert display.bars.tasks[1].fields["failed"] == "1 failed"
        display.stage("levels/0/compose/1", "level 0: compose", 12, 0)  # what no plan foresaw
        assert task.completed == task.total == 13


def test_without_a_terminal_each_stage_is_one_line():
    console = Console(file=io.StringIO(), width=120)
    with Display(console) as display:
        display.plan([("a", "first", 2), ("b", "second", 1)])
        for name, title, blocks, done in (("a", "first", 2, 0), ("b", "second", 1, 1)):
            display.stage(name, title, blocks, done)
            for i in range(blocks - done):
                display.block(name, Status.DONE, (0, 0, i))
            display.finish(name)
    assert console.file.getvalue().startswith("first: 2 blocks, ")  # what was there from before is not told again
    assert console.file.getvalue().count("\n") == 1


def test_whole_figures_are_written_out():
    assert [figure(30_000.0, "blocks"), figure(0.123456, "um"), figure(float("nan"), "")] == [
        "30000 blocks",
        "0.1235 µm",
        "nan",
    ]
