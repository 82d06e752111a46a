"""One ramp in world coordinates, written in every format by other libraries than bigreg reads it with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import dask.array
import h5py
import nibabel
import nrrd
import numpy as np
import tensorstore as ts
import tifffile
import zarr

SHAPE = (17, 23, 31)
SPACING = np.array([3.0, 1.5, 0.7])
ORIGIN = np.array([10.0, -20.0, 5.0])


def ramp(points: np.ndarray) -> np.ndarray:
    """The phantom: linear in world (z, y, x) um."""
    return np.asarray(points) @ [2.0, -3.0, 5.0] + 100.0


def sampled(shape=SHAPE, spacing=SPACING, origin=(0, 0, 0), affine=None) -> np.ndarray:
    """The ramp at the voxel centres of a grid, float32 (z, y, x)."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).astype(float)
    if affine is not None:
        return ramp(index @ affine[:3, :3].T + affine[:3, 3]).astype("float32")
    return ramp(index * spacing + origin).astype("float32")


def halved(shape=SHAPE) -> tuple[int, ...]:
    return tuple(n // 2 for n in shape)


def oblique() -> np.ndarray:
    """Index (z, y, x) to world: rotated, one axis flipped, anisotropic."""
    a, b = 0.3, -0.5
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(SPACING * [1, 1, -1])
    affine[:3, 3] = ORIGIN
    return affine


def _ome_levels(scale_factor: np.ndarray, extra: int) -> list[dict]:
    """Two levels, ORIGIN split between... the level (half a voxel) and the image (added by the caller)."""
    levels = []
    for number in range(2):
        f = 2.0**number
        scale = [1.0] * extra + list(SPACING * f / scale_factor)
        shift = [0.0] * extra + list((f - 1) / 2 * SPACING / scale_factor)
        steps = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]
        levels.append({"path": f"s{number}", "coordinateTransformations": steps})
    return levels


def ome_zarr_04(folder: Path):
    """Zarr v2, t and c axes, one unit an axis, the origin as a translation of the whole image."""
    factor = np.array([1e-3, 1.0, 1e3])
    names = [("t", "time", "second"), ("c", "channel", None)]
    names += [("z", "space", "nanometer"), ("y", "space", "micrometer"), ("x", "space", "millimeter")]
    group = zarr.create_group(folder / "a.ome.zarr", zarr_format=2)
    group.attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": [{"name": n, "type": t} | ({"unit": u} if u else {}) for n, t, u in names],
            "datasets": _ome_levels(factor, 2),
            "coordinateTransformations": [
                {"type": "scale", "scale": [0.5, 1, 1, 1, 1]},
                {"type": "translation", "translation": [7.0, 0.0, *(ORIGIN / factor)]},
            ],
        }
    ]
    for number, shape in enumerate((SHAPE, halved())):
        f = 2**number
        data = sampled(shape, SPACING * f, ORIGIN + (f - 1) / 2 * SPACING)
        array = group.create_array(f"s{number}", shape=(2, 3, *shape), chunks=(1, 1, 8, 8, 8), dtype=">f4")
        array[1, 2] = data
    return folder / "a.ome.zarr", {"time": 1, "channel": 2}


def ome_zarr_05(folder: Path):
    """Zarr v3, sharded."""
    root = zarr.create_group(folder / "a.ome.zarr", zarr_format=3)
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": _ome_levels(np.ones(3), 0)}]}
    for number, shape in enumerate((SHAPE, halved())):
        f = 2**number
        array = root.create_array(f"s{number}", shape=shape, chunks=(4, 4, 4), shards=(16, 16, 16), dtype="f4")
        array[:] = sampled(shape, SPACING * f, (f - 1) / 2 * SPACING)
    return folder / "a.ome.zarr", {}


def ome_zarr_one_level(folder: Path):
    """A level by its name: it and the coarser ones."""
    source, _ = ome_zarr_05(folder)
    return source, {"dataset": "s1"}


def bioformats2raw(folder: Path):
    root = zarr.create_group(folder / "b.zarr", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    source, keywords = ome_zarr_04(folder)
    source.rename(folder / "b.zarr" / "0")
    return folder / "b.zarr", keywords


def plain_zarr(folder: Path):
    zarr.save_array(folder / "a.zarr", sampled())
    return folder / "a.zarr", {"spacing": SPACING}


def plain_zarr_with_named_axes(folder: Path):
    array = zarr.create_array(
        folder / "a.zarr", shape=(31, 2, 23, 17), chunks=(8, 1, 8, 8), dtype="f4", dimension_names=["x", "c", "y", "z"]
    )
    array[:, 1] = sampled().transpose(2, 1, 0)
    return folder / "a.zarr", {"spacing": SPACING, "channel": 1}


def write_n5(path: Path, data: np.ndarray, attributes: dict) -> None:
    """A dataset of (z, y, x) float32, whose attributes are its own and these."""
    metadata = {"dimensions": data.shape[::-1], "blockSize": [8, 9, 10], "dataType": "float32"}
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/"}}
    ts.open(spec | {"metadata": metadata | {"compression": {"type": "gzip"}}}, create=True).result()[...] = data.T
    stored = json.loads((path / "attributes.json").read_text())
    (path / "attributes.json").write_text(json.dumps(stored | attributes))


def n5_levels(folder: Path):
    """Resolution of the image in its group (nanometres, x first), factors in the datasets."""
    for number, f in enumerate((np.ones(3), np.array([1.0, 2.0, 4.0]))):
        shape = tuple(int(n // k) for n, k in zip(SHAPE, f, strict=True))
        data = sampled(shape, SPACING * f, (f - 1) / 2 * SPACING)
        write_n5(folder / f"a.n5/group/c0/s{number}", data, {"downsamplingFactors": [int(k) for k in f[::-1]]})
    resolution = {"dimensions": list(SPACING[::-1] * 1000), "unit": "nm"}
    (folder / "a.n5/group/attributes.json").write_text(json.dumps({"pixelResolution": resolution}))
    return folder / "a.n5", {}


def n5_scales_in_the_group(folder: Path):
    for number in range(2):
        f = 2**number
        data = sampled(SHAPE if number == 0 else halved(), SPACING * f, (f - 1) / 2 * SPACING)
        write_n5(folder / f"a.n5/s{number}", data, {})
    text = {"n5": "2.0.0", "scales": [[1, 1, 1], [2, 2, 2]], "pixelResolution": {"dimensions": list(SPACING[::-1])}}
    (folder / "a.n5/attributes.json").write_text(json.dumps(text))
    return folder / "a.n5", {}


def n5_levels_with_their_own_resolutions(folder: Path):
    for number in range(2):
        f = 2**number
        data = sampled(SHAPE if number == 0 else halved(), SPACING * f, (f - 1) / 2 * SPACING)
        write_n5(folder / f"a.n5/s{number}", data, {"pixelResolution": list(SPACING[::-1] * f)})
    return folder / "a.n5", {}


def n5_one_dataset(folder: Path):
    data = sampled(halved(), SPACING * 2, SPACING / 2)
    write_n5(folder / "a.n5/lowres", data, {"pixelResolution": list(SPACING[::-1]), "downsamplingFactors": [2, 2, 2]})
    return folder / "a.n5/lowres", {}


def tiff_imagej(folder: Path):
    data = np.zeros((SHAPE[0], 2, *SHAPE[1:]), "f4")
    data[:, 1] = sampled()
    tifffile.imwrite(
        folder / "a.tif",
        data,
        imagej=True,
        resolution=(1 / SPACING[2], 1 / SPACING[1]),
        metadata={"axes": "ZCYX", "spacing": SPACING[0], "unit": "um"},
    )
    return folder / "a.tif", {"channel": 1}


def tiff_ome(folder: Path):
    data = np.zeros((2, *SHAPE), "f4")
    data[1] = sampled()
    metadata = {"axes": "CZYX", "PhysicalSizeZ": 3.0, "PhysicalSizeY": 1500.0, "PhysicalSizeX": 0.0007}
    metadata |= {"PhysicalSizeZUnit": "µm", "PhysicalSizeYUnit": "nm", "PhysicalSizeXUnit": "mm"}
    tifffile.imwrite(folder / "a.ome.tif", data, ome=True, tile=(16, 16), compression="zlib", metadata=metadata)
    return folder / "a.ome.tif", {"channel": 1}


def tiff_pyramid(folder: Path):
    """Sub-resolutions cover the same area, so that is how they are written: 32 and 16 columns, 24 and 12 rows."""
    shape, step = (17, 24, 32), np.array([1, 2, 2])
    metadata = {"axes": "ZYX", **{f"PhysicalSize{a}": s for a, s in zip("ZYX", SPACING, strict=True)}}
    with tifffile.TiffWriter(folder / "a.ome.tif") as tiff:
        tiff.write(sampled(shape), subifds=1, tile=(16, 16), metadata=metadata)
        tiff.write(sampled((17, 12, 16), SPACING * step, (step - 1) / 2 * SPACING), subfiletype=1, tile=(16, 16))
    return folder / "a.ome.tif", {}


def bigtiff_without_metadata(folder: Path):
    tifffile.imwrite(folder / "a.tiff", sampled(), bigtiff=True, photometric="minisblack", compression="lzw")
    return folder / "a.tiff", {"spacing": SPACING}


def tiff_slices(folder: Path):
    for number, plane in enumerate(sampled()):
        kind = {"tile": (16, 16), "compression": "zlib"} if number % 2 else {}
        tifffile.imwrite(folder / f"slice_{number + 2}.TIF", plane, **kind)  # slice_10 after slice_9
    (folder / "notes.txt").write_text("not a slice")
    return folder, {"spacing": SPACING}


def tiff_glob(folder: Path):
    tiff_slices(folder)
    for number in range(3):
        tifffile.imwrite(folder / f"other_{number}.TIF", np.zeros((5, 5), "u1"))
    return f"{folder}/slice_*", {"spacing": SPACING}


def _nrrd_header(affine: np.ndarray, unit: float) -> dict:
    return {
        "space": "right-anterior-superior",
        "kinds": ["domain"] * 3,
        "space directions": affine[:3, :3][::-1, ::-1].T / unit,
        "space origin": affine[:3, 3][::-1] / unit,
    }


def nrrd_gzip(folder: Path):
    header = _nrrd_header(oblique(), 1000.0) | {"space units": ["mm"] * 3, "encoding": "gzip"}
    nrrd.write(str(folder / "a.nrrd"), sampled(affine=oblique()), header, index_order="C")
    return folder / "a.nrrd", {}


def nrrd_raw(folder: Path):
    header = _nrrd_header(oblique(), 1.0) | {"space units": ["microns"] * 3, "encoding": "raw", "endian": "big"}
    nrrd.write(str(folder / "a.nrrd"), sampled(affine=oblique()).astype(">f4"), header, index_order="C")
    return folder / "a.nrrd", {}


def nrrd_detached(folder: Path):
    header = {"spacings": list(SPACING[::-1]), "units": ["um"] * 3, "encoding": "gzip"}
    nrrd.write(str(folder / "a.nhdr"), sampled(), header, index_order="C")
    return folder / "a.nhdr", {}


def nrrd_channels(folder: Path):
    data = np.zeros((*SHAPE, 2), "f4")  # file axes c, x, y, z
    data[..., 1] = sampled(affine=oblique())
    directions = np.vstack([[np.nan] * 3, oblique()[:3, :3][::-1, ::-1].T])
    header = {"space": "RAS", "kinds": ["vector", *["domain"] * 3], "space directions": directions}
    header |= {"space origin": ORIGIN[::-1], "space units": ["um"] * 3}
    nrrd.write(str(folder / "a.nrrd"), data, header, index_order="C")
    return folder / "a.nrrd", {"channel": 1}


def _nifti(unit_um: float) -> np.ndarray:
    """The file's affine, (x, y, z) index to RAS in its unit."""
    affine = oblique()[[2, 1, 0, 3]][:, [2, 1, 0, 3]].copy()
    affine[:3] /= unit_um
    return affine


def nifti(folder: Path):
    image = nibabel.Nifti1Image(sampled(affine=oblique()).transpose(2, 1, 0), _nifti(1.0))
    image.header.set_xyzt_units("micron", "sec")
    nibabel.save(image, folder / "a.nii")
    return folder / "a.nii", {}


def nifti_gzip(folder: Path):
    """4-D, and without units: millimetres."""
    data = np.zeros((*SHAPE[::-1], 3), "f4")
    data[..., 2] = sampled(affine=oblique()).transpose(2, 1, 0)
    image = nibabel.Nifti1Image(data, _nifti(1000.0))
    image.header.set_xyzt_units(0, 0)
    nibabel.save(image, folder / "a.nii.gz")
    return folder / "a.nii.gz", {"time": 2}


def hdf5(folder: Path):
    with h5py.File(folder / "a.h5", "w") as file:
        file["table"] = np.arange(5)
        data = file.create_dataset("group/volume", data=sampled(), chunks=(8, 8, 8), compression="gzip")
        data.attrs["element_size_um"] = SPACING
    return folder / "a.h5", {}


def imaris(folder: Path):
    """Two levels, padded arrays, sizes and extents as arrays of characters, extents at the faces."""
    low = ORIGIN - SPACING / 2
    high = low + SPACING * SHAPE
    with h5py.File(folder / "a.ims", "w") as file:
        info = file.create_group("DataSetInfo/Image").attrs
        for axis in range(3):
            info[f"ExtMin{axis}"] = np.array(list(f"{low[2 - axis]:.6f}"), "S1")
            info[f"ExtMax{axis}"] = np.array(list(f"{high[2 - axis]:.6f}"), "S1")
        info["Unit"] = np.array(list("um"), "S1")
        for number, shape in enumerate((SHAPE, halved())):
            spacing = (high - low) / shape
            for channel in range(2):
                group = file.create_group(f"DataSet/ResolutionLevel {number}/TimePoint 0/Channel {channel}")
                for axis, size in zip("ZYX", shape, strict=True):
                    group.attrs[f"ImageSize{axis}"] = np.array(list(str(size)), "S1")
                padded = np.pad(sampled(shape, spacing, low + spacing / 2) * channel, 1)[1:, 1:, 1:]
                group.create_dataset("Data", data=padded, chunks=(8, 8, 8), compression="gzip")
    return folder / "a.ims", {"channel": 1}


def numpy_array(folder: Path):
    return sampled(origin=ORIGIN), {"spacing": SPACING, "origin": ORIGIN}


def dask_array(folder: Path):
    return dask.array.from_array(sampled(), chunks=(8, 8, 8)), {"spacing": SPACING}


WRITERS: list[Callable] = [
    ome_zarr_04,
    ome_zarr_05,
    ome_zarr_one_level,
    bioformats2raw,
    plain_zarr,
    plain_zarr_with_named_axes,
    n5_levels,
    n5_scales_in_the_group,
    n5_levels_with_their_own_resolutions,
    n5_one_dataset,
    tiff_imagej,
    tiff_ome,
    tiff_pyramid,
    bigtiff_without_metadata,
    tiff_slices,
    tiff_glob,
    nrrd_gzip,
    nrrd_raw,
    nrrd_detached,
    nrrd_channels,
    nifti,
    nifti_gzip,
    hdf5,
    imaris,
    numpy_array,
    dask_array,
]
LEVELS = {"ome_zarr_04", "ome_zarr_05", "bioformats2raw", "tiff_pyramid", "imaris"}
LEVELS |= {"n5_levels", "n5_scales_in_the_group", "n5_levels_with_their_own_resolutions"}


def check_ramp(volume) -> None:
    for level, entry in enumerate(volume.levels):
        grid = entry.grid
        start, stop = (1, 2, 1), tuple(n - 1 for n in grid.shape)
        index = np.stack(np.meshgrid(*map(np.arange, start, stop), indexing="ij"), axis=-1)
        expected = ramp(grid.index_to_world(index.reshape(-1, 3))).reshape(index.shape[:3])
        data = volume.read(start, stop, level)
        assert data.dtype == np.float32 and data.dtype.isnative and data.flags.c_contiguous
        np.testing.assert_allclose(data, expected, rtol=1e-6, atol=2e-3, err_msg=f"level {level}")
        assert np.isclose(volume.read((0, 0, 0), (1, 1, 1), level).item(), ramp(grid.origin), atol=2e-3)
