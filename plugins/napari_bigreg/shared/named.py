"""The panels by their names: what opens one knows no more of it than that."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from qtpy.QtWidgets import QWidget

NAMES = ("monitor", "inspect", "landmarks", "launch")


def panel_class(name: str) -> type[QWidget]:
    """The class of one of NAMES. The first time it imports for seconds, torch above all."""
    return getattr(import_module(f"..{name}.panel", __package__), f"{name.capitalize()}Panel")


def open_beside(viewer: Any, name: str) -> Any:
    """A new panel, as a tab beside those that are open."""
    panel = panel_class(name)(viewer)
    viewer.window.add_dock_widget(panel, name=name.capitalize(), area="right", tabify=True)
    return panel
