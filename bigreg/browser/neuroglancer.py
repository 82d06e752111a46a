"""Neuroglancer's state for layers of known places, and the program itself, on this machine."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ..errors import ConfigError
from .layers import BrowserLayer
from .serving import LOOPBACK, Serving

logger = logging.getLogger(__name__)

MICROMETRE = [1e-6, "m"]
PIXELS = 400
"""Across a panel, at first."""
SHADER = """#uicontrol vec3 color color(default="{colour}")
#uicontrol invlerp normalized(range=[{low:.9g}, {high:.9g}])
void main() {{
  emitRGB(color * normalized());
}}
"""


def state_of(layers: Sequence[BrowserLayer], addresses: Sequence[str]) -> dict[str, Any]:
    """The state, as JSON, that shows layers where they lie in the world.

    Coordinates are um, x y z, of the world; the centre of a layer's voxel (z, y, x) is where its grid has it. The
    middle of the first layer is looked at.
    """
    grid = layers[0].levels[0].grid
    middle = grid.index_to_world((np.asarray([grid.shape]) - 1) / 2)[0]
    extent = float(np.max(np.multiply(grid.shape, grid.spacing)))
    return {
        "dimensions": {name: MICROMETRE for name in "xyz"},
        "position": middle[::-1].tolist(),
        "crossSectionScale": extent / PIXELS,
        "projectionScale": 2 * extent,
        "layers": [_layer(layer, address) for layer, address in zip(layers, addresses, strict=True)],
        "layout": "4panel",
    }


def _layer(layer: BrowserLayer, address: str) -> dict[str, Any]:
    source: dict[str, Any] = {"url": f"zarr3://{address}/", "transform": _transform(layer)}
    if layer.range is None:
        names = [f"precomputed://{address}/regions"] if layer.names else []
        return {"type": "segmentation", "name": layer.name, "source": [source, *names], "selectedAlpha": 0.4}
    low, high = layer.range
    shader = SHADER.format(colour=layer.colour, low=low, high=high)
    return {"type": "image", "name": layer.name, "source": source, "shader": shader, "blend": "additive", "opacity": 1}


def _transform(layer: BrowserLayer) -> dict[str, Any]:
    """From the axes of the finest level to the world: directions between lengths, then the place of its origin."""
    grid = layer.levels[0].grid
    matrix = np.asarray(grid.matrix) / [*grid.spacing, 1.0]
    return {
        "inputDimensions": {name: [step * 1e-6, "m"] for name, step in zip("zyx", grid.spacing, strict=True)},
        "outputDimensions": {name: MICROMETRE for name in "zyx"},
        "matrix": matrix.tolist(),
    }


def show_in_neuroglancer(layers: Sequence[BrowserLayer], shown: Callable[[str, dict[str, Any]], Any]) -> None:
    """Serve layers and neuroglancer on the loopback address until Ctrl-C.

    shown   is called with the address to open and the state, once both are served
    Raises ConfigError where the package neuroglancer is not installed.
    """
    try:
        import neuroglancer
    except ImportError as error:
        raise ConfigError(f"neuroglancer is not installed ({error}); pip install 'bigreg[neuroglancer]'") from error
    viewer = neuroglancer.Viewer()  # its server listens on 127.0.0.1 by default
    page = viewer.get_viewer_url()
    if urlsplit(page).hostname != LOOPBACK:
        raise ConfigError(f"neuroglancer is set to serve at {page}, which others can reach; unset its bind address")
    with Serving(layers, logger.warning, origin=page.partition("/v/")[0]) as serving:
        state = state_of(layers, serving.addresses)
        viewer.set_state(state)
        shown(page, state)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return
