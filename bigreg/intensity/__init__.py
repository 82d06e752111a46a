"""Corrections of an image's intensities that are estimated once and applied to any box of it."""

from .corrections import Corrections, corrections
from .stripes import stripe_profile
from .tiles import BINS, Bins, Tiles

__all__ = ["BINS", "Bins", "Corrections", "Tiles", "corrections", "stripe_profile"]
