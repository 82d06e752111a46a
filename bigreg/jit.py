"""How the sweeps of the CPU are compiled: by numba, once for a machine, without the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable

import numba

# Fused multiply-add and reciprocals, but no new order of sums: the same bits from any number of workers.
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}}


def compiled(function: Callable) -> Callable:
    """Compile at the first call; the machine code is kept beside the source or in the user's cache."""
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # no place to keep it can be written to: compiled anew by each process
        return numba.njit(**_OPTIONS)(function)
