"""Locations: what a path or URL names, the key-value store behind it, and what its errors mean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import tensorstore as ts

from ..errors import CorruptDataError, InputError, OutputError

REMOTE_SCHEMES = ("http", "https", "s3", "gs")
# An array in memory:// lives as long as the process, whatever happens to the concurrency settings.
_MEMORY = ts.Context({"memory_key_value_store": {}})
_context: ts.Context


def set_concurrency(*, copies: int = 4, transfers: int = 8) -> None:
    """How many threads of this process may decode (`copies`) and read or write files (`transfers`) at once.

    Holds for arrays opened afterwards. The default is modest, because a machine usually runs several workers.
    """
    global _context
    io = {"limit": transfers}
    retries = {"max_retries": 6, "initial_delay": "200ms", "max_delay": "5s"}
    _context = ts.Context(
        {
            "data_copy_concurrency": {"limit": copies},
            "file_io_concurrency": io,
            "http_request_concurrency": io,
            "http_request_retries": retries,
            "s3_request_concurrency": io,
            "s3_request_retries": retries,
            "gcs_request_concurrency": io,
            "gcs_request_retries": retries,
        },
        parent=_MEMORY,
    )


set_concurrency()


def context() -> ts.Context:
    """The settings and thread limits that every handle of this process shares."""
    return _context


def join(url: str, *parts: str) -> str:
    """The location of a node below `url`."""
    return "/".join([str(url).rstrip("/"), *(str(p).strip("/") for p in parts if str(p).strip("/"))])


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
    return Path(os.path.abspath(unquote(urlsplit(url).path) if url.startswith("file://") else url))


def kvstore_spec(url: str) -> dict[str, Any] | str:
    path = local_path(url)
    if path is not None:
        return {"driver": "file", "path": f"{path}/"}
    return quote(str(url).rstrip("/"), safe=":/?&=%@+,~!()") + "/"


def open_kvstore(url: str) -> ts.KvStore:
    try:
        return ts.KvStore.open(kvstore_spec(url), context=_context).result()
    except ValueError as error:
        raise InputError(f"'{url}' cannot be opened: {error_reason(error)}") from error


def error_code(error: BaseException) -> str:
    return str(error).partition(":")[0]


def error_reason(error: BaseException) -> str:
    return str(error).partition(": ")[2].partition(" [")[0] or str(error)


def read_error(url: str, error: ValueError) -> InputError | CorruptDataError:
    if error_code(error) in ("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED"):
        return InputError(f"'{url}' cannot be read: {error_reason(error)}; check address, network and permissions")
    if "ignored by server" in str(error):
        return InputError(f"'{url}' is sharded, and its server ignores byte ranges; use one that has them, or a copy")
    return CorruptDataError(f"'{url}' cannot be decoded: {error_reason(error)}; restore it from its source")


def write_error(url: str, error: ValueError) -> OutputError:
    remedy = {
        "RESOURCE_EXHAUSTED": "free some space there (what is written stays valid) and run the same command again",
        "PERMISSION_DENIED": "make the place writable or choose another output",
    }.get(error_code(error), "choose another output or repair the place")
    return OutputError(f"'{url}' cannot be written: {error_reason(error)}; {remedy}")
