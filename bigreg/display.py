"""Progress and figures of a run on a terminal or in a notebook."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .errors import ConfigError


class Display:
    """Listens to a run: one bar for all blocks, one a stage under way; a line a stage where there is no terminal."""

    FAILED = 4

    def __init__(self, console: Console, run: str = "RUN") -> None:
        self.console = console
        self.run = run
        self.live = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
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
            self.console.print(
                f"completed blocks are kept; continue with `bigreg resume {shlex.quote(self.run)}`", soft_wrap=True
            )

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


@contextmanager
def shown(progress: Any, run: str) -> Iterator[Any]:
    """What hears how a run goes on, as Python's callers say it: None or False nothing, True bars on standard output."""
    if progress not in (None, False, True) and not hasattr(progress, "plan"):
        raise ConfigError(f"progress={progress!r} is neither True, False nor a Listener; pass True for bars")
    if progress is not True:
        yield progress or None
        return
    with Display(Console(markup=False, emoji=False, highlight=False), run) as display:
        yield display


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
    from .quality.evaluation import sign

    return f"{value:.0f} {sign(unit)}".strip() if float(value).is_integer() else f"{value:.4g} {sign(unit)}".strip()


def pairs(rows: list[tuple[str, str]]) -> Text:
    """Two columns: what, value. Print with soft_wrap, so that a path stays in one piece."""
    width = max((len(name) for name, _ in rows), default=0)
    return Text("\n").join(Text.assemble((name.ljust(width), "bold"), "  ", value) for name, value in rows)


def status_table(status: Any) -> Table:
    """Progress of every stage."""
    from .quality.verdict import roughly

    age = time.time() - status.updated
    state = f"waiting for jobs of {status.waiting}" if status.waiting else status.state
    of = f"{status.done} blocks so far (the total is known after the affine)"
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
    for name in ("stage", "blocks", "read", "written", "one worker"):  # where it is narrow names wrap, figures stay
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=name != "stage")
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
        table.add_column(name, justify="left" if name == "bound by" else "right", no_wrap=name != "bound by")
    for s in simulations:
        parts = (s.efficiency, s.compute, s.storage, s.scheduler, s.chain)
        table.add_row(str(s.workers), roughly(s.seconds), *(f"{100 * p:.0f} %" for p in parts), s.binds)
    return table


def comparison_tables(comparison: Any, width: int) -> list[Table]:
    """The paired statistics of several runs, where there are any, and their figures: a column a run.

    Runs that do not fit beside one another in `width` columns come in tables of their own.
    """
    from .quality.evaluation import sign
    from .quality.report import number

    groups: dict[str, list[tuple[str, list[str]]]] = {}
    others = comparison.names[1:]
    for quantity, unit in dict.fromkeys((p.quantity, p.unit) for p in comparison.paired):
        of = {p.run: p for p in comparison.paired if p.quantity == quantity}
        rows: dict[str, list[str]] = {}
        for name in others:
            p = of.get(name)
            for title, value in {
                "places": p and number(p.pairs),
                f"mean of {comparison.names[0]} there": p and number(p.first_mean),
                "mean": p and number(p.mean),
                "difference": p and number(p.difference),
                "95 % interval": p and f"{number(p.low)} … {number(p.high)}",
                "better at": p and number(p.wins),
                "p (Holm)": p and number(p.holm),
            }.items():
                rows.setdefault(title, []).append(value or "")
        groups[f"{quantity}, {sign(unit)}" if unit else quantity] = list(rows.items())
    tables = _columns(others, groups, width)
    groups = {}
    for group, name, unit, values in comparison.figures:
        groups.setdefault(group, []).append((f"{name}, {sign(unit)}" if unit else name, [number(v) for v in values]))
    return [*tables, *_columns(comparison.names, groups, width)]


def _columns(names: Sequence[str], groups: dict[str, list[tuple[str, list[str]]]], width: int) -> list[Table]:
    """Rows (name, value of each run) under the titles of their groups; as many runs a table as there is room for."""
    if not groups:
        return []
    rows = [row for group in groups.values() for row in group]
    first = max(len(name) for name, _ in rows) + 2
    wide = [max(min(len(name), HEAD), *(len(values[i]) for _, values in rows)) + 2 for i, name in enumerate(names)]
    tables, begin = [], 0
    while begin < len(names):
        end = begin + 1
        while end < len(names) and first + sum(wide[begin : end + 1]) <= width:
            end += 1
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("", no_wrap=True)
        for name, room in list(zip(names, wide, strict=True))[begin:end]:
            table.add_column(Text(name, overflow="fold"), justify="right", overflow="fold", min_width=room - 2)
        for title, group in groups.items():
            table.add_row(Text(title, style="bold"))
            for name, values in group:
                table.add_row(Text(f"  {name}"), *values[begin:end])
        tables.append(table)
        begin = end
    return tables


HEAD = 20
"""Characters of a run's name in one line; a longer one is folded."""
