"""The smallest kernel: whether Triton works on this machine, which takes a driver and a C compiler that it likes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _double(values, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, 2.0 * tl.load(values + i))


def trial(device: str = "cuda") -> None:
    """Compile and launch it. Raises whatever Triton raises, RuntimeError where the result is wrong."""
    values = torch.arange(16, dtype=torch.float32, device=device)
    out = torch.zeros_like(values)
    _double[(1,)](values, out, BLOCK=16)
    if out.tolist() != [2.0 * i for i in range(16)]:
        raise RuntimeError("a kernel gives a wrong result")
