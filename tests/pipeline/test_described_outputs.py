"""The page on output files names everything that a run holds."""

from __future__ import annotations

import re
from pathlib import Path

from bigreg import storage

PAGE = Path(__file__).resolve().parents[2] / "docs" / "output.md"


def nodes_of(url, place=""):
    """Every group and array below a group, as a path."""
    for name in storage.children(url):
        below = storage.join(url, name)
        if name != "c" and storage.exists(below) and storage.find_node(below) is not None:
            yield f"{place}{name}"
            yield from nodes_of(below, f"{place}{name}/")


def test_every_array_and_attribute_of_a_run_is_described(registered):
    page = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"[a-z_]+(?:[-.][a-z]+)*", page))
    places = list(nodes_of(registered.run.url))
    assert len(places) > 100 and "levels/0/velocity" in places
    # Numbers of levels, blocks and attempts, and factors of pyramids, are no names.
    parts = {re.sub(r"(-level|-attempt)-\d+$", "", part) for place in places for part in place.split("/")}
    names = {p for p in parts if not re.fullmatch(r"[\d.]+|(?:(?:fixed|moving)-)?\d+x\d+x\d+", p)}
    assert names - named == set()
    assert set(registered.run.store.attributes) - named == set()
    for name in re.findall(r"^\| `levels/N` \| attributes: (.*)$", page, re.MULTILINE):
        known = storage.read_attributes(registered.run.store.path("levels", 0))["bigreg"]
        assert set(known) <= set(re.findall(r"[a-z]+", name))
