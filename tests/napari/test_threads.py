"""Work in threads: progress, cancel, errors, and a window that goes on meanwhile."""

from __future__ import annotations

import threading
import time

import pytest

from bigreg.errors import InputError

pytest.importorskip("napari", reason="needs bigreg[napari]")
pytest.importorskip("pytestqt", reason="needs bigreg[test]")
from napari_bigreg.shared import threads
from qtpy.QtCore import QTimer


def test_the_result_comes_to_the_windows_thread(qtbot):
    found = []
    threads.start(
        lambda report: threading.current_thread(), "Work", done=lambda t: found.append((t, threading.current_thread()))
    )
    qtbot.waitUntil(lambda: bool(found), timeout=20000)
    assert found[0][0] is not found[0][1] is threading.main_thread()


def test_cancelled_work_ends_at_its_next_report_and_its_result_is_dropped(qtbot):
    seen, ended = [], []

    def work(report):
        for step in range(10_000):
            report(step, 10_000, "")
            time.sleep(0.01)

    job = threads.start(work, "Long", done=seen.append, failed=seen.append, ended=lambda: ended.append(True))
    qtbot.wait(100)
    job.cancel()
    qtbot.waitUntil(lambda: bool(ended), timeout=20000)
    assert not seen and not job.running


def test_progress_is_told_and_shown_in_napari(qtbot):
    from napari.utils import progress

    told, shown, ended = [], [], []

    def work(report):
        for step in range(5):
            report(step, 5, f"step {step}")
            time.sleep(0.05)

    def note(*step):
        told.append(step)
        shown.extend(bar.desc for bar in progress._all_instances)

    threads.start(work, "Counting", advanced=note, ended=lambda: ended.append(True))
    qtbot.waitUntil(lambda: bool(ended), timeout=20000)
    assert told == [(n, 5, f"step {n}") for n in range(5)]
    assert any("Counting" in text for text in shown) and not list(progress._all_instances)


def test_an_error_is_handed_over(qtbot):
    failures = []

    def work(report):
        raise InputError("fixed 'x' is missing; check the path")

    threads.start(work, "Bad", failed=failures.append)
    qtbot.waitUntil(lambda: bool(failures), timeout=20000)
    assert isinstance(failures[0], InputError)


def test_an_error_without_a_listener_is_a_notification_with_its_own_words(make_napari_viewer, qtbot):
    from napari.utils.notifications import notification_manager

    make_napari_viewer()

    def work(report):
        raise InputError("fixed 'x' is missing; check the path")

    with notification_manager:
        threads.start(work, "Bad")
        qtbot.waitUntil(lambda: any("'x' is missing" in r.message for r in notification_manager.records), timeout=20000)


def test_the_window_goes_on_while_work_is_done(qtbot):
    ended, beats = [], []
    threads.start(lambda report: time.sleep(0.6), "Sleep", ended=lambda: ended.append(True))
    while not ended:
        qtbot.wait(20)
        beats.append(time.monotonic())
    assert len(beats) > 5


def test_what_is_awaited_is_done_in_a_thread_while_the_window_is_drawn(qtbot):
    beats = []
    timer = QTimer()
    timer.setInterval(20)
    timer.timeout.connect(lambda: beats.append(True))
    timer.start()

    def work():
        time.sleep(0.5)
        return threading.current_thread()

    assert threads.awaited(work) is not threading.main_thread()
    timer.stop()
    assert len(beats) > 5

    def bad():
        raise InputError("fixed 'x' is missing; check the path")

    with pytest.raises(InputError, match="'x' is missing"):
        threads.awaited(bad)


def test_outside_of_the_windows_thread_nothing_is_handed_on(qtbot):
    found = []
    thread = threading.Thread(target=lambda: found.append(threads.awaited(threading.current_thread)))
    thread.start()
    thread.join()
    assert found == [thread]


def test_calls_in_turns_keep_their_order_and_the_window_goes_on_between_them(qtbot):
    made, beats = [], []
    timer = QTimer()
    timer.setInterval(0)
    timer.timeout.connect(lambda: beats.append(len(made)))
    timer.start()

    def call(number):
        made.append(number)
        if number == 1:
            threads.in_turns(lambda: made.append("added meanwhile"))

    threads.in_turns(*[lambda n=n: call(n) for n in range(4)])
    qtbot.waitUntil(lambda: len(made) == 5, timeout=20000)
    timer.stop()
    assert made == [0, 1, 2, 3, "added meanwhile"] and {1, 2, 3, 4} <= set(beats)
    threads.in_turns(lambda: made.append("again"))
    qtbot.waitUntil(lambda: made[-1] == "again", timeout=20000)
