"""The keys of a configuration, and which of them a misspelt one may have been meant for."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import get_args

from pydantic import BaseModel


def keys_of(model: type[BaseModel], within: str = "") -> Iterator[str]:
    """All dotted keys of a model, sections after their own name."""
    for name, field in model.model_fields.items():
        yield within + name
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from keys_of(part, f"{within}{name}.")


def meant(where: tuple[str, ...], keys: list[str], place: tuple[str, ...]) -> str:
    """What an unknown key may have been meant for: one that is spelled like it, or of its name in another section."""
    key = ".".join(where)
    near = [k for k in keys if k.rpartition(".")[2] == where[-1]] or get_close_matches(key, keys, 1, 0.75)
    section = ".".join(where[:-1])
    beside = [k for k in keys if k.rpartition(".")[0] == section]
    near = near or get_close_matches(key, beside, 1, 0.5)
    if near:
        return f"; did you mean {' or '.join('.'.join((*place, k)) for k in near[:2])}?"
    names = ", ".join(k.rpartition(".")[2] for k in beside)
    return f"; {section or 'a configuration'} has {names}" if names else ""
