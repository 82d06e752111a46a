"""Whether a brain and an atlas lie as they are said to: where other axes fit better they are named."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..config import Config
from ..errors import named
from ..pipeline.choosing.axes import better_axes, codes_after, unseen
from ..pipeline.run import Run
from ..transforms.affine import nearest_axis_turn
from ..volumes import Volume
from .source import Atlas


def warning_of_axes(atlas: Atlas, brain: Volume, config: Config) -> tuple[str, bytes]:
    """A sentence where other axes fit better than those stated, and a picture of it (PNG); else both are empty.

    All 24 orders of the axes and their mirror images are tried on small copies, which takes about as long as the start
    of the registration.
    """
    volumes = {"fixed": atlas.template, "moving": brain}
    if reason := unseen(volumes, config):
        return f"the orientations were not checked: {reason}", b""
    found = better_axes(volumes, config)
    if found is None:
        return "", b""
    how = f"the brain fits the atlas better on other axes than stated (score {found.score:.2f} against "
    return _words(f"{how}{found.stated:.2f})", found.fixed, found.moving, atlas.template, brain), found.picture


def warning_of_turn(run: Run, atlas: Atlas, brain: Volume) -> str:
    """A sentence where a registration has turned the brain onto other axes than those stated; else nothing."""
    frames = run._context().frames
    turn = nearest_axis_turn(np.linalg.solve(frames.before, frames.affine))
    if np.array_equal(turn, np.eye(3)):
        return ""
    fixed, moving = codes_after(str(atlas.template.orientation), str(brain.orientation), turn)
    return _words("the registration has rotated the brain onto other axes than stated", [fixed], [moving],
                  atlas.template, brain)  # fmt: skip


def _words(how: str, fixed: Sequence[str], moving: Sequence[str], template: Volume, brain: Volume) -> str:
    atlas = named("--atlas-orientation", "local_atlas's orientation")
    own = named("--orientation", "open_volume's orientation")
    return (
        f"{how}: regions and their sides would be wrong. If the brain's orientation {brain.orientation} is right, the "
        f"atlas is {' or '.join(fixed)} and not {template.orientation} ({atlas}); if the atlas's is right, "
        f"the brain is {' or '.join(moving)} and not {brain.orientation} ({own}). A brain is nearly its own "
        "mirror image, so left and right cannot be seen: know them from how the files were made"
    )
