"""What keeps the window alive: long work in napari's threads, and what must be done in its own thread bit by bit.

    job = start(lambda report: model.snap(points, report), "Snapping", done=show, failed=tell)

`work` runs in another thread and may call `report(done, total, text)` as often as it likes; that raises Cancelled once
the job has been cancelled. `done`, `failed`, `advanced` and `ended` are called in the thread of the window. Progress is
shown in napari's activity dock; a job is cancelled from there or from a panel.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from napari.utils import cancelable_progress
from napari.utils.notifications import show_error
from qtpy.QtCore import QCoreApplication, QEventLoop, QObject, Qt, QThreadPool, QTimer, Signal
from superqt.utils import FunctionWorker

from bigreg.errors import BigregError

LINGER_MS = 2000
LOOK_MS = 10
T = TypeVar("T")
Report = Callable[[int, int, str], None]


class Cancelled(Exception):
    """Raised inside of work whose job has been cancelled."""


class Job(QObject):
    """Work that goes on in a thread. Made by `start`."""

    _advanced = Signal(int, int, str)

    def __init__(self, work: Callable[[Report], Any], title: str) -> None:
        super().__init__()
        self.title = title
        self.running = True
        self._stop = threading.Event()
        self._bar: cancelable_progress | None = None
        # Not napari's subclass of it, which shows every error as a crash: those of bigreg say what to do.
        self._worker = FunctionWorker(lambda: work(self._report))

    @property
    def cancelled(self) -> bool:
        return self._stop.is_set()

    def cancel(self) -> None:
        """Ask the work to end at its next report; its result is dropped in any case."""
        self._stop.set()

    def _report(self, done: int, total: int, text: str = "") -> None:
        if self._stop.is_set():
            raise Cancelled(self.title)
        self._advanced.emit(int(done), int(total), text)

    def _begin(self, done: Any, failed: Any, advanced: Any, ended: Any, bar: bool) -> None:
        if bar:
            self._bar = cancelable_progress(total=0, desc=self.title, cancel_callback=self.cancel)
            self._advanced.connect(self._show, Qt.ConnectionType.QueuedConnection)
        if advanced is not None:
            self._advanced.connect(advanced, Qt.ConnectionType.QueuedConnection)

        def returned(result: Any) -> None:
            if not self.cancelled and done is not None:
                done(result)

        def errored(error: Exception) -> None:
            if isinstance(error, Cancelled) or self.cancelled:
                return
            if failed is not None:
                failed(error)
            else:
                tell(error)

        def finished() -> None:
            self.running = False
            # The thread may still be leaving the work, and must not be the one that frees what belongs to Qt.
            QTimer.singleShot(LINGER_MS, lambda: _jobs.discard(self))
            if self._bar is not None:
                self._bar.close()
                self._bar = None
            if ended is not None:
                ended()

        self._worker.returned.connect(returned)
        self._worker.errored.connect(errored)
        self._worker.finished.connect(finished)  # type: ignore[arg-type]  # psygnal passes what the slot takes
        self._worker.start()

    def _show(self, done: int, total: int, text: str) -> None:
        bar = self._bar
        if bar is None:
            return
        if bar.total != total:
            bar.total = total
        bar.set_description(f"{self.title}: {text}" if text else self.title)  # the window lives on meanwhile
        if self._bar is not None:
            bar.update(done - bar.n)


_jobs: set[Job] = set()


def start(
    work: Callable[[Report], T],
    title: str,
    *,
    done: Callable[[T], Any] | None = None,
    failed: Callable[[Exception], Any] | None = None,
    advanced: Callable[[int, int, str], Any] | None = None,
    ended: Callable[[], Any] | None = None,
    bar: bool = True,
) -> Job:
    """Run `work` in a thread of napari's pool; call from the window's thread.

    done      gets the result, unless cancelled; failed: the error, by default shown as a notification
    advanced  gets what work reports; ended: called last, whatever happened
    bar       show it in napari's activity dock, where it can be cancelled too
    """
    job = Job(work, title)
    _jobs.add(job)
    job._begin(done, failed, advanced, ended, bar)
    return job


def cancel_all(jobs: Any = None) -> None:
    """Cancel some jobs, by default all: a window that closes waits for none."""
    for job in list(_jobs if jobs is None else jobs):
        job.cancel()


def tell(error: BaseException) -> None:
    """Show an error as napari's notification: bigreg's own as their text, others with their kind."""
    show_error(str(error) if isinstance(error, BigregError) else f"{type(error).__name__}: {error}")


def later(milliseconds: int, call: Callable[[], Any]) -> QTimer:
    """A timer that calls once; starting it again puts it off, so that a dragged slider computes once."""
    timer = QTimer()
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.timeout.connect(call)
    return timer


def awaited(work: Callable[[], T]) -> T:
    """What `work` gives, for a caller in the window's thread that cannot go on without it, such as napari's `open`.

    It is done in another thread, and the window is drawn meanwhile; what the user does comes after. Without a window,
    or in another thread than its own, it is done at once.
    """
    if QCoreApplication.instance() is None or threading.current_thread() is not threading.main_thread():
        return work()
    with ThreadPoolExecutor(1) as pool:
        future, loop, look = pool.submit(work), QEventLoop(), QTimer()
        look.timeout.connect(lambda: loop.quit() if future.done() else None)
        look.start(LOOK_MS)
        loop.exec(QEventLoop.ProcessEventsFlag.ExcludeUserInputEvents)
        look.stop()
    return future.result()


def in_turns(*calls: Callable[[], Any]) -> None:
    """Make calls in the window's thread, after those of before, one a turn of its event loop: it answers in between."""
    if not _calls:
        QTimer.singleShot(0, _next)
    _calls.extend(calls)


def _next() -> None:
    try:
        if _calls:
            _calls[0]()
    finally:
        # The one that is made stays in the row meanwhile, as it may let the window work and another be added.
        if _calls:
            _calls.popleft()
        if _calls:
            QTimer.singleShot(0, _next)


_calls: deque[Callable[[], Any]] = deque()


def finish(seconds: float = 5.0) -> None:
    """Cancel all jobs and wait for their threads: once the window is gone, before Qt is."""
    _calls.clear()
    cancel_all()
    QThreadPool.globalInstance().waitForDone(int(1000 * seconds))
