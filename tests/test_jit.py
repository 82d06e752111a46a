"""Compiled code works where nothing can be kept."""

import subprocess
import sys

CODE = """
import numba, numba.core.caching as caching
def refuse(self): raise OSError("read-only")
for locator in caching.CacheImpl._locator_classes: locator.ensure_cache_path = refuse
try:
    numba.njit(cache=True)(lambda x: x)
except RuntimeError:
    print("refused")
import torch
from bigreg.transforms.field import sample
values = torch.arange(8.0).reshape(1, 2, 2, 2)
print(float(sample(values, torch.full((3, 1), 0.5))[0, 0]))
"""


def test_sweeps_run_where_no_cache_can_be_written(tmp_path):
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["refused", "3.5"]
