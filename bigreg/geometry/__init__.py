"""Grids and blocks: world and index arithmetic. No files, no torch."""

from .blocks import Block, BlockGrid
from .grid import Grid, Integers, Numbers, Shape, Vector, triple
from .lattice import Lattice

__all__ = ["Block", "BlockGrid", "Grid", "Integers", "Lattice", "Numbers", "Shape", "Vector", "triple"]
