"""Engines: each estimates, for one pair of patches in mid-space, a piece of velocity and its confidence.

An engine knows no files and no Dask. It is chosen by name and found through the entry-point group `bigreg.engines`, so
a package of a third party adds one without touching this one.
"""

from .base import Engine, PatchPair, VelocityPatch, load_engine

__all__ = ["Engine", "PatchPair", "VelocityPatch", "load_engine"]
