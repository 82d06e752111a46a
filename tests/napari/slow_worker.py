"""Preloaded by the workers of test_monitor_live: blocks take a while, and one of the finest level fails until told."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bigreg.pipeline.tasks import estimate


def slow(context, level_index, index, original=estimate.estimate):  # bound here: a file may be preloaded twice
    time.sleep(float(os.environ["BIGREG_TEST_SLOW"]))
    if level_index == 0 and tuple(index) == (0, 1, 1) and Path(os.environ["BIGREG_TEST_BREAK"]).exists():
        raise RuntimeError("broken on purpose")
    return original(context, level_index, index)


slow.__module__, slow.__qualname__ = estimate.__name__, "estimate"
estimate.estimate = slow
