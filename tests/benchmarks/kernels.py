"""The fused kernels, compiled for cards that are not there: registers, spills and instructions of each.

    python tests/benchmarks/kernels.py [--cards 80 90 100]

Triton brings the compiler. A line of JSON for each card and kernel: registers a thread, bytes a thread that did not fit
in them, shared memory, instructions, and multiprocessor occupancy as far as registers bound it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bigreg.engines import bending_cuda, membrane_cuda, midspace_cuda
from bigreg.kernels import SIZES
from bigreg.similarity import lncc_cuda

LNCC_Y, LNCC = ({"TY": t[0], "TX": t[1], "R": 3} for t in (lncc_cuda.TILE_Y, lncc_cuda.TILE_X))
LNCC_Z = {"PLANES": lncc_cuda.PLANES, "R": 3, "BLOCK": lncc_cuda.PLANE}
MIDSPACE = {"BLOCK": midspace_cuda.BLOCK}
MEMBRANE = {"BLOCK": membrane_cuda.BLOCK}
KERNELS: list[tuple[Any, int, dict[str, Any]]] = [
    (lncc_cuda._products_along_z, lncc_cuda.WARPS, LNCC_Z),
    (lncc_cuda._along_z, lncc_cuda.WARPS, LNCC_Z),
    (lncc_cuda._along_y, lncc_cuda.WARPS, LNCC_Y),
    (lncc_cuda._coefficients, lncc_cuda.WARPS, LNCC | {"SQUARED": False}),
    (lncc_cuda._coefficients, lncc_cuda.WARPS, LNCC | {"SQUARED": True}),
    (lncc_cuda._forces, lncc_cuda.WARPS, LNCC | {"SQUARED": False}),
    (lncc_cuda._forces, lncc_cuda.WARPS, LNCC | {"SQUARED": True}),
    (midspace_cuda._warp, midspace_cuda.WARPS, MIDSPACE | {"WHOLE": True}),
    (midspace_cuda._warp, midspace_cuda.WARPS, MIDSPACE | {"WHOLE": False}),
    (midspace_cuda._pull, midspace_cuda.WARPS, MIDSPACE | {"CURVATURE": False, "ADD": False, "SCALARS": False}),
    (midspace_cuda._pull, midspace_cuda.WARPS, MIDSPACE | {"CURVATURE": True, "ADD": True, "SCALARS": True}),
    (membrane_cuda._begin, membrane_cuda.WARPS, MEMBRANE),
    (membrane_cuda._product, membrane_cuda.WARPS, MEMBRANE | {"SUMS": membrane_cuda.SUMS}),
    (membrane_cuda._update, membrane_cuda.WARPS, MEMBRANE | {"SUMS": membrane_cuda.SUMS}),
    (bending_cuda._begin, membrane_cuda.WARPS, MEMBRANE),
    (bending_cuda._product, bending_cuda.WARPS, MEMBRANE | {"SUMS": membrane_cuda.SUMS}),
]
DOUBLES = {"sums", "now", "before", "curved"}
SYSTEMS = {membrane_cuda.__name__, bending_cuda.__name__}
"""Modules whose sums are doubles."""


def kind(kernel: Any, name: str) -> str:
    """The type of an argument, as the code that launches the kernels passes it."""
    if name == "floor":
        return "fp32"
    if name in SIZES:
        return "i32"
    if name == "first":
        return "*i32"
    return "*fp64" if name in DOUBLES and kernel.fn.__module__ in SYSTEMS else "*fp32"


def compiled(kernel: Any, warps: int, constants: dict[str, Any], card: int) -> dict[str, Any]:
    names = kernel.arg_names
    anew = [p.name for p in kernel.params if p.name in SIZES and not p.do_not_specialize]
    assert not anew, f"{kernel.fn.__name__} would be compiled anew for other {anew}"
    source = ASTSource(
        fn=kernel, signature={n: "constexpr" if n in constants else kind(kernel, n) for n in names},
        constexprs={(names.index(k),): v for k, v in constants.items()},
    )  # fmt: skip
    made = triton.compile(source, target=GPUTarget("cuda", card, 32), options={"num_warps": warps})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        used = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
        code = subprocess.run([tool, "-sass", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", used.stdout)
    assert found, used.stdout
    registers, stack, shared, local = (int(v) for v in found.groups())
    return {
        "card": card, "module": kernel.fn.__module__.rpartition(".")[2], "kernel": kernel.fn.__name__,
        "options": {k: v for k, v in constants.items() if isinstance(v, bool)},
        "registers": registers, "spilled": stack + local, "shared": shared,
        "instructions": len(re.findall(r"(?m)^\s+/\*[0-9a-f]{4,}\*/", code)),
        "warps_of_64": min(64, 65536 // (registers * 32)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cards", type=int, nargs="+", default=[80, 90, 100])
    for card in parser.parse_args().cards:
        for kernel, warps, constants in KERNELS:
            print(json.dumps(compiled(kernel, warps, constants, card)), flush=True)


if __name__ == "__main__":
    main()
