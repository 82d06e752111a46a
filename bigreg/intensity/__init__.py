"""Corrections of an image's intensities that are estimated once and applied to any box of it."""

from .bright import LIMIT, bright_limit, keep_out_bright, usual_top
from .corrections import Corrections, corrections
from .stripes import stripe_profile
from .tiles import BINS, Bins, Tiles

__all__ = [
    "BINS",
    "LIMIT",
    "Bins",
    "Corrections",
    "Tiles",
    "bright_limit",
    "corrections",
    "keep_out_bright",
    "stripe_profile",
    "usual_top",
]
