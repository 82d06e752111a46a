"""A brain in an atlas and the atlas in a brain: regions, their borders and volumes, the cells in each."""

from .brainreg import export_brainreg
from .result import AtlasResult, is_atlas_result
from .source import Atlas, brainglobe_atlas, chosen_atlas, local_atlas
from .structures import Structure, Structures
from .workflow import atlas

__all__ = [
    "Atlas",
    "AtlasResult",
    "Structure",
    "Structures",
    "atlas",
    "brainglobe_atlas",
    "chosen_atlas",
    "export_brainreg",
    "is_atlas_result",
    "local_atlas",
]
