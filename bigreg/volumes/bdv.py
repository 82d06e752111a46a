"""The XML beside a BigDataViewer container (N5, HDF5): it holds the voxel sizes, which the container does not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from ..storage import children, read_file
from .units import micrometres, numbers


@dataclass(frozen=True)
class BdvSize:
    """The voxel size of one setup as an XML states it, (z, y, x): um, or None and why with what it likely is."""

    spacing: tuple[float, ...] | None
    unstated: str = ""
    likely: tuple[float, ...] | None = None


def bdv_container(xml: Path) -> Path | None:
    """The N5, HDF5 or Zarr that an XML of BigDataViewer describes; None where it describes none."""
    try:
        loader = ElementTree.parse(xml).getroot().find("SequenceDescription/ImageLoader")
    except (ElementTree.ParseError, OSError):
        return None
    named = [found.text.strip() for kind in ("n5", "hdf5", "zarr") if loader is not None
             and (found := loader.find(kind)) is not None and found.text]  # fmt: skip
    return xml.parent / named[0] if named else None


def bdv_size(container: str, setup: int) -> BdvSize:
    """The voxel size of a setup, from the XML that names the container, or has its name or the name "dataset"."""
    folder, _, own = container.rstrip("/").rpartition("/")
    stem = PurePosixPath(own).stem
    names = [name for name in children(folder) if name.lower().endswith(".xml") and not name.startswith(".")]
    names.sort(key=lambda name: (name[:-4] != stem, name[:-4] != "dataset", name))
    for name in names or [f"{stem}.xml", "dataset.xml"]:
        content = read_file(folder, name)
        if content is None or not (name[:-4] == stem or own.encode() in content):
            continue
        try:
            root = ElementTree.fromstring(content)
        except ElementTree.ParseError as error:
            return BdvSize(None, f"its {name} is not XML: {error}")
        setups = list(root.iter("ViewSetup"))
        for number, found in enumerate(setups):
            if int(found.findtext("id") or number) == setup:
                return _size(name, found)
        return BdvSize(None, f"{name} has no setup {setup}")
    return BdvSize(None, f"BigDataViewer keeps it in an XML beside, such as {stem}.xml, which is not there")


def _size(name: str, setup: ElementTree.Element) -> BdvSize:
    text = setup.findtext("voxelSize/size") or ""
    size, unit = numbers(text.split(), 3, positive=True), (setup.findtext("voxelSize/unit") or "").strip()
    if size is None:
        return BdvSize(None, f"the voxelSize '{text}' of {name} cannot be read")
    zyx, factor = tuple(size[::-1]), micrometres(unit)
    if factor is None:
        shown = f"in '{unit}', which is no unit of length" if unit else "without a unit"
        return BdvSize(None, f"the voxelSize '{text}' (x y z) of {name} is {shown}", None if unit else zyx)
    return BdvSize(tuple(factor * value for value in zyx))
