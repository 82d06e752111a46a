"""What Python's callers get told of keywords that cannot be used: the value and the remedy, in Python's words."""

from __future__ import annotations

import numpy as np
import pytest

from bigreg.display import shown
from bigreg.errors import ConfigError, InputError
from bigreg.volumes import convert, open_volume

ARRAY = np.zeros((4, 5, 6), "f4")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"spacing": (1, 2)},
            r"image \(an array in memory\): spacing: \(1, 2\) is not three numbers in µm \(z, y, x\)",
        ),
        ({"spacing": (1, 1, 1), "origin": (0, "a", 0)}, r"origin: \(0, 'a', 0\) is not three numbers"),
        ({"spacing": (1, -1, 1)}, r"spacing \(1.0, -1.0, 1.0\) must be three positive numbers"),
        ({"spacing": (1, 1, 1), "channel": 4}, r"image \(an array in memory\): channel 4 is out of range"),
        ({"spacing": (1, 1, 1), "dataset": "s0"}, "an array has no dataset"),
    ],
)
def test_a_keyword_of_an_array_is_named_with_its_remedy(given, words):
    with pytest.raises(InputError, match=words):
        open_volume(ARRAY, **given)


def test_a_type_of_voxels_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigError, match="dtype 'uint61' is not a type of voxels; use one such as uint16"):
        convert(ARRAY, tmp_path / "a.ome.zarr", spacing=(1, 1, 1), dtype="uint61")
    assert not list(tmp_path.iterdir())


def test_progress_is_true_false_or_a_listener():
    with pytest.raises(ConfigError, match="progress=3 is neither True, False nor a Listener"), shown(3, "run"):
        pass
