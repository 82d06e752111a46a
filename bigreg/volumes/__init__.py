"""What an image is: a lazy, chunked, multiscale Volume placed in the world; one small module a format."""

from .spec import ImageSpec
from .volume import Level, Volume, open_volume

__all__ = ["ImageSpec", "Level", "Volume", "open_volume"]
