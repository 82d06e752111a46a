"""Values of a configuration, and what reading one costs."""

import subprocess
import sys

import pytest
from dask.utils import parse_bytes

from bigreg import load_config


@pytest.mark.parametrize("text", ["64MB", "64 MB", "2GiB", "3 GB", "512MiB", "1.5GB", "700", "8k", "0MB"])
def test_a_size_is_what_dask_makes_of_it(text):
    assert load_config("rounds", overrides=[f"io.cache={text!r}"]).io.cache_bytes == parse_bytes(text)


def test_a_preset_is_read_without_importing_dask():
    code = "import sys, bigreg.config as c; c.load_config('rounds'); sys.exit('dask' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
