"""Single files of this machine that appear when they are complete."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError
from ..places import local_path, scheme


@contextmanager
def new_file(target: str | Path) -> Iterator[Path]:
    """A path beside `target` to write to; it becomes `target` at the end, and is removed where an error ends the block.

    Raises OutputError where `target` exists, is on no disk of this machine, or cannot be written.
    """
    path = local_path(str(target))
    if path is None:
        raise OutputError(f"'{target}' is a {scheme(str(target))} address; write to a file of this machine and copy it")
    path = Path(os.path.realpath(path))  # what a link names, so that the link stays and its disk is used
    if path.exists():
        raise OutputError(f"'{target}' exists already; choose another output or remove it")
    if not path.parent.is_dir():
        raise OutputError(f"'{path.parent}' is no folder; choose another output or make it")
    part = path.with_name(f".{os.getpid()}.part.{path.name}")  # the suffix stays: some libraries go by it
    try:
        yield part
        try:
            os.link(part, path)  # unlike a rename it never replaces what another process wrote meanwhile
        except FileExistsError as error:
            raise OutputError(f"'{target}' exists already; choose another output or remove it") from error
        except OSError:  # a file system without links
            os.replace(part, path)
    except OSError as error:
        raise OutputError(f"'{target}' cannot be written: {error.strerror or error}; choose another output") from error
    finally:
        part.unlink(missing_ok=True)


def check_replaceable(path: Path) -> None:
    """Whether a folder beside `path` can become `path` at the end, asked before anything is written.

    What is at `path` is renamed there and back; where nothing is, an empty folder is. Raises OutputError.
    """
    probe = path.with_name(f".{uuid.uuid4().hex[:8]}.probe")
    there = path.exists()
    try:
        if there:
            path.rename(probe)
            probe.rename(path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            probe.mkdir()
            probe.rename(path)
            path.rmdir()
    except OSError as error:
        with suppress(OSError):
            probe.rmdir()
        remedy = "choose a new folder inside it" if there and path.is_dir() else "choose another output"
        raise OutputError(f"'{path}' cannot be written: {error.strerror or error}; {remedy}") from error
