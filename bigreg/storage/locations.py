"""Locations: what a path or URL names, the key-value store behind it, and what its errors mean."""

from __future__ import annotations

import os
from functools import cache
from typing import Any
from urllib.parse import quote

import fsspec
import tensorstore as ts

from ..errors import CorruptDataError, InputError, OutputError
from ..places import local_path, scheme, zip_parts
from .retry import error_code, error_number, error_reason, passing, patiently

# An array in memory:// lives as long as the process, whatever happens to the other settings.
_MEMORY = ts.Context({"memory_key_value_store": {}})
_settings: tuple[int, int, int] | None = None
_context: ts.Context
_caching: ts.Context


def configure(*, copies: int | None = None, transfers: int = 8, cache_bytes: int = 0) -> None:
    """How many threads of this process may decode (`copies`) and read or write (`transfers`) at once, and its cache.

    `cache_bytes` of decoded chunks are kept, of arrays that are opened as constant. Holds for arrays opened afterwards.
    The default is modest, because a machine usually runs several workers; the environment variable BIGREG_COPIES is
    another default of `copies`, for a worker that has several cores.
    """
    global _settings, _context, _caching
    if copies is None:
        copies = int(os.environ.get("BIGREG_COPIES", "4"))
    if _settings == (copies, transfers, cache_bytes):
        return  # and what is cached stays
    _settings = (copies, transfers, cache_bytes)
    io = {"limit": transfers}
    # One request of the thousands of a read: `patiently` repeats the whole of it.
    retries = {"max_retries": 3, "initial_delay": "200ms", "max_delay": "5s"}
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
    _caching = ts.Context({"cache_pool": {"total_bytes_limit": cache_bytes}}, parent=_context)


configure()


def context(*, caching: bool = False) -> ts.Context:
    """The settings and thread limits that every handle of this process shares; with `caching` the cache too."""
    return _caching if caching else _context


def kvstore_spec(url: str) -> dict[str, Any] | str:
    zipped = zip_parts(url)
    if zipped is not None:
        archive, inner = zipped
        path = local_path(archive)
        base = {"driver": "file", "path": str(path)} if path is not None else _file_spec(archive)
        return {"driver": "zip", "base": base, "path": f"{inner}/" if inner else ""}
    path = local_path(url)
    if path is not None:
        return {"driver": "file", "path": f"{path}/"}
    if scheme(url) == "s3":
        return _s3_spec(url)
    return quote(str(url).rstrip("/"), safe=":/?&=%@+,~!()") + "/"


def _file_spec(url: str) -> dict[str, Any] | str:
    """The store of one remote file."""
    spec = kvstore_spec(url.rpartition("/")[0])
    name = url.rpartition("/")[2]
    return spec + quote(name) if isinstance(spec, str) else {**spec, "path": spec["path"] + name}


def _s3_spec(url: str) -> dict[str, Any]:
    """A place in an S3 bucket; server, region and credentials are those of the standard AWS environment."""
    bucket, _, path = str(url).removeprefix("s3://").strip("/").partition("/")
    known = bool(os.environ.get("AWS_ACCESS_KEY_ID"))
    # tensorstore does not look for the name by itself, not even for "default".
    profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"
    spec: dict[str, Any] = {
        "driver": "s3",
        "bucket": bucket,
        "path": f"{path}/" if path else "",
        # The whole chain looks for files and services too, loudly; it ends with anonymous access.
        "aws_credentials": {"type": "environment"} if known else {"type": "default", "profile": profile},
    }
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        spec["endpoint"] = endpoint
        if region := _aws_region():
            spec["aws_region"] = region  # AWS itself is asked where a bucket is
    return spec


def _aws_region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """A remote place as a file system that lists folders and seeks in files, and the path there.

    Raises InputError where the package for it is missing.
    """
    try:
        options = _s3_options() if scheme(url) == "s3" else {}
        files, path = fsspec.core.url_to_fs(str(url), use_listings_cache=False, **options)
        return files, path
    except ImportError as error:
        raise InputError(f"'{url}' needs more packages ({error}); pip install 'bigreg[s3]'") from error


@cache
def _s3_options() -> dict[str, Any]:
    import botocore.session

    region = _aws_region()
    return {
        "anon": botocore.session.Session().get_credentials() is None,
        "client_kwargs": {"region_name": region} if region else {},
    }


def open_kvstore(url: str) -> ts.KvStore:
    try:
        return patiently(url, lambda: ts.KvStore.open(kvstore_spec(url), context=_context).result())
    except ValueError as error:
        raise InputError(f"'{url}' cannot be opened: {error_reason(error)}") from error


def read_error(url: str, error: ValueError | OSError) -> InputError | CorruptDataError:
    """What tensorstore or the system said on reading, as an error that names the thing and the remedy."""
    if "ignored by server" in str(error):
        return InputError(f"'{url}' is sharded, and its server ignores byte ranges; use one that has them, or a copy")
    refused = error_code(error) in ("PERMISSION_DENIED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED")
    if refused or passing(error) or error_number(error) is not None or "HTTP code" in str(error):
        return InputError(
            f"'{url}' cannot be read: {error_reason(error)}; check address, network, disk and permissions"
        )
    return CorruptDataError(f"'{url}' cannot be decoded: {error_reason(error)}; restore it from its source")


def write_error(url: str, error: ValueError | OSError) -> OutputError:
    """The same on writing."""
    remedy = {
        "RESOURCE_EXHAUSTED": "free some space there (what is written stays valid) and run the same command again",
        "PERMISSION_DENIED": "make the place writable or choose another output",
    }.get(error_code(error), "choose another output or repair the place")
    return OutputError(f"'{url}' cannot be written: {error_reason(error)}; {remedy}")
