"""What an image is: a lazy, chunked, multiscale Volume placed in the world; one small module a format."""

from .channels import channel_names, channel_number
from .convert import convert
from .multiscale import ImageWriter, create_image
from .pyramid import block_mean, block_mode, downsample, pyramid_factors, weighted_block_mean
from .spec import ImageSpec
from .volume import Level, Volume, open_volume

__all__ = [
    "ImageSpec",
    "ImageWriter",
    "Level",
    "Volume",
    "block_mean",
    "block_mode",
    "channel_names",
    "channel_number",
    "convert",
    "create_image",
    "downsample",
    "open_volume",
    "pyramid_factors",
    "weighted_block_mean",
]
