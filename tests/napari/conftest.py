"""A screen for napari: that of the machine, or a virtual one that is started here where there is Xvfb."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import subprocess
import sys


def _screen() -> str | None:
    """Why there is no screen; None where there is one, DISPLAY is set then."""
    missing = [name for name in ("napari", "pytestqt", "PySide6") if importlib.util.find_spec(name) is None]
    if missing:
        return f"needs {', '.join(missing)}: pip install 'bigreg[napari,test]'"
    if not sys.platform.startswith("linux") or os.environ.get("DISPLAY"):
        return None
    program = shutil.which("Xvfb")
    if program is None:
        return "needs a display, or Xvfb on the PATH (apt install xvfb libgl1-mesa-dri)"
    reader, writer = os.pipe()
    server = subprocess.Popen(
        [program, "-displayfd", str(writer), "-screen", "0", "1600x1000x24", "-nolisten", "tcp"],
        pass_fds=(writer,), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writer)
    atexit.register(server.terminate)
    with os.fdopen(reader) as answer:
        number = answer.readline().strip()
    if not number:
        return "Xvfb did not start"
    os.environ["DISPLAY"] = f":{number}"
    return None


PROBLEM = _screen()
if PROBLEM is not None:
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header() -> str | None:
    return f"napari: not tested, it {PROBLEM}" if PROBLEM else None
