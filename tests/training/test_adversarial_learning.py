"""InvGAN learns with its discriminators as it does without them; see test_learning.py."""

from __future__ import annotations

import pytest

from .short_training import check_that_it_learns

pytestmark = [pytest.mark.data, pytest.mark.slow]

PAIR = {"name": "adversarial", "kind": "pair", "weight": 0.02, "rate": 1e-4, "settings": {"widths": [4, 8, 16, 16]}}
FLOW = {"name": "adversarial", "kind": "flow", "weight": 0.02, "rate": 1e-4, "settings": {"widths": [8, 16, 16]}}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("judge", [PAIR, FLOW], ids=["pairs", "flows"])
def test_a_short_training_halves_the_error_on_what_was_held_out(data_folder, tmp_path, judge):
    check_that_it_learns(data_folder, tmp_path, "invgan", [judge], 240)
