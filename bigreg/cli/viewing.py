"""`bigreg view`: runs and images in napari or in a web browser."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .app import app, err, print_json
from .options import require_there

SHOWN = "a bigreg run, nor a result of bigreg atlas, nor an image"


@app.command(rich_help_panel="Judge")
def view(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="RUN|IMAGE...", help="Runs, what `bigreg atlas` wrote, images: paths or URLs."),
    ],
    panel: Annotated[
        list[str] | None,
        typer.Option(help="inspect (default for runs), monitor, landmarks or launch. Repeatable."),
    ] = None,
    neuroglancer: Annotated[
        bool,
        typer.Option(
            "--neuroglancer",
            help="In a web browser of this machine instead: prints the address and the state as JSON, until Ctrl-C.",
        ),
    ] = False,
) -> None:
    """Show runs and images, in napari: images, map, progress of the blocks; also while one is running.

    For an atlas result: the brain, regions (named under the cursor), borders, cells.

    With --neuroglancer: fixed, warped and labels, or brain and regions. Images are shown where their files place them.
    """
    for path in paths:
        require_there(path, f"is not {SHOWN}; check the path")
    if neuroglancer and panel:
        raise typer.BadParameter("--panel is napari's; leave it or --neuroglancer out")
    from ..atlases import is_atlas_result
    from ..errors import ConfigError, InputError
    from ..pipeline.store.store import is_run
    from ..volumes import open_volume

    for path in (others := [path for path in paths if not is_run(path)]):
        if not is_atlas_result(path):
            try:
                open_volume(path)
            except InputError as error:
                raise InputError(f"'{path}' is not {SHOWN}: {error}") from error
    if neuroglancer:
        from ..browser import layers_at, show_in_neuroglancer

        layers = [layer for path in paths for layer in layers_at(path)]
        show_in_neuroglancer(layers, _shown)
        return
    try:
        from napari_bigreg.shared.named import NAMES
        from napari_bigreg.window import show
    except ImportError as error:
        raise ConfigError(f"napari is not installed ({error}); pip install 'bigreg[napari]'") from error
    panels = panel or (["inspect"] if len(others) < len(paths) else [])
    if wrong := [p for p in panels if p not in NAMES]:
        raise ConfigError(f"panel {wrong[0]!r} is unknown; use {', '.join(NAMES)}")
    show(paths, panels)


def _shown(page: str, state: dict[str, Any]) -> None:
    print_json(url=page, state=state)
    err.print(f"open {page} in a browser of this machine; Ctrl-C ends it", soft_wrap=True)
