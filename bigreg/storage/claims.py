"""A place that one process at a time may claim: a small file that says by whom, written only if nobody else has.

Works wherever tensorstore can write on a condition: local and network file systems, memory, object stores.
"""

from __future__ import annotations

import json
from typing import Any

from ..places import join
from .locations import open_kvstore, read_error, write_error
from .retry import error_code


class Claim:
    """The file `name` below `url`. `generation` is what it was when it was last read or written here."""

    def __init__(self, url: str, name: str) -> None:
        self.place = join(url, name)
        self._name = name
        self._store = open_kvstore(url)
        self._generation = b""

    def read(self) -> dict[str, Any] | None:
        """Who holds the place; None where nobody does."""
        try:
            found = self._store.read(self._name).result()
        except ValueError as error:
            raise read_error(self.place, error) from error
        self._generation = found.stamp.generation
        if found.state != "value":
            return None
        try:
            content: dict[str, Any] | None = json.loads(found.value)
            return content
        except ValueError:
            return {}

    def write(self, holder: dict[str, Any] | None) -> bool:
        """Say who holds the place, None for nobody; False if somebody else was here since the last read or write."""
        value = None if holder is None else json.dumps(holder, indent=1).encode()
        try:
            stamp = self._store.write(self._name, value, if_equal=self._generation).result()
        except ValueError as error:
            if error_code(error) in ("ABORTED", "FAILED_PRECONDITION"):
                return False
            raise write_error(self.place, error) from error
        if not stamp.generation:
            return False
        self._generation = stamp.generation
        return True
