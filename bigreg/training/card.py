"""The weights of a training and the card that says where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..models import Card, Spacing, save
from ..networks import Network
from .config import Contrast, Training
from .sources import Opened

FIGURES = (
    "error_um", "error_voxels", "start_voxels", "folds", "least_determinant", "inverse_voxels", "similarity",
    "start_similarity", "landmarks_voxels", "seam",
)  # fmt: skip


def save_weights(
    path: Path, network: Network, config: Training, sources: list[Opened], figures: Mapping[str, float], origin: str
) -> Card:
    """Write the weights and their card; `figures` are those of the last validation, `origin` where it began."""
    sizes = np.array(
        config.data.spacing
        if config.data.spacing is not None
        else [s.spacing(d) for s in sources for d in config.data.downsample]
    )
    names = [Path(v.spec.path).name for s in sources for v in s.volumes.values() if v.spec is not None]
    learned = f"{len(sources)} source{'s' * (len(sources) != 1)} ({', '.join(dict.fromkeys(names))})"
    steps = ", ".join(filter(None, [f"{config.schedule.steps} steps on {learned}", origin]))
    card = Card(
        data=". ".join(filter(None, [config.output.description, steps])),
        spacing=Spacing(low=tuple(sizes.min(0)), high=tuple(sizes.max(0))),
        contrast=f"intensities {config.data.intensity.model_dump()}, {_changed(config.augment.contrast)}",
        figures={f"held_out_{k}": v for k, v in figures.items() if k in FIGURES and np.isfinite(v)},
        licence=config.output.licence,
    )
    return save(path, network, card)


def _changed(contrast: Contrast | None) -> str:
    if contrast is None:
        return "as they are"
    ways = {"through random curves": contrast.curve, "made of labels": contrast.greys}
    unlike = " or ".join(way for way, settings in ways.items() if settings is not None)
    return f"each image {unlike}, changed at random" if unlike else "their contrast changed at random"
