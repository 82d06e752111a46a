"""Networks in tests are tiny: more than one thread only makes them wait for each other."""

import pytest


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass
