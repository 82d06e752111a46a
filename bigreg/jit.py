"""How the sweeps of the CPU are compiled: by numba, once for a machine, without the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

R = TypeVar("R")

# Fused multiply-add and reciprocals, but no new order of sums: the same bits from any number of workers.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}


def compiled(function: Callable[..., R]) -> Callable[..., R]:
    """Compile at the first call; the machine code is kept beside the source or in the user's cache."""
    try:
        made: Callable[..., R] = numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # no place to keep it can be written to: compiled anew by each process
        made = numba.njit(**_OPTIONS)(function)
    return made
