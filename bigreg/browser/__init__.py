"""Runs and images in a web browser: neuroglancer, and what it reads."""

from .layers import BrowserLayer, layers_at
from .neuroglancer import show_in_neuroglancer, state_of
from .serving import Serving

__all__ = ["BrowserLayer", "Serving", "layers_at", "show_in_neuroglancer", "state_of"]
