"""The ways in which programs state voxel size, axes and numbers: dialects of N5, HDF5, TIFF and OME-Zarr."""

from __future__ import annotations

import json
import shutil

import h5py
import ngff_zarr
import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr

from bigreg.errors import CorruptDataError, InputError
from bigreg.volumes import open_volume

from .ramps import ORIGIN, SPACING, check_ramp, ramp, sampled, write_n5

SHAPE = (16, 24, 32)
NM = SPACING * 1000
XML = """<SpimData><SequenceDescription><ImageLoader><{kind}>{file}</{kind}></ImageLoader><ViewSetups>
<ViewSetup><id>0</id><voxelSize><unit>mm</unit><size>9 9 9</size></voxelSize></ViewSetup>
<ViewSetup><id>1</id><voxelSize><unit>{unit}</unit><size>0.7 1.5 3.0</size></voxelSize></ViewSetup>
</ViewSetups></SequenceDescription></SpimData>"""


def levels(factors=((1, 1, 1), (1, 2, 2)), origin=(0, 0, 0)):
    """Number, factors and data of block means of the ramp."""
    for number, f in enumerate(np.asarray(factors, dtype=float)):
        size = tuple(int(n // k) for n, k in zip(SHAPE, f, strict=True))
        yield number, f, sampled(size, SPACING * f, np.asarray(origin) + (f - 1) / 2 * SPACING)


# ---------------------------------------------------------------- N5


@pytest.mark.parametrize("place", ["dataset", "group"])
def test_n5_of_cosem(tmp_path, place):
    datasets = []
    for number, f, data in levels(origin=ORIGIN):
        shift = ORIGIN * 1000 + (f - 1) / 2 * NM
        axes = {"axes": ["z", "y", "x"], "units": ["nm"] * 3}
        transform = {"transform": {**axes, "scale": list(NM * f), "translate": list(shift)}}
        write_n5(tmp_path / f"a.n5/em/s{number}", data, transform if place == "dataset" else {})
        datasets.append({"path": f"s{number}", **transform})
    if place == "group":
        (tmp_path / "a.n5/em/attributes.json").write_text(json.dumps({"multiscales": [{"datasets": datasets}]}))
    volume = open_volume(tmp_path / "a.n5")
    assert np.allclose(volume.grid().origin, ORIGIN) and len(volume.levels) == 2
    check_ramp(volume)
    check_ramp(open_volume(tmp_path / "a.n5", spacing=SPACING))


@pytest.mark.parametrize("unit", [None, "nm"])
def test_n5_of_paintera(tmp_path, unit):
    for number, f, data in levels(origin=ORIGIN):
        factors = {} if number == 0 else {"downsamplingFactors": list(f[::-1])}
        write_n5(tmp_path / f"a.n5/raw/data/s{number}", data, factors)
    stated = {"multiScale": True, "resolution": list(NM[::-1]), "offset": list(ORIGIN[::-1] * 1000)}
    stated |= {"unit": unit} if unit else {}
    (tmp_path / "a.n5/raw/data/attributes.json").write_text(json.dumps(stated))
    if unit is None:
        with pytest.raises(
            InputError, match=r"resolution \(3000, 1500, 700\).*in nm, pass open_volume's spacing 3 1.5 0.7"
        ):
            open_volume(tmp_path / "a.n5")
    check_ramp(open_volume(tmp_path / "a.n5", **({} if unit else {"spacing": SPACING})))


def test_n5_of_imagej_names_its_axes(tmp_path):
    stated = {"pixelWidth": 0.7, "pixelHeight": 1.5, "pixelDepth": 3.0, "pixelUnit": "µm"}
    stated |= {"numChannels": 2, "numSlices": 16, "numFrames": 1}
    data = np.zeros((16, 2, 24, 32), "f4")  # N5 axes x, y, c, z
    data[:, 1] = sampled(SHAPE)
    (tmp_path / "a.n5").mkdir()
    meta = {"dimensions": data.shape[::-1], "blockSize": [8, 9, 1, 10], "dataType": "float32"}
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{tmp_path}/a.n5/img/"}}
    spec["metadata"] = meta | {"compression": {"type": "raw"}}
    ts.open(spec, create=True).result()[...] = data.T
    file = tmp_path / "a.n5/img/attributes.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | stated))
    volume = open_volume(tmp_path / "a.n5", channel=1)
    assert volume.channels == 2
    check_ramp(volume)


@pytest.mark.parametrize("xml", ["a.xml", "dataset.xml", "other.xml"])
def test_n5_of_bigdataviewer_takes_the_xml_beside(tmp_path, xml):
    for number, _, data in levels():
        write_n5(tmp_path / f"a.n5/setup1/timepoint0/s{number}", data, {})
    factors = {"downsamplingFactors": [[1, 1, 1], [2, 2, 1]], "dataType": "float32"}
    (tmp_path / "a.n5/setup1/attributes.json").write_text(json.dumps(factors))
    own = {"multiScale": True, "resolution": [1.0, 1.0, 1.0]}
    (tmp_path / "a.n5/setup1/timepoint0/attributes.json").write_text(json.dumps(own))
    with pytest.raises(InputError, match="XML beside, such as a.xml"):
        open_volume(tmp_path / "a.n5")
    (tmp_path / xml).write_text(XML.format(kind="n5", file="a.n5", unit="micrometer"))
    check_ramp(open_volume(tmp_path / "a.n5"))
    (tmp_path / xml).write_text(XML.format(kind="n5", file="a.n5", unit="pixel"))
    with pytest.raises(InputError, match=f"voxelSize .* of {xml} is in 'pixel'"):
        open_volume(tmp_path / "a.n5")


def test_an_n5_folder_needs_no_suffix(tmp_path):
    write_n5(tmp_path / "export/c0/s0", sampled(SHAPE), {"pixelResolution": list(SPACING[::-1])})
    check_ramp(open_volume(tmp_path / "export"))


# ---------------------------------------------------------------- HDF5


def bdv_hdf5(folder, data, setup="s01", factors=((1, 1, 1), (2, 2, 1))):
    with h5py.File(folder / "a.h5", "w") as file:
        file[f"{setup}/resolutions"] = np.array(factors, float)
        file[f"{setup}/subdivisions"] = np.full((len(factors), 3), 16)
        for number, level in enumerate(data):
            file.create_dataset(f"t00000/{setup}/{number}/cells", data=level, chunks=(8, 8, 8), compression="gzip")
    (folder / "a.xml").write_text(XML.format(kind="hdf5", file="a.h5", unit="um"))
    return folder / "a.h5"


def test_hdf5_of_bigdataviewer_takes_the_xml_beside(tmp_path):
    path = bdv_hdf5(tmp_path, [data for _, _, data in levels()])
    volume = open_volume(path)
    assert volume.levels[1].factors == (1, 2, 2) and volume.spacing_from == "the XML beside"
    check_ramp(volume)
    check_ramp(open_volume(path, dataset="t00000/s01"))
    check_ramp(open_volume(path, dataset="t00000/s01/1/cells"))
    with pytest.raises(InputError, match="one of s01"):
        open_volume(path, dataset="s07")


def test_hdf5_of_bigdataviewer_keeps_unsigned_numbers_in_signed_types(tmp_path):
    values = np.linspace(0, 65535, int(np.prod(SHAPE))).astype("u2").reshape(SHAPE)
    volume = open_volume(bdv_hdf5(tmp_path, [values.view("i2")], factors=((1, 1, 1),)))
    assert volume.dtype == np.uint16
    np.testing.assert_array_equal(volume.read((0, 0, 0), SHAPE), values)


def test_signed_numbers_elsewhere_stay_signed_but_for_netcdf(tmp_path):
    values = np.arange(-1000, 1000, dtype="i2").reshape(10, 10, 20)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"], file["b"] = values, values
        file["b"].attrs["_Unsigned"] = "true"
    plain = open_volume(tmp_path / "a.h5", dataset="a", spacing=SPACING)
    assert plain.dtype == np.int16 and plain.read((0, 0, 0), (10, 10, 20)).min() == -1000
    kept = open_volume(tmp_path / "a.h5", dataset="b", spacing=SPACING)
    np.testing.assert_array_equal(kept.read((0, 0, 0), (10, 10, 20)), values.view("u2"))


def test_hdf5_of_ilastik_names_its_axes(tmp_path):
    tags = {
        "axes": [{"key": k, "typeFlags": 2, "resolution": r} for k, r in zip("zyxc", (3.0, 1.5, 0.7, 0), strict=True)]
    }
    data = np.zeros((*SHAPE, 2), "f4")
    data[..., 1] = sampled(SHAPE)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("exported_data", data=data).attrs["axistags"] = json.dumps(tags)
    with pytest.raises(InputError, match=r"axistags.*in µm, pass open_volume's spacing 3 1.5 0.7"):
        open_volume(tmp_path / "a.h5", channel=1)
    volume = open_volume(tmp_path / "a.h5", channel=1, spacing=SPACING)
    assert volume.channels == 2
    check_ramp(volume)


def test_hdf5_dimension_labels_name_the_axes(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("a", data=sampled(SHAPE).transpose(2, 1, 0))
        for axis, word in enumerate("xyz"):
            data.dims[axis].label = word
    check_ramp(open_volume(tmp_path / "a.h5", spacing=SPACING))


def test_hdf5_parts_in_missing_files_are_named(tmp_path):
    part = np.ones((4, 8, 8), "u1")
    layout = h5py.VirtualLayout((8, 8, 8), "u1")
    for number in range(2):
        with h5py.File(tmp_path / f"part{number}.h5", "w") as file:
            file["a"] = part
        layout[4 * number : 4 * number + 4] = h5py.VirtualSource(f"part{number}.h5", "a", part.shape)
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_virtual_dataset("a", layout)
        file["linked"] = h5py.ExternalLink("part1.h5", "a")
    assert (open_volume(tmp_path / "all.h5", dataset="a", spacing=SPACING).read((0, 0, 0), (8, 8, 8)) == 1).all()
    (tmp_path / "part1.h5").unlink()
    for dataset in ("a", "linked"):
        with pytest.raises(InputError, match="part1.h5"):
            open_volume(tmp_path / "all.h5", dataset=dataset, spacing=SPACING)


def test_an_hdf5_filter_that_is_not_installed_is_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((4, 4, 4))
        properties.set_filter(32004, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((8, 8, 8))
        h5py.h5d.create(file.id, b"a", h5py.h5t.NATIVE_UINT8, space, properties)
    try:
        import hdf5plugin  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="filter lz4 .*hdf5plugin"):
            open_volume(tmp_path / "a.h5", spacing=SPACING)


# ---------------------------------------------------------------- TIFF


def imagej(path, text, data=None, version="1.54f"):
    data = np.zeros((9, 12, 15), "u2") if data is None else data
    description = f"ImageJ={version}\nimages=9\nslices=9\n{text}loop=false\n"
    more = {"resolution": (1 / 0.7, 1 / 1.5), "byteorder": ">", "photometric": "minisblack"}
    tifffile.imwrite(path, data, description=description, metadata=None, **more)
    return path


@pytest.mark.parametrize(
    ("text", "spacing"),
    [
        ("unit=micron\n", (1.0, 1.5, 0.7)),
        ("unit=micron\nspacing=3.0\n", (3.0, 1.5, 0.7)),
        ("unit=\\u00B5m\nspacing=3.0\n", (3.0, 1.5, 0.7)),
        ("unit=micron\nzunit=mm\nspacing=0.003\n", (3.0, 1.5, 0.7)),
        ("unit=micron\nyunit=nm\nspacing=3.0\n", (3.0, 0.0015, 0.7)),
        ("unit=micron\nspacing=-3.0\n", (3.0, 1.5, 0.7)),
    ],
)
def test_imagej_calibration(tmp_path, text, spacing):
    path = imagej(tmp_path / "a.tif", text)
    if max(spacing) > 50 * min(spacing):
        with pytest.raises(InputError, match="50 times"):
            open_volume(path)
    else:
        assert np.allclose(open_volume(path).grid().spacing, spacing)


def test_an_imagej_step_that_another_writer_left_out_is_not_one(tmp_path):
    data = np.zeros((9, 12, 15), "u2")
    tifffile.imwrite(tmp_path / "a.tif", data, imagej=True, resolution=(1, 1), metadata={"axes": "ZYX", "unit": "um"})
    with pytest.raises(InputError, match="no z step"):
        open_volume(tmp_path / "a.tif")


def test_imagej_signed_numbers_are_signed(tmp_path):
    values = np.arange(-800, 820, dtype="i2").reshape(9, 12, 15)
    stored = (values.astype("i4") + 32768).astype("u2")
    path = imagej(tmp_path / "a.tif", "unit=micron\nspacing=3.0\ncf=0\nc0=-32768.0\nc1=1.0\nvunit=gray value\n", stored)
    volume = open_volume(path)
    assert volume.dtype == np.int16
    np.testing.assert_array_equal(volume.read((0, 0, 0), values.shape), values)


@pytest.mark.parametrize("axes", ["TYX", "CYX"])
@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_planes_that_are_saved_as_time_or_channels_are_the_stack_and_told(tmp_path, axes, kind):
    data = np.arange(9 * 12 * 15, dtype="u2").reshape(9, 12, 15)
    tifffile.imwrite(tmp_path / "a.tif", data, **{kind: True}, metadata={"axes": axes}, photometric="minisblack")
    volume = open_volume(tmp_path / "a.tif", spacing=SPACING)
    np.testing.assert_array_equal(volume.read((0, 0, 0), data.shape), data)
    assert "taken as the planes of a stack" in volume.notes[0]


def test_colours_are_no_stack(tmp_path):
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((12, 15, 3), "u1"), photometric="rgb")
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((3, 12, 15), "u2"), imagej=True, metadata={"axes": "CYX"})
    for name in ("rgb.tif", "c.tif"):
        with pytest.raises(InputError, match="2-D"):
            open_volume(tmp_path / name, spacing=SPACING)


def test_four_unnamed_axes_are_channels_where_one_is_asked_for(tmp_path):
    data = np.arange(2 * 9 * 12 * 15, dtype="u2").reshape(2, 9, 12, 15)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack")
    volume = open_volume(tmp_path / "a.tif", spacing=SPACING, channel=1)
    np.testing.assert_array_equal(volume.read((0, 0, 0), (9, 12, 15)), data[1])
    with pytest.raises(InputError, match="open_volume's channel"):
        open_volume(tmp_path / "a.tif", spacing=SPACING)


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("kind", [{}, {"ome": True}, {"imagej": True}, {"bigtiff": True}])
@pytest.mark.parametrize("part", [0.4, 0.97])
def test_a_tiff_whose_copy_was_broken_off_is_damaged(tmp_path, kind, contiguous, part):
    data = np.random.default_rng(0).integers(0, 9000, (9, 40, 50)).astype("u2")
    with tifffile.TiffWriter(tmp_path / "a.tif", **kind) as tiff:
        if contiguous or kind.keys() & {"imagej", "ome"}:
            tiff.write(data, photometric="minisblack", metadata={"axes": "ZYX"})
        else:
            for plane in data:
                tiff.write(plane, contiguous=False, metadata=None)
    content = (tmp_path / "a.tif").read_bytes()
    assert open_volume(tmp_path / "a.tif", spacing=SPACING).shape == data.shape
    (tmp_path / "a.tif").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(CorruptDataError):
        volume = open_volume(tmp_path / "a.tif", spacing=SPACING)
        volume.read((0, 0, 0), volume.shape)


def test_an_ome_series_whose_files_are_missing_names_them(tmp_path):
    data = sampled(SHAPE)
    uuids = [f"urn:uuid:00000000-0000-0000-0000-00000000000{n}" for n in range(2)]
    blocks = "".join(
        f'<TiffData FirstZ="{8 * n}" FirstC="0" FirstT="0" IFD="0" PlaneCount="8">'
        f'<UUID FileName="part{n}.ome.tif">{uuids[n]}</UUID></TiffData>'
        for n in range(2)
    )
    sizes = 'PhysicalSizeX="0.7" PhysicalSizeY="1.5" PhysicalSizeZ="3"'
    for number in range(2):
        xml = (
            f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{uuids[number]}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="float" '
            f'SizeX="32" SizeY="24" SizeZ="16" SizeC="1" SizeT="1" {sizes}><Channel ID="Channel:0:0" '
            f'SamplesPerPixel="1"/>{blocks}</Pixels></Image></OME>'
        )
        with tifffile.TiffWriter(tmp_path / f"part{number}.ome.tif") as tiff:
            for index, plane in enumerate(data[8 * number : 8 * number + 8]):
                tiff.write(plane, contiguous=False, metadata=None, description=xml if index == 0 else None)
    check_ramp(open_volume(tmp_path / "part0.ome.tif"))
    (tmp_path / "part1.ome.tif").unlink()
    with pytest.raises(InputError, match=r"part1\.ome\.tif"):
        open_volume(tmp_path / "part0.ome.tif")


def test_an_ome_tiff_that_was_renamed_is_read(tmp_path):
    metadata = {"axes": "ZYX", **{f"PhysicalSize{a}": s for a, s in zip("ZYX", SPACING, strict=True)}}
    tifffile.imwrite(tmp_path / "a.ome.tif", sampled(SHAPE), metadata=metadata)
    shutil.move(tmp_path / "a.ome.tif", tmp_path / "other.ome.tif")
    check_ramp(open_volume(tmp_path / "other.ome.tif"))


@pytest.mark.parametrize("size", [(12, 16), (12, 15)], ids=["even", "rounded down"])
def test_tiff_sub_resolutions_are_levels_of_whole_factors(tmp_path, size):
    shape = (9, size[0] * 2, size[1] * 2 + (size[1] % 2))
    f = np.array([1.0, 2, 2])
    metadata = {"axes": "ZYX", **{f"PhysicalSize{a}": s for a, s in zip("ZYX", SPACING, strict=True)}}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tiff:
        tiff.write(sampled(shape), subifds=1, tile=(16, 16), metadata=metadata)
        tiff.write(sampled((9, *size), SPACING * f, (f - 1) / 2 * SPACING), subfiletype=1, tile=(16, 16))
    volume = open_volume(tmp_path / "a.ome.tif")
    assert volume.levels[1].factors == (1, 2, 2)
    check_ramp(volume)


# ---------------------------------------------------------------- OME-Zarr


def ome(path, version, multiscale, data):
    root = zarr.create_group(path, zarr_format=2)
    root.create_array("0", shape=data.shape, chunks=data.shape, dtype="f4")[:] = data
    root.attrs["multiscales"] = [{"version": version, "datasets": [{"path": "0"}]} | multiscale]
    return path


@pytest.mark.parametrize("version", ["0.1", "0.2", "0.3"])
def test_ome_zarr_before_0_4_has_axes_in_a_fixed_order_or_by_name(tmp_path, version):
    axes = {"axes": list("tczyx")} if version == "0.3" else {}
    path = ome(tmp_path / "a.zarr", version, axes, np.stack([sampled(SHAPE) * 0, sampled(SHAPE)])[None])
    with pytest.raises(InputError, match="spacing is missing; pass open_volume's spacing"):
        open_volume(path)
    volume = open_volume(path, spacing=SPACING, channel=1)
    assert (volume.channels, volume.times) == (2, 1)
    check_ramp(volume)


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])
def test_ome_zarr_of_ngff_zarr_is_read(tmp_path, version):
    image = ngff_zarr.to_ngff_image(
        sampled(SHAPE, origin=ORIGIN),
        dims=["z", "y", "x"],
        scale=dict(zip("zyx", SPACING, strict=True)),
        translation=dict(zip("zyx", ORIGIN, strict=True)),
        axes_units=dict.fromkeys("zyx", "micrometer"),
    )
    multiscales = ngff_zarr.to_multiscales(image, scale_factors=[])
    ngff_zarr.to_ngff_zarr(str(tmp_path / "a.ome.zarr"), multiscales, version=version)
    volume = open_volume(tmp_path / "a.ome.zarr")
    assert np.allclose(volume.grid().origin, ORIGIN)
    check_ramp(volume)


def test_ome_zarr_0_6_takes_sequences_and_affines(tmp_path):
    turn = np.array([[0, -1.5, 0], [3.0, 0, 0], [0, 0, 0.7]])
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    data = ramp(index @ turn.T + ORIGIN).astype("f4")
    systems = [{"name": n, "axes": [{"name": a, "type": "space", "unit": u} for a in "zyx"]}
               for n, u in (("other", "millimeter"), ("world", "micrometer"))]  # fmt: skip
    affine = {"type": "affine", "affine": [[*row, 0.0] for row in turn.tolist()]}
    steps = [affine, {"type": "translation", "translation": ORIGIN.tolist()}]
    step = {"type": "sequence", "transformations": steps, "input": {"path": "0"}, "output": {"name": "world"}}
    path = tmp_path / "a.ome.zarr"
    root = zarr.create_group(path, zarr_format=3)
    root.create_array("0", shape=SHAPE, chunks=SHAPE, dtype="f4")[:] = data
    datasets = [{"path": "0", "coordinateTransformations": [step]}]
    root.attrs["ome"] = {"version": "0.6", "multiscales": [{"coordinateSystems": systems, "datasets": datasets}]}
    check_ramp(open_volume(path))


def image_in(folder):
    return ome(folder, "0.4", {"axes": [{"name": n, "type": "space"} for n in "zyx"]}, sampled(SHAPE))


def group(path, attributes):
    root = zarr.open_group(path, mode="a", zarr_format=2)
    root.attrs.update(attributes)


@pytest.mark.parametrize("listed", [True, False])
def test_the_only_series_of_bioformats2raw_may_have_any_name(tmp_path, listed):
    group(tmp_path / "a.zarr", {"bioformats2raw.layout": 3})
    image_in(tmp_path / "a.zarr/lung")
    if listed:
        group(tmp_path / "a.zarr/OME", {"series": ["lung"]})
    check_ramp(open_volume(tmp_path / "a.zarr", spacing=SPACING))
    image_in(tmp_path / "a.zarr/label image")
    if listed:
        group(tmp_path / "a.zarr/OME", {"series": ["lung", "label image"]})
    with pytest.raises(InputError, match="2 images: .*label image"):
        open_volume(tmp_path / "a.zarr", spacing=SPACING)
    check_ramp(open_volume(tmp_path / "a.zarr", spacing=SPACING, dataset="lung"))


def test_plates_wells_and_groups_name_the_images_inside(tmp_path):
    group(tmp_path / "p.zarr", {"plate": {"wells": [{"path": "A/1"}]}})
    group(tmp_path / "p.zarr/A/1", {"well": {"images": [{"path": "f3"}]}})
    image_in(tmp_path / "p.zarr/A/1/f3")
    group(tmp_path / "g.zarr", {})
    image_in(tmp_path / "g.zarr/raw")
    cases = [("p.zarr", "is a plate .*dataset A/1/f3"), ("p.zarr/A/1", "is a well.*dataset f3"), ("g.zarr", "raw")]
    for path, text in cases:
        with pytest.raises(InputError, match=text):
            open_volume(tmp_path / path, spacing=SPACING)
    check_ramp(open_volume(tmp_path / "p.zarr", spacing=SPACING, dataset="A/1/f3"))


def test_a_zarr_array_of_xarray_names_its_axes(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=SHAPE[::-1], chunks=SHAPE[::-1], dtype="f4", zarr_format=2)
    array[:] = sampled(SHAPE).transpose(2, 1, 0)
    array.attrs["_ARRAY_DIMENSIONS"] = ["x", "y", "z"]
    check_ramp(open_volume(tmp_path / "a.zarr", spacing=SPACING))
