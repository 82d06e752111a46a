"""Grids and blocks: world and index arithmetic. No files, no torch."""

from .blocks import Block, BlockGrid
from .grid import Grid, Shape, Vector

__all__ = ["Block", "BlockGrid", "Grid", "Shape", "Vector"]
