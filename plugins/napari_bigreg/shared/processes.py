"""Work that outlives napari: a command of bigreg as a process of its own, its words in a file beside the run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bigreg import storage


def log_of(run: str) -> Path:
    """Where what a process says about a run is kept: beside the run, or for a remote one in the home folder."""
    local = storage.local_path(run)
    if local is not None:
        return local.with_name(f"{local.name}.log")
    name = run.rstrip("/").rsplit("/", 1)[-1]
    return Path.home() / f"{name}.log"


def start_process(arguments: Sequence[str], log: Path) -> subprocess.Popen:
    """Run `bigreg ARGUMENTS...` in a session of its own, so that it goes on when napari ends."""
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "bigreg.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
