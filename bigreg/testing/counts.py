"""What a simulated device counts."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

VIEWS = frozenset([
    "alias", "as_strided", "chunk", "detach", "diagonal", "expand", "lift_fresh", "narrow", "permute", "reshape",
    "_reshape_alias", "resolve_conj", "resolve_neg", "select", "slice", "split", "split_with_sizes", "squeeze", "t",
    "transpose", "unbind", "unfold", "unsqueeze", "_unsafe_view", "view", "view_as_real",
])  # fmt: skip
"""Operations that launch nothing: they give the same memory another shape."""
EMPTY = frozenset(["empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"])
"""Operations that take memory and launch nothing."""
SYNCHRONISING = frozenset([
    "_local_scalar_dense", "bincount", "equal", "is_nonzero", "masked_select", "nonzero", "_unique2",
    "unique_consecutive", "unique_dim",
])  # fmt: skip
"""Operations after which the host has to wait: the answer, or the shape of the answer, depends on values."""
INDEXING = frozenset(["index", "index_put", "index_put_", "_index_put_impl_"])
ADDING = frozenset([
    "bincount", "histc", "index_add", "index_add_", "index_put", "index_put_", "_index_put_impl_", "put_",
    "scatter_add", "scatter_add_", "grid_sampler_3d_backward",
])  # fmt: skip
"""Operations that may add to one place from many threads: of floating numbers a GPU gives other bits each time."""
KERNELS = {"constant_pad_nd": 2}
"""Kernels of an operation that is more than one."""


@dataclass
class Counts:
    """Work of a simulated device.

    kernels      launches, by the name of the operation
    bytes        read and written by them, if each operation reads its inputs and writes its outputs once
    syncs        times that the host waited for the device, by the line of bigreg that made it ("lncc.py:90")
    unordered    sums of floating numbers whose order a GPU leaves open, by the line that made them
    to_device, to_host              transfers
    to_device_bytes, to_host_bytes  their bytes
    peak_bytes   most memory that was in use at once, of what the counts cover
    """

    kernels: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    syncs: Counter[str] = field(default_factory=Counter)
    unordered: Counter[str] = field(default_factory=Counter)
    to_device: int = 0
    to_device_bytes: int = 0
    to_host: int = 0
    to_host_bytes: int = 0
    peak_bytes: int = 0

    @property
    def launches(self) -> int:
        return self.kernels.total()

    @property
    def waits(self) -> int:
        return self.syncs.total()

    def to_json(self) -> dict[str, Any]:
        """The sums: launches, bytes, waits, transfers and the peak."""
        return {
            "launches": self.launches, "bytes": self.bytes, "waits": self.waits, "to_device": self.to_device,
            "to_device_bytes": self.to_device_bytes, "to_host": self.to_host, "to_host_bytes": self.to_host_bytes,
            "peak_bytes": self.peak_bytes,
        }  # fmt: skip

    def launch(self, name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor], adds: bool) -> None:
        """An operation has run on these tensors of the host. `adds`: indexing that adds values up."""
        if name in VIEWS or name in EMPTY:
            return
        if name in ADDING and (adds or name not in INDEXING) and any(t.is_floating_point() for t in outputs):
            self.unordered[f"{name} {site()}"] += 1
        self.kernels[name] += KERNELS.get(name, 1)
        if name in ("index", "gather", "index_select"):  # reads what it picks and the indices, not all
            self.bytes += 2 * sum(map(touched, outputs)) + sum(map(touched, inputs[1:]))
        elif name in ("zero_", "fill_"):
            self.bytes += sum(map(touched, outputs))
        else:
            self.bytes += sum(map(touched, inputs)) + sum(map(touched, outputs))

    def wait(self) -> None:
        """The host waits for the device."""
        self.syncs[site()] += 1


def touched(tensor: torch.Tensor) -> int:
    """Bytes of memory behind a tensor's elements; what is expanded counts once."""
    count = tensor.element_size()
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride != 0 else 1
    return count


def site() -> str:
    """The innermost line of bigreg, this package left out, that led here: file and number."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("bigreg.") and not module.startswith("bigreg.testing"):
            return f"{module.rpartition('.')[2]}.py:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"
