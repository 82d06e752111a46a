"""Progress of a run on a terminal."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


class Display:
    """Listens to a run: one bar for all blocks, one a stage under way; a line a stage where there is no terminal."""

    FAILED = 4

    def __init__(self, console: Console, run: str = "RUN") -> None:
        self.console = console
        self.run = run
        self.live = console.is_terminal
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}", style="red"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.overall: Any = None
        self.planned: dict[str, int] = {}
        self.done: dict[str, int] = {}
        self.going: dict[str, _Going] = {}

    def __enter__(self) -> Display:
        if self.live:
            self.bars.start()
            self.overall = self.bars.add_task("all blocks", total=None, failed="")
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self.live:
            self.bars.stop()
        if kind is KeyboardInterrupt:
            self.console.print(f"what is done is kept; `bigreg resume {shlex.quote(self.run)}` goes on", soft_wrap=True)

    def plan(self, stages: list[tuple[str, str, int]]) -> None:
        self.planned = {name: blocks for name, _, blocks in stages}
        self._total()

    def _total(self) -> None:
        """All that is foreseen; attempts that nobody foresees have a bar of their own alone."""
        if self.live:
            done = sum(min(self.done.get(name, 0), blocks) for name, blocks in self.planned.items())
            known = all(self.planned.values())
            self.bars.update(self.overall, total=sum(self.planned.values()) if known else None, completed=done)

    def stage(self, name: str, title: str, blocks: int, done: int) -> None:
        self.done[name] = done
        going = self.going[name] = _Going(title, blocks, done, time.monotonic())
        if self.live:
            self._total()
            going.bar = self.bars.add_task(title, total=blocks, completed=done, failed="")

    def block(self, name: str, status: int, index: tuple) -> None:
        going = self.going[name]
        going.failed += status == self.FAILED
        self.done[name] += 1
        if self.live:
            self._total()
            self.bars.advance(going.bar)
            self.bars.update(going.bar, failed=f"{going.failed} failed" if going.failed else "")

    def finish(self, name: str) -> None:
        going = self.going.pop(name)
        if self.live:
            self.bars.remove_task(going.bar)
        elif going.before < going.blocks:
            seconds = time.monotonic() - going.begin
            self.console.print(f"{going.title}: {going.blocks} block{'s' * (going.blocks != 1)}, {seconds:.1f} s")


@dataclass
class _Going:
    """A stage under way: blocks, those done before, failed ones so far, and its bar where there is one."""

    title: str
    blocks: int
    before: int
    begin: float
    failed: int = 0
    bar: Any = None


def bar(console: Console, title: str) -> Any:
    """(context manager, callback(done, total, what)) of one plain progress bar."""
    progress = Progress(
        TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[what]}"), TimeRemainingColumn(),
        console=console, disable=not console.is_terminal,
    )  # fmt: skip
    task = progress.add_task(title, total=None, what="")
    return progress, lambda done, total, what: progress.update(task, completed=done, total=total, what=what)


def figure(value: float, unit: str) -> str:
    """A figure with its unit; whole numbers are written out."""
    return f"{value:.0f} {unit}".strip() if float(value).is_integer() else f"{value:.4g} {unit}".strip()


def pairs(rows: list[tuple[str, str]]) -> Text:
    """Two columns: what, value. Print with soft_wrap, so that a path stays in one piece."""
    width = max((len(name) for name, _ in rows), default=0)
    return Text("\n").join(Text.assemble((name.ljust(width), "bold"), "  ", value) for name, value in rows)


def status_table(status: Any) -> Table:
    """Progress of every stage."""
    from .quality.verdict import roughly

    age = time.time() - status.updated
    state = f"waiting for jobs of {status.waiting}" if status.waiting else status.state
    of = f"{status.done} blocks, how many in all is known after the affine"
    if status.total is not None:
        of = f"{status.done} of {status.total} blocks"
    left = "" if status.seconds_left is None else f", about {roughly(status.seconds_left)} left"
    title = f"{state}: {of}{left}, last stage change {age:.0f} s ago"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("stage", "", "done", "blank", "failed", "running"):
        table.add_column(name, justify="left" if name in ("stage", "") else "right")
    for s in status.stages:
        part = (s.done + s.blank) / max(s.blocks, 1)
        table.add_row(
            s.title,
            "█" * round(20 * part) + "░" * (20 - round(20 * part)),
            f"{s.done}/{s.blocks or '?'}",
            str(s.blank),
            Text(str(s.failed), style="red" if s.failed else ""),
            str(s.running),
        )
    return table


def stages_table(plan: Any, *, everything: bool = False) -> Table:
    """What each stage does; those of little work, reading and writing are summed in one line unless `everything`."""
    from dask.utils import format_bytes

    from .quality.verdict import roughly

    table = Table(box=None, pad_edge=False)
    for name in ("stage", "blocks", "read", "written", "one worker"):
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    seconds = plan.stage_seconds()
    figures = {w.title: (w.blocks, w.bytes_read, w.bytes_written, seconds[w.name]) for w in plan.stages}
    totals = [sum(column) for column in list(zip(*figures.values(), strict=True))[1:]]
    rest: list[Any] = [0, 0, 0, 0.0]
    small = 0
    for title, row in figures.items():
        if everything or any(value > 0.01 * total for value, total in zip(row[1:], totals, strict=True)):
            table.add_row(title, str(row[0]), *map(format_bytes, row[1:3]), roughly(row[3]))
        else:
            small += 1
            rest = [a + b for a, b in zip(rest, row, strict=True)]
    if small:
        table.add_row(f"{small} smaller stages", str(rest[0]), *map(format_bytes, rest[1:3]), roughly(rest[3]))
    return table


def simulation_table(simulations: list[Any]) -> Table:
    """How some numbers of workers would fare. path: the longest chain of blocks that wait for one another."""
    from .quality.verdict import roughly

    table = Table(box=None, pad_edge=False)
    for name in ("workers", "time", "efficiency", "compute", "storage", "scheduler", "path", "bound by"):
        table.add_column(name, justify="left" if name == "bound by" else "right", no_wrap=True)
    for s in simulations:
        parts = (s.efficiency, s.compute, s.storage, s.scheduler, s.chain)
        table.add_row(str(s.workers), roughly(s.seconds), *(f"{100 * p:.0f} %" for p in parts), s.binds)
    return table


def comparison_tables(comparison: Any) -> list[Table]:
    """The paired statistics of several runs, where there are any, and their figures."""
    from .quality.report import number

    tables = []
    if comparison.paired:
        table = Table(title=comparison.note, title_justify="left", box=None, pad_edge=False)
        titles = ("quantity", "run", "pairs", "first", "run", "difference", "95 % interval", "better at", "p (Holm)")
        for i, name in enumerate(titles):
            table.add_column(name, justify="left" if i < 2 else "right")
        for p in comparison.paired:
            quantity = f"{p.quantity} / {p.unit}" if p.unit else p.quantity
            values = (p.pairs, p.first_mean, p.mean, p.difference)
            interval = f"{number(p.low)} … {number(p.high)}"
            table.add_row(quantity, Text(p.run), *map(number, values), interval, number(p.wins), number(p.holm))
        tables.append(table)
    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(("figure", *comparison.names, "")):
        table.add_column(Text(name), justify="right" if 0 < i <= len(comparison.names) else "left")
    for group, name, unit, values in comparison.figures:
        table.add_row(f"{group}: {name}", *map(number, values), unit)
    return [*tables, table]
