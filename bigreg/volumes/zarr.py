"""A plain Zarr array (v2 or v3): no spacing of its own; its axes are named where it says them."""

from __future__ import annotations

from ..storage import join, open_array
from .spec import ImageSpec
from .stored import BoxReader, StoredImage, StoredLevel, counts, packed, pick, scaling, unnamed_axes


def open_zarr(spec: ImageSpec, name: str) -> StoredImage:
    array = open_array(join(spec.path, spec.dataset or ""), constant=True)
    listed = array.dimension_names or array.attributes.get("_ARRAY_DIMENSIONS")  # xarray's, in Zarr v2
    names = "".join(str(axis or "?").lower() for axis in (listed if isinstance(listed, (list, tuple)) else ()))
    named = len(names) == array.ndim == len(set(names)) and set("yx") <= set(names)
    axes = names if named else unnamed_axes(name, spec, array.shape)
    read = BoxReader(array, axes, pick(name, spec, axes, array.shape))
    level = StoredLevel(read.per_axis(array.shape), scaling((1, 1, 1)), read.per_axis(array.chunks), read)
    return StoredImage(
        levels=(level,),
        dtype=array.dtype,
        metadata={"shape": array.shape, "dtype": str(array.dtype), "attributes": array.attributes},
        **counts(axes, array.shape),
        spacing_known=False,
        compression=packed(array),
    )
