"""The tree of structures, whatever file it comes from."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigreg.atlases import Structures
from bigreg.errors import InputError

ALLEN_CSV = """id,atlas_id,name,acronym,parent_structure_id,depth,structure_id_path
0,,void,void,,,
997,-1,root,root,,0,/997/
8,0,"Basic cell groups and regions",grey,997.0,1,/997/8/
567,70,"Cerebrum, all of it",CH,8.0,2,/997/8/567/
73,716,ventricular systems,VS,997.0,1,/997/73/
"""
TREE = {
    "msg": [
        {
            "id": 997, "acronym": "root", "name": "root", "parent_structure_id": None,
            "children": [
                {"id": 8, "acronym": "grey", "name": "Basic cell groups and regions", "parent_structure_id": 997,
                 "children": [{"id": 567, "acronym": "CH", "name": "Cerebrum, all of it", "children": []}]},
                {"id": 73, "acronym": "VS", "name": "ventricular systems", "children": []},
            ],
        }
    ]
}  # fmt: skip
BRAINGLOBE = [
    {"id": 997, "acronym": "root", "name": "root", "structure_id_path": [997], "rgb_triplet": [255, 255, 255]},
    {"id": 73, "acronym": "VS", "name": "ventricular systems", "structure_id_path": [997, 73]},
    {"id": 567, "acronym": "CH", "name": "Cerebrum, all of it", "structure_id_path": [997, 8, 567]},
    {"id": 8, "acronym": "grey", "name": "Basic cell groups and regions", "structure_id_path": [997, 8]},
]
TERMINOLOGY = """identifier,parent_identifier,abbreviation,name,root_identifier_path
997,,root,root,[997]
8,997,grey,Basic cell groups and regions,"[997, 8]"
567,8,CH,"Cerebrum, all of it","[997, 8, 567]"
73,997,VS,ventricular systems,"[997, 73]"
"""


def written(folder, name):
    path = folder / name
    text = {"allen.csv": ALLEN_CSV, "tree.json": json.dumps(TREE), "brainglobe.json": json.dumps(BRAINGLOBE)}
    path.write_text(text.get(name, TERMINOLOGY))
    return path


@pytest.mark.parametrize("name", ["allen.csv", "tree.json", "brainglobe.json", "terminology.csv"])
def test_every_way_of_writing_the_tree_gives_the_same(tmp_path, name):
    found = {s.id: (s.acronym, s.name, s.parent, s.depth) for s in Structures.read(written(tmp_path, name))}
    assert found == {
        997: ("root", "root", None, 0),
        8: ("grey", "Basic cell groups and regions", 997, 1),
        567: ("CH", "Cerebrum, all of it", 8, 2),
        73: ("VS", "ventricular systems", 997, 1),
    }


def test_a_parent_comes_before_its_children(tmp_path):
    order = [s.id for s in Structures.read(written(tmp_path, "brainglobe.json"))]
    assert order.index(997) < order.index(8) < order.index(567)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.randoms())
def test_a_sum_up_the_tree_is_that_of_all_below(parents, random):
    """Structure i + 1 hangs on any one before it."""
    rows = [(1, "1", "1", None)] + [(i + 2, str(i), str(i), p % (i + 1) + 1) for i, p in enumerate(parents)]
    random.shuffle(rows)
    tree = Structures(rows)
    values = {row[0]: np.array([row[0], 1]) for row in rows if row[0] % 3}
    total = tree.summed(values)

    def below(id_):
        return [id_, *(x for row in rows if row[3] == id_ for x in below(row[0]))]

    for id_, *_ in rows:
        assert np.array_equal(total[id_], sum((values[i] for i in below(id_) if i in values), np.zeros(2, int)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(1, "a", "a", None), (1, "b", "b", None)], "structure 1 occurs twice"),
        ([(1, "a", "a", 2), (2, "b", "b", 1), (3, "c", "c", None)], "its own ancestor"),
        ([], "has no structures"),
    ],
)
def test_what_is_no_tree_is_refused(rows, message):
    with pytest.raises(InputError, match=message):
        Structures(rows)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.csv", "name,acronym\nroot,r\n", "no id"),
        ("s.csv", "id,name\n1,a\n2,b\n", "no row names its parent"),
        ("s.json", "{", "is not JSON"),
        ("s.json", "3", "is not a structure"),
    ],
)
def test_a_file_that_says_too_little_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        Structures.read(tmp_path / name)
