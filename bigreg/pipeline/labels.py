"""What every stage of a run is called for people: on a terminal, by `bigreg status`, in napari. Their places in the
store have names of their own, which stay.
"""

from __future__ import annotations

from typing import Any

LABELS = {
    "impulses": "look for impulses in {which}",
    "downsample": "downsample {which} by {factors}",
    "mask": "mask of {which} at {factors}",
    "correct": "measure {what} of {which}",
    "affine": "global affine",
    "find pairs": "look for pairs of points, pass {number}",
    "keep pairs": "pairs that agree, pass {number}",
    "spline": "spline through the landmarks",
    "given maps": "load the maps to start from",
    "landmarks": "level {level}: landmarks",
    "estimate": "level {level}: estimate",
    "stitch": "level {level}: stitch",
    "compose": "level {level}: compose",
    "compose again": "level {level}: compose, attempt {attempt}",
    "field": "displacement field {source} to {target}",
    "field level": "displacement field {source} to {target}, level {level}",
    "check": "measure the inverse error",
    "likeness": "similarity before and after",
    "confidence": "risk of errors",
    "sigma": "error bars of the map (sigma)",
    "risk and sigma": "risk and sigma compared",
    "noncorrespondence": "parts without a counterpart",
    "warped": "warped image",
    "warped level": "warped image, level {level}",
    "comparison": "comparison at the finest level",
    "report": "write the report",
}


def label(kind: str, **values: Any) -> str:
    """The label of a stage; `values` fill in which image, level or direction."""
    return LABELS[kind].format(**values)
