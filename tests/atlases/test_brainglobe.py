"""An atlas of BrainGlobe that lies on this machine, and one that does not."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from bigreg.atlases import brainglobe_atlas
from bigreg.errors import InputError

SHAPE = (10, 8, 12)


def written(folder):
    """An atlas `phantom_100um` 1.0 in the layout of brainglobe-atlasapi 3: lengths in mm, one level."""
    nz = pytest.importorskip("ngff_zarr")
    root = folder / "brainglobe-atlasapi"
    labels = np.zeros(SHAPE, np.uint32)
    labels[2:8, 2:6, 2:6], labels[2:8, 2:6, 6:10] = 5, 7
    template = (labels * 100 + 10).astype(np.uint16)
    places = {
        "annotation_set": "annotation-sets/phantom",
        "template": "templates/phantom",
        "terminology": "terms/phantom",
    }
    for place, name, data in (
        (places["annotation_set"], "annotations_compressed.ome.zarr", labels),
        (places["template"], "template.ome.zarr", template),
    ):
        (root / place).mkdir(parents=True)
        image = nz.to_ngff_image(
            data, dims=("z", "y", "x"), scale=dict.fromkeys("zyx", 0.1), translation=dict.fromkeys("zyx", 0.0)
        )
        nz.to_ngff_zarr(str(root / place / name), nz.to_multiscales(image, scale_factors=[]), version="0.5")
    (root / places["terminology"]).mkdir(parents=True)
    (root / places["terminology"] / "terminology.csv").write_text(
        "identifier,parent_identifier,abbreviation,name,root_identifier_path,color_hex_triplet\n"
        '997,,root,root,"[997]",#ffffff\n5,997,R,right,"[997, 5]",#ff0000\n7,997,L,left,"[997, 7]",#00ff00\n'
    )
    manifest = {
        "name": "phantom_100um", "version": "1.0", "resolution": [100.0] * 3, "shape": list(SHAPE), "symmetric": True,
        "orientation": "asr", "terminology": {"location": f"/{places['terminology']}", "name": "t"},
        "annotation_set": {
            "location": f"/{places['annotation_set']}", "name": "a", "template": {"location": f"/{places['template']}"},
        },
        "additional_references": [],
    }  # fmt: skip
    (root / "atlases/phantom_100um/1_0").mkdir(parents=True)
    (root / "atlases/phantom_100um/1_0/manifest.json").write_text(json.dumps(manifest))
    return labels


def test_an_atlas_that_is_there_is_kept_with_its_tree_and_halves(tmp_path):
    pytest.importorskip("brainglobe_atlasapi")
    labels = written(tmp_path / "bg")
    for _ in range(2):  # the second time from what is kept
        atlas = brainglobe_atlas("phantom_100um", str(tmp_path / "kept"), brainglobe_dir=tmp_path / "bg")
    assert atlas.template.orientation == "asr" and atlas.template.grid().spacing == (100.0, 100.0, 100.0)
    assert np.array_equal(atlas.annotation.read((0, 0, 0), SHAPE), labels)
    assert {s.acronym: s.parent for s in atlas.structures} == {"root": None, "R": 997, "L": 997}
    # asr: x starts on the right.
    assert atlas.sides_of(np.array([[500.0, 400, 100], [500, 400, 1000]])).tolist() == [2, 1]


def test_where_brainglobe_is_missing_its_remedy_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "brainglobe_atlasapi", None)
    with pytest.raises(InputError, match=r"bigreg\[atlas\]"):
        brainglobe_atlas("allen_mouse_25um", str(tmp_path))


def test_an_atlas_that_cannot_be_had_is_told_with_its_name(monkeypatch, tmp_path):
    api = pytest.importorskip("brainglobe_atlasapi")

    def unreachable(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(api, "BrainGlobeAtlas", unreachable)
    with pytest.raises(InputError, match="'allen_mouse_25um' cannot be fetched from BrainGlobe: ConnectionError"):
        brainglobe_atlas("allen_mouse_25um", str(tmp_path))
