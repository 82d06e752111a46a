"""Task: the report. What draws it is loaded when it is drawn: every worker and every command would wait for it."""

from __future__ import annotations

from ...geometry import Shape
from ..context.context import Context
from ..labels import label
from ..schedule.flow import ONE, Stage
from ..store.store import Status


def stage() -> Stage:
    return Stage("stages/report", label("report"), ONE, write_report)


def write_report(context: Context, index: Shape) -> tuple[Status, dict[str, float]]:
    from .report import write

    return write(context, index)
