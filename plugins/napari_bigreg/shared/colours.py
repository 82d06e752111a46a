"""Colours that say something: the status of blocks, the Jacobian determinant. Told apart by the colour-blind too."""

from __future__ import annotations

from typing import Any

import numpy as np

STATUS = {"todo": "#9aa3ad", "running": "#f0e442", "done": "#009e73", "blank": "#56b4e9", "failed": "#d55e00"}
"""What an element of a status array says, in the order of its values (Okabe and Ito's colours)."""
VERDICT = {"good": STATUS["done"], "look": "#e69f00", "bad": STATUS["failed"]}
FOLD = "#ffe600"
ARROW = "#35d0ff"


def block_colours() -> Any:
    """Of status values over contrast limits -0.5 to 4.5: one colour each."""
    from napari.utils.colormaps import Colormap

    return Colormap(list(STATUS.values()), name="status of blocks", interpolation="zero")


def risk_colours() -> Any:
    """Over 0 to 1: what is safe is not seen, what is most likely wrong is red."""
    from napari.utils.colormaps import Colormap

    return Colormap([[1, 0.9, 0.4, 0], [1, 0.6, 0.1, 0.5], [0.85, 0.1, 0.05, 0.8]], name="risk")


def unmatched_colours() -> Any:
    """Of 0 and 1: what has a counterpart is not seen."""
    from napari.utils.colormaps import Colormap

    return Colormap([[0.9, 0.2, 0.9, 0], [0.9, 0.2, 0.9, 0.6]], name="no counterpart", interpolation="linear")


def jacobian_colours(values: np.ndarray) -> Any:
    """Over contrast limits 0 to 2, by the logarithm: white keeps its volume, blue shrinks, red grows, yellow folds.

    The strongest blue and red are the changes that `values` holds, of at least 10 %, so that noise stays pale.
    """
    from matplotlib import colormaps
    from napari.utils.colormaps import Colormap

    positive = values[values > 0]
    most = np.log(1.1)
    if positive.size:
        most = max(most, float(np.percentile(np.abs(np.log(positive)), 99.8)))
    ratios = np.linspace(0, 2, 256)
    with np.errstate(divide="ignore"):
        place = 0.5 + 0.5 * np.clip(np.log(ratios) / most, -1, 1)
    return Colormap(colormaps["RdBu_r"](place), name="volume ratio", low_color=FOLD)
