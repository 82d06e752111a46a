"""The script that measures a GPU runs from end to end on the simulated one."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"


def test_every_check_of_a_dry_run_gives_figures(tmp_path, monkeypatch, one_thread):
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(out), "--dry"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    found = json.loads(out.read_text())
    assert not [name for name, value in found.items() if isinstance(value, dict) and "error" in value]
    assert found["against the CPU"]["mi"]["largest_difference_voxels"] < 1e-3
    assert found["against the CPU"]["lncc"]["same_bits_again"] and found["counted"]["launches"] > 1000
