"""Every network learns, on a CPU and on patches of a real image, to halve the error on what it never saw.

InvGAN does in test_adversarial_learning.py, with its discriminators beside the same losses.
"""

from __future__ import annotations

import pytest

from .short_training import check_that_it_learns

pytestmark = [pytest.mark.data, pytest.mark.slow]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "steps"), [("sitreg", 50), ("voxelmorph", 240)])
def test_a_short_training_halves_the_error_on_what_was_held_out(data_folder, tmp_path, name, steps):
    check_that_it_learns(data_folder, tmp_path, name, [], steps)
