"""What a TIFF file states about its voxels: the conventions of OME-XML and of ImageJ."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import tifffile

from .units import figures, micrometres, number

# The version that other writers put in; they leave `spacing` out where they do not know it, ImageJ where it is 1.
NOT_IMAGEJ = "1.11a"


@dataclass(frozen=True)
class Calibration:
    """Voxel size (z, y, x) in um and what states it; None and what was found where it cannot be used.

    origin   place of the first voxel, um
    """

    spacing: tuple[float, ...] | None = None
    origin: tuple[float, ...] = (0.0, 0.0, 0.0)
    by: str = ""
    unstated: str = ""
    likely: tuple[float, ...] | None = None


def calibration(tiff: tifffile.TiffFile, series: int) -> Calibration:
    found = _ome(tiff, series)
    return found if found.spacing is not None or found.unstated else _imagej(tiff)


def ome_images(tiff: tifffile.TiffFile) -> list[ElementTree.Element] | None:
    """The Image elements of the OME-XML; None where it cannot be read, an empty list where there is none."""
    if not tiff.ome_metadata:
        return []
    try:
        root = ElementTree.fromstring(tiff.ome_metadata)
    except ElementTree.ParseError:
        return None
    return [element for element in root.iter() if tag_of(element) == "Image"]


def ome_pixels(tiff: tifffile.TiffFile, series: int) -> ElementTree.Element | None:
    """The Pixels element of a series; None where there is no OME-XML, it cannot be read, or it names fewer images."""
    images = ome_images(tiff) or []
    return next((e for e in images[series].iter() if tag_of(e) == "Pixels"), None) if series < len(images) else None


def tag_of(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _ome(tiff: tifffile.TiffFile, series: int) -> Calibration:
    images = ome_images(tiff)
    if images is None:
        return Calibration(unstated="its OME-XML is not well formed")
    pixels = ome_pixels(tiff, series)
    if pixels is None:
        return Calibration()
    sizes, stated = [], {}
    for axis in "ZYX":
        key = f"PhysicalSize{axis}"
        text, unit = pixels.get(key), pixels.get(f"{key}Unit", "µm")  # the schema's default
        value, factor = number(text), micrometres(unit)
        sizes.append(abs(value) * factor if value and factor else None)
        stated[key] = "nothing" if text is None else f"'{text}'" + ("" if unit == "µm" else f" {unit}")
    known = tuple(size for size in sizes if size is not None)
    if len(known) == len(sizes):
        return Calibration(known, by="OME-XML")
    if all(value == "nothing" for value in stated.values()):
        return Calibration()
    return Calibration(unstated="OME-XML states " + ", ".join(f"{key} {value}" for key, value in stated.items()))


def missing_ome_files(tiff: tifffile.TiffFile, series: int) -> tuple[list[str], str]:
    """Files of a series that are not beside this one; and the file that describes the series, if it is another."""
    if not tiff.ome_metadata:
        return [], ""
    try:
        root = ElementTree.fromstring(tiff.ome_metadata)
    except ElementTree.ParseError:
        return [], ""
    master = next((e.get("MetadataFile", "") for e in root.iter() if tag_of(e) == "BinaryOnly"), "")
    images = [element for element in root.iter() if tag_of(element) == "Image"]
    own, folder = root.get("UUID"), tiff.filehandle.dirname
    named: dict[str, None] = {}
    for element in images[series].iter() if series < len(images) else ():
        if tag_of(element) == "UUID" and (file := element.get("FileName")) and (element.text or "").strip() != own:
            named[file] = None
    # One file that was renamed names itself by its old name.
    names = [name for name in named if name.lower() != tiff.filename.lower()]
    lost = [name for name in names if not os.path.exists(os.path.join(folder, name))]
    return ([] if own is None and len(named) == 1 else lost), master


def _imagej(tiff: tifffile.TiffFile) -> Calibration:
    metadata = tiff.imagej_metadata or {}
    if not metadata:
        return Calibration(unstated=_resolution(tiff))
    unit = metadata.get("unit")
    units = {"z": metadata.get("zunit", unit), "y": metadata.get("yunit", unit), "x": unit}
    depth = metadata.get("spacing", None if str(metadata.get("ImageJ")) == NOT_IMAGEJ else 1.0)
    tags = tiff.pages.first.tags
    steps: dict[str, Any] = {"z": number(depth)}
    for axis, tag in (("y", "YResolution"), ("x", "XResolution")):
        count, length = tags[tag].value if tag in tags else (0, 1)
        steps[axis] = length / count if count else None
    sizes = [abs(steps[axis] or 0) * (micrometres(units[axis]) or 0) for axis in "zyx"]
    if all(size > 0 for size in sizes):
        # The voxel that lies at 0, counted from the first.
        zeros = [number(metadata.get(f"{axis}origin")) or 0.0 for axis in "zyx"]
        origin = tuple(-zero * size + 0.0 for zero, size in zip(zeros, sizes, strict=True))
        return Calibration(tuple(float(size) for size in sizes), origin, "ImageJ")
    if "spacing" in metadata and not steps["z"]:
        return Calibration(unstated=f"ImageJ states spacing '{metadata['spacing']}'")
    if unit is not None and micrometres(unit) is None:
        return Calibration(unstated=f"ImageJ states the unit '{unit}'")
    if unit is None and "spacing" in metadata and all(steps.values()):
        found = tuple(abs(float(steps[axis])) for axis in "zyx")
        return Calibration(unstated=f"ImageJ states {figures(found)} (z, y, x) without a unit")
    if unit is not None:
        what = "z step" if steps["z"] is None else "resolution in y and x"
        return Calibration(unstated=f"ImageJ states the unit '{unit}' but no {what}")
    return Calibration()


def _resolution(tiff: tifffile.TiffFile) -> str:
    """Words for a size that is stated within planes alone, in cm: inches are most often those of a printer."""
    tags = tiff.pages.first.tags
    steps = [tags[tag].value for tag in ("YResolution", "XResolution") if tag in tags]
    centimetres = "ResolutionUnit" in tags and tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
    if not centimetres or len(steps) < 2 or not all(count for count, _ in steps):
        return ""
    y, x = (1e4 * length / count for count, length in steps)
    return f"its resolution states {y:.6g} x {x:.6g} µm (y, x), but nothing states the step in z"


def keeps_signed(tiff: tifffile.TiffFile, dtype: Any) -> bool:
    """Whether 16-bit unsigned numbers stand for signed ones: ImageJ's calibration by -32768 + value."""
    metadata = tiff.imagej_metadata or {}
    known = (number(metadata.get("cf")), number(metadata.get("c0")), number(metadata.get("c1")))
    return known == (0.0, -32768.0, 1.0) and dtype.kind == "u" and dtype.itemsize == 2
