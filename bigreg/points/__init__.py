"""Points in files, through a map: tables, traced neurons, meshes; one small module a format."""

from .carrier import Carrier, Column, Counts, inside_column, units_matrix
from .files import FORMATS, map_points_file

__all__ = ["FORMATS", "Carrier", "Column", "Counts", "inside_column", "map_points_file", "units_matrix"]
