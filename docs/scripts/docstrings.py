"""Docstrings as Markdown: lines of `name   text`, aligned in columns in the code, become lists."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

ROW = re.compile(r"^( {0,8})(\S(?:.{0,46}?\S)??) {2,}(\S.*)$")


class Docstrings(Extension):
    """Rewrites every docstring that is loaded."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = with_sign(as_markdown(obj.docstring.value))


def with_sign(text: str) -> str:
    """The sign of the micrometre for the `um` of the code, but where it is code here too."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"(?<![\w./=-])um(?![\w=])", "µm", part) for part in parts[::2]]
    return "`".join(parts)


def as_markdown(text: str) -> str:
    """Aligned columns as lists, other text as it is."""
    out: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.split("\n")
        first = next((i for i, line in enumerate(lines) if ROW.match(line)), None)
        if first is None:
            out.append(paragraph)
            continue
        if first:
            out.append("\n".join(lines[:first]))
        own = len(ROW.match(lines[first])[1])  # type: ignore[index]
        items: list[str] = []
        rest: list[str] = []
        for line in lines[first:]:
            row = ROW.match(line)
            indent = len(line) - len(line.lstrip())
            if row and indent == own:
                items.append(f"- `{row[2]}`: {row[3]}")
            elif indent > own:
                items[-1] += " " + line.strip()
            else:  # text after the list
                rest.append(line)
        out += ["\n".join(items), *(["\n".join(rest)] if rest else [])]
    return "\n\n".join(out)
