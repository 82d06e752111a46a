"""The demonstration: a pair with a known answer."""

from .phantom import DemoPair, make_pair

__all__ = ["DemoPair", "make_pair"]
