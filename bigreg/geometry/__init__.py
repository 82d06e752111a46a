"""Grids and blocks: world and index arithmetic. No files, no torch."""

from .blocks import Block, BlockGrid
from .grid import Grid, Shape, Vector
from .lattice import Lattice

__all__ = ["Block", "BlockGrid", "Grid", "Lattice", "Shape", "Vector"]
