"""What the text of a path or URL says of its place; nothing that takes time is imported, nothing remote is asked."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .errors import InputError

REMOTE_SCHEMES = ("http", "https", "s3", "gs")
ZIPS = (".zip", ".ozx")


def join(url: str, *parts: str) -> str:
    """The location of a node below `url`."""
    return "/".join([str(url).rstrip("/"), *(str(p).strip("/") for p in parts if str(p).strip("/"))])


def zip_parts(url: str) -> tuple[str, str] | None:
    """The zip archive (.zip, .ozx) that a location lies in and the place inside; None where it lies in none.

    A local folder whose name ends like that is a folder.
    """
    head, mark, rest = str(url).rpartition("://")
    parts = rest.split("/")
    for number, part in enumerate(parts, 1):
        if part.lower().endswith(ZIPS):
            archive = head + mark + "/".join(parts[:number])
            path = local_path(archive)
            if path is None or path.is_file():
                return archive, "/".join(parts[number:]).strip("/")
    return None


def scheme(url: str) -> str:
    """The kind of place: file for local paths, else the URL's scheme. Raises InputError where it cannot be opened."""
    head, mark, _ = str(url).partition("://")
    if not mark or head == "file":
        return "file"
    if head not in (*REMOTE_SCHEMES, "memory"):
        raise InputError(
            f"'{url}': unknown scheme '{head}'; use a local path or one of file, memory, http, https, s3, gs"
        )
    return head


def local_path(url: str) -> Path | None:
    """The path on this machine that a location names; None for URLs of other places."""
    if scheme(url) != "file":
        return None
    url = str(url)
    if url.startswith("file://"):
        plain = "/" + url.removeprefix("file://").partition("/")[2]
        url = plain if os.path.exists(plain) else unquote(urlsplit(url).path)
    return Path(os.path.abspath(url))


def absent(url: str) -> bool:
    """Whether it is a place of this machine where nothing is: no file, no folder with something in it.

    Of a place in an archive nothing is known.
    """
    path = local_path(url)
    if path is None or zip_parts(url) is not None:
        return False
    return not any(path.iterdir()) if path.is_dir() else not path.exists()
