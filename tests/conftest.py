"""What all tests share: real data, determinism, hypothesis profiles."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# No deadline: the first call of a compiled operation may be slow on a busy machine. In CI the same examples each time.
hypothesis.settings.register_profile("bigreg", deadline=None, max_examples=25)
hypothesis.settings.register_profile(
    "ci", hypothesis.settings.get_profile("bigreg"), derandomize=True, print_blob=True, database=None
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "bigreg")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of the real volumes: BIGREG_TEST_DATA, else shared/data beside the repository; skips where absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("BIGREG_TEST_DATA", beside))
    folder = folder.resolve()
    if not folder.is_dir():
        pytest.skip(f"no real volumes at {folder}; set BIGREG_TEST_DATA to their folder")
    return folder
