"""The verbs about networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import Json, app, out, print_json


@app.command(rich_help_panel="Networks")
def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME|FILE]", help="Weights to describe.")] = None,
    as_json: Json = False,
) -> None:
    """List the networks that come with bigreg, or describe one of them or a file."""
    from rich.table import Table

    from ..display import pairs
    from ..models import card_of, packaged_names, weight_bytes

    if as_json:
        asked = packaged_names() if name is None else [name]
        print_json(models=[{"name": n, **card_of(n).model_dump(mode="json"), "bytes": weight_bytes(n)} for n in asked])
        return
    if name is not None:
        out.print(pairs(card_of(name).rows(weight_bytes(name))), soft_wrap=True)
        return
    names = packaged_names()
    if not names:
        out.print("this bigreg has no packaged weights; give an engine a file, or `random` to try it out")
        return
    table = Table("name", "architecture", "data", "MB", "figures", box=None)
    for each in names:
        card = card_of(each)
        figures = "; ".join(f"{key} {value:g}" for key, value in list(card.figures.items())[:2])
        table.add_row(each, card.architecture, card.data, f"{weight_bytes(each) * 1e-6:.1f}", figures)
    out.print(table)


@app.command(rich_help_panel="Networks")
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; configs/training has commented ones.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One value, such as schedule.steps=5000.")
    ] = None,
) -> None:
    """Train a network on patches of images; the same command again resumes after an interruption.

    On several GPUs: torchrun --nproc-per-node 4 -m bigreg.cli train CONFIG. The batch size is per GPU.
    """
    from ..display import bar
    from ..training.config import load_training
    from ..training.trainer import train as start

    progress, step = bar(out, "train")
    with progress:
        weights = start(load_training(config, overrides=set_), progress=step, say=out.print)
    if weights is not None:
        out.print(f"weights: {weights}", soft_wrap=True)
