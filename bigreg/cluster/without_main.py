"""Workers that start without the script of whoever started them.

A process that is spawned imports the script of its parent again, under another name. A script that registers without
asking for `__name__ == "__main__"` would register in each of its workers. What workers do is all in modules, so they
need no script.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed import Nanny

_lock = threading.Lock()
_hidden: dict[str, Any] = {}
_count = 0


@contextmanager
def without_main() -> Iterator[None]:
    """Processes that are spawned meanwhile do not import the script."""
    global _count
    main = sys.modules["__main__"]
    with _lock:
        _count += 1
        if _count == 1:
            _hidden.update({name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)})
            main.__spec__ = None
            vars(main).pop("__file__", None)
    try:
        yield
    finally:
        with _lock:
            _count -= 1
            if _count == 0:
                vars(main).update(_hidden)
                _hidden.clear()


class Keeper(Nanny):
    """Starts its worker so, also when it starts it again."""

    async def instantiate(self) -> Any:
        with without_main():
            return await super().instantiate()
