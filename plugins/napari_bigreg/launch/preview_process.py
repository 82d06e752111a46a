"""The previews of a panel, made by a process of their own: while it loads torch or registers, napari's window goes on.

Both sides send pickles over the child's standard streams, which nobody else writes to. What the child prints is kept
aside and told if it breaks. It ends when its input ends, so it outlives napari neither at its end nor at its crash.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
import traceback
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np

from bigreg.errors import BigregError

from ..shared.registration import FieldError, Launch
from .model import opened
from .preview import Preview, Previewer, Report

ASK_SECONDS = 0.3
"""After which a silent child's caller is asked whether it still wants to know."""
END_SECONDS = 20.0
"""For a child to remove its files, after which it is killed."""
STOP, WARM = "stop", "warm"
CLOSED = "the previews are closed"
TOLD, DONE, FAILED, GONE = "told", "done", "failed", "gone"


class PreviewProcess:
    """Makes previews, one at a time, in a child that is started by the first and kept. `close` it."""

    def __init__(self) -> None:
        self.child: subprocess.Popen | None = None
        self._said: Any = None
        self._closed = False
        self._answers: queue.SimpleQueue = queue.SimpleQueue()
        self._busy = threading.Lock()

    def warm(self, report: Report) -> None:
        """Let the child load what a preview needs; see `Previewer.warm`."""
        self._ask(WARM, report)

    def run(self, launch: Launch, centre: np.ndarray | None, level: int, report: Report) -> Preview:
        """See `Previewer.run`. Raises FieldError, InputError, and RuntimeError where the child breaks."""
        return self._ask((launch, centre, level), report)

    def close(self) -> None:
        """End the child, whatever it does, and with it its files."""
        self._closed = True
        if self.child is not None:
            assert self.child.stdin is not None, "it is a pipe"
            with suppress(OSError):  # of a request that it can no longer read
                self.child.stdin.close()
            _status(self.child)

    def _ask(self, request: Any, report: Report) -> Any:
        told = (0, 1, "waiting for the one before")
        while not self._busy.acquire(timeout=ASK_SECONDS):
            report(*told)
        try:
            child = self._started()
            told, stopped = (0, 1, "starting"), None
            self._send(child, request)
            while True:
                try:
                    kind, value = self._answers.get(timeout=ASK_SECONDS)
                except queue.Empty:
                    kind, value = TOLD, told
                if kind == TOLD:
                    told = value
                    try:
                        if stopped is None:
                            report(*told)
                    except Exception as error:  # the caller has lost interest; the child ends at its next step
                        stopped = error
                        self._send(child, STOP)
                elif stopped is not None:
                    raise stopped
                elif self._closed:  # whatever came of it meanwhile, its files going away
                    raise RuntimeError(CLOSED)
                elif kind == DONE:
                    return value
                else:
                    raise self._broken(child) if kind == GONE else value
        finally:
            self._busy.release()

    def _started(self) -> subprocess.Popen:
        if self._closed:
            raise RuntimeError(CLOSED)
        if self.child is None or self.child.poll() is not None:
            self._said = tempfile.TemporaryFile()  # noqa: SIM115 - the child writes to it as long as it lives
            self._answers = queue.SimpleQueue()
            self.child = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, start_new_session=True,
            )  # fmt: skip
            reader = threading.Thread(target=_collect, args=(self.child.stdout, self._answers), daemon=True)
            reader.start()
            if self._closed:  # meanwhile
                assert self.child.stdin is not None, "it is a pipe"
                self.child.stdin.close()
        return self.child

    @staticmethod
    def _send(child: subprocess.Popen, what: Any) -> None:
        assert child.stdin is not None, "it is a pipe"
        with suppress(OSError, ValueError):  # it has ended, or is closed: its output tells
            child.stdin.write(pickle.dumps(what))
            child.stdin.flush()

    def _broken(self, child: subprocess.Popen) -> RuntimeError:
        status = _status(child)
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - 2000))
        return RuntimeError(
            f"the process of the preview ended with status {status}; its last output:\n"
            + self._said.read().decode(errors="replace").strip()
        )


def _collect(stream: BinaryIO, answers: queue.SimpleQueue) -> None:
    """Everything that the child says, and that it has gone."""
    try:
        while True:
            answers.put(pickle.load(stream))
    except (EOFError, OSError, pickle.UnpicklingError):
        pass
    finally:  # whatever else it says that cannot be read: the one who waits must not wait for ever
        answers.put((GONE, None))


def _status(child: subprocess.Popen) -> int:
    """Of a child that is about to end."""
    try:
        return child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


# ------------------------------------------------------------------------------------------------------ in the child


class _Child:
    """Answers what is asked, one after the other."""

    def __init__(self, answers: BinaryIO) -> None:
        self.previewer = Previewer()
        self.requests: queue.SimpleQueue = queue.SimpleQueue()
        self._answers = answers
        self._stop = threading.Event()
        self._sending = threading.Lock()

    def listen(self, stream: BinaryIO) -> None:
        """In a thread, until nobody is left who asks."""
        try:
            while True:
                request = pickle.load(stream)
                if isinstance(request, str) and request == STOP:
                    self._stop.set()
                else:
                    self._stop.clear()
                    self.requests.put(request)
        finally:
            leave(self.previewer.folder)

    def answer(self, request: Any) -> None:
        try:
            if isinstance(request, str):
                self.previewer.warm(self._report)
                self._send(DONE, None)
            else:
                launch, centre, level = request
                self._send(DONE, self.previewer.run(*opened(launch), centre, level, self._report))
        except (BigregError, FieldError, CancelledError) as error:
            self._send(FAILED, error)
        except Exception:  # a fault of bigreg's: told with where it is, as only this process knows
            self._send(FAILED, RuntimeError(f"the preview failed:\n{traceback.format_exc().strip()}"))

    def _report(self, done: int, total: int, text: str) -> None:
        if self._stop.is_set():
            raise CancelledError
        self._send(TOLD, (done, total, text))

    def _send(self, kind: str, value: Any) -> None:
        with self._sending, suppress(OSError):  # nobody is left who asks: `listen` ends this
            self._answers.write(pickle.dumps((kind, value)))
            self._answers.flush()


def leave(folder: str) -> None:
    """End this process and remove a folder, in which others of its threads may be writing.

    Another program takes the process over, which ends all threads at once: what they write later than a removal by one
    of them would stay.
    """
    code = "import shutil, sys; shutil.rmtree(sys.argv[1], ignore_errors=True)"
    command = [sys.executable, "-I", "-S", "-c", code, folder]
    if os.name == "nt":  # where nothing takes a process over, and files that are open stay until it has ended
        subprocess.Popen(command)
        os._exit(0)
    os.execv(sys.executable, command)


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed by whatever is imported
    child = _Child(answers)
    threading.Thread(target=child.listen, args=(sys.stdin.buffer,), daemon=True).start()
    while True:
        child.answer(child.requests.get())


if __name__ == "__main__":
    main()
