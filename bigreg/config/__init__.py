"""What configs/*.yaml says: its keys (`sections`), and how it is read (`loading`)."""

from ..cluster.settings import Cluster
from .channels import ChannelPair, Labels
from .images import Intensity, Preprocess, Preprocessing, Section, Stripes
from .loading import (
    cluster_names,
    load_cluster,
    load_config,
    parse_yaml,
    preset_folder,
    preset_names,
    preset_text,
    set_key,
)
from .sections import (
    IO,
    Affine,
    Blocks,
    Coarse,
    Config,
    Guarantee,
    Ladder,
    Landmarks,
    Masks,
    Output,
)

__all__ = [
    "IO",
    "Affine",
    "Blocks",
    "ChannelPair",
    "Cluster",
    "Coarse",
    "Config",
    "Guarantee",
    "Intensity",
    "Labels",
    "Ladder",
    "Landmarks",
    "Masks",
    "Output",
    "Preprocess",
    "Preprocessing",
    "Section",
    "Stripes",
    "cluster_names",
    "load_cluster",
    "load_config",
    "parse_yaml",
    "preset_folder",
    "preset_names",
    "preset_text",
    "set_key",
]
