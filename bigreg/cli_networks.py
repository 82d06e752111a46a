"""The verbs of the command line that are about networks; no logic."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME|FILE]", help="Weights to describe.")] = None,
) -> None:
    """List the trained networks that come with bigreg, or describe one of them or a file of your own."""
    from rich.table import Table

    from .cli import out
    from .display import pairs
    from .models import card_of, packaged_names, weight_bytes

    if name is not None:
        out.print(pairs(card_of(name).rows(weight_bytes(name))), soft_wrap=True)
        return
    names = packaged_names()
    if not names:
        out.print("no weights are packaged with this bigreg; give an engine a file, or `random` to try it out")
        return
    table = Table("name", "architecture", "data", "MB", "figures", box=None)
    for each in names:
        card = card_of(each)
        figures = ", ".join(f"{key} {value:g}" for key, value in card.figures.items())
        table.add_row(each, card.architecture, card.data, f"{weight_bytes(each) * 1e-6:.1f}", figures)
    out.print(table)
