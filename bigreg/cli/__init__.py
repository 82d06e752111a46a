"""The command line: one verb each, no logic."""

from .app import app, main

from . import planning, registering, images, looking, using, viewing, judging, atlas, networks  # isort: skip - the order of the verbs in the help

__all__ = [
    "app", "atlas", "images", "judging", "looking", "main", "networks", "planning", "registering", "using", "viewing",
]  # fmt: skip
