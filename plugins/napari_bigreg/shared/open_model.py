"""What a run looks like in napari: its layers, as data, without Qt and without a viewer.

Everything lies in the fixed world, in micrometres. Images are lazy; of each no more is read than its coarsest level.
What a run does not have yet is left out; what is damaged is left out and named in `problems`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import bigreg
from bigreg.errors import BigregError
from bigreg.geometry import Grid
from bigreg.quality.confidence import LARGE, TILE, said

from .colours import STATUS, block_colours, jacobian_colours, risk_colours, unmatched_colours
from .lazy import Tell, levels_of, warn

LayerData = tuple[Any, dict[str, Any], str]
FIXED, MOVING = "magenta", "green"
"""As in the report of a run: grey where both agree."""
UNITS = ("um", "um", "um")
AXES = ("z", "y", "x")
SMALL = 160
"""Voxels along the longest axis of the coarsest level that is offered: it is what napari shows in 3-D."""
LOOK_VOXELS = 2_000_000
"""What may be read to find how bright an image is."""
ARROWS = 12
"""Along the longest axis, of the displacements that are shown at first."""


def placed(grid: Grid) -> dict[str, Any]:
    """Where napari is to put an array that is sampled on `grid`: voxel centres at their places in the world, um."""
    where: dict[str, Any] = {"units": UNITS, "axis_labels": AXES}
    if grid.is_axis_aligned:
        return {**where, "scale": grid.spacing, "translate": grid.origin}
    # napari cannot turn a slice, and says so each time it slices: of blocks, which are turned by half the affine's
    # few degrees, the nearest are shown.
    warnings.filterwarnings("ignore", message="Non-orthogonal slicing")
    return {**where, "affine": grid.affine}


class RunView:
    """The layers of the run at `url`. Raises InputError where there is none, or one of another version."""

    def __init__(self, url: str, tell: Tell = warn) -> None:
        self.run = bigreg.open_run(url)
        self.url = self.run.url
        self.tell = tell
        self.problems: list[str] = []
        self.state = self.run.status().state

    def layers(self) -> list[LayerData]:
        """All layers, those below first. `problems` says what could not be shown and why."""
        self.problems = []
        parts: tuple[tuple[str, Callable[[], LayerData]], ...] = (
            ("moving", self.moving),
            ("fixed", self.fixed),
            ("warped", self.warped),
            ("Jacobian", self.jacobian),
            ("risk", self.risk),
            ("noncorrespondence", self.noncorrespondence),
            ("displacement", self.displacement),
            ("blocks", self.block_map),
            ("landmarks", self.landmarks),
        )
        found = []
        for name, make in parts:
            if not self._expected(name):
                continue
            try:
                layer = make()
            except BigregError as error:
                self.problems.append(f"{name} is not shown: {error}")
                continue
            if layer is not None:
                found.append(layer)
        for problem in self.problems:
            self.tell(problem)
        return found

    def _expected(self, name: str) -> bool:
        """Whether a run in this state should have it: what is only not there yet is no problem."""
        if name in ("fixed", "moving"):
            return True
        if name == "blocks":
            return bool(self.run.blocks())
        if name == "landmarks":
            return bool(len(self.run.landmarks().names))
        if name == "noncorrespondence":  # not every run looks for it
            return self._has(name)
        if self.state == "finished":
            output = self.run.config.output
            return {"warped": output.warped, "risk": output.confidence}.get(name, True)
        return self._has(name)

    def _has(self, name: str) -> bool:
        try:
            self.run.pyramid({"Jacobian": "jacobian", "displacement": "fixed_to_moving"}.get(name, name))
        except BigregError:
            return False
        return True

    def _image(self, what: str, pyramid: Any, fill: float = 0, **settings: Any) -> LayerData:
        small = next((n for n, level in enumerate(pyramid) if max(level.grid.shape) <= SMALL), len(pyramid) - 1)
        data = levels_of(pyramid[: small + 1], self.tell, fill)
        settings = {
            "name": what,
            "metadata": {"bigreg": {"run": self.url, "what": what}},
            "multiscale": len(data) > 1,
            "blending": "additive",
            "contrast_limits": self._contrast(what, pyramid),
            **placed(pyramid[0].grid),
            **settings,
        }
        return data if len(data) > 1 else data[0], settings, "image"

    def _contrast(self, what: str, pyramid: Any) -> tuple[float, float]:
        known = self.run.contrast("fixed" if what == "fixed" else "moving")
        if known is not None:
            return known
        level = pyramid[-1]
        shape = np.asarray(level.grid.shape)
        side = shape if level.grid.voxels <= LOOK_VOXELS else np.minimum(shape, round(LOOK_VOXELS ** (1 / 3)))
        start = (shape - side) // 2
        values = level.read(tuple(start.tolist()), tuple((start + side).tolist()))
        low, high = (float(v) for v in np.percentile(values, (1, 99.9)))
        return low, high if high > low else low + 1

    def fixed(self) -> LayerData:
        return self._image("fixed", self.run.pyramid("fixed"), colormap=FIXED)

    def warped(self) -> LayerData:
        return self._image("warped", self.run.pyramid("warped"), colormap=MOVING)

    def moving(self) -> LayerData:
        """After the affine alone, if there is one yet; hidden once there is something better to look at."""
        seen = not self._has("warped")
        if self._has("affine"):
            # Resampled rather than placed by its affine: napari shows a slice of a turned image as if it were not.
            pyramid, name = self.run.pyramid("affine"), "moving after the affine"
            return self._image("affine", pyramid, name=name, colormap=MOVING, visible=seen)
        data, settings, kind = self.own_moving()
        return data, {**settings, "visible": seen}, kind

    def own_moving(self) -> LayerData:
        """The moving image where it lies in its own world."""
        return self._image("moving", self.run.pyramid("moving"), name="moving", colormap=MOVING)

    def jacobian(self) -> LayerData:
        """Volume ratio: blue shrinks, red grows, yellow folds."""
        pyramid = self.run.pyramid("jacobian")
        return self._image(
            "jacobian",
            pyramid,
            fill=1,
            name="Jacobian determinant",
            colormap=jacobian_colours(pyramid[-1].read((0, 0, 0), pyramid[-1].grid.shape)),
            contrast_limits=(0.0, 2.0),
            blending="translucent",
            opacity=0.6,
            visible=False,
            interpolation2d="nearest",
        )

    def risk(self) -> LayerData:
        """Where not to trust the map; what cannot be judged is NaN, which napari does not draw."""
        pyramid = self.run.pyramid("risk")
        large = [LARGE * s / TILE for s in pyramid[0].grid.spacing]
        return self._image(
            "risk",
            pyramid,
            fill=np.nan,
            name=f"risk of an error above {said(large)}",
            colormap=risk_colours(),
            contrast_limits=(0.0, 1.0),
            blending="translucent",
            visible=False,
            interpolation2d="nearest",
        )

    def noncorrespondence(self) -> LayerData:
        """What one image shows and the other does not; the map only continues there what is around it."""
        return self._image(
            "noncorrespondence",
            self.run.pyramid("noncorrespondence"),
            name="no counterpart in the other image",
            colormap=unmatched_colours(),
            contrast_limits=(0.0, 1.0),
            blending="translucent",
            visible=False,
            interpolation2d="nearest",
        )

    def displacement(self) -> LayerData:
        """Arrows of fixed_to_moving, affine excluded, from the coarsest level; the Inspect panel draws finer ones."""
        level = self.run.pyramid("fixed_to_moving")[-1]
        shape = np.asarray(level.grid.shape)
        step = np.maximum(np.rint(shape.max() / ARROWS), 1).astype(int)
        values = level.read((0, 0, 0), level.grid.shape)[(slice(None), *(slice(step // 2, None, step),) * 3)]
        index = np.moveaxis(np.indices(values.shape[1:]), 0, -1).reshape(-1, 3).astype(float)
        matrix = level.grid.affine.copy()
        matrix[:3, 3] = level.grid.index_to_world(np.full(3, step // 2))
        matrix[:3, :3] *= step
        grid = Grid(values.shape[1:], tuple(map(tuple, matrix)))
        moves = values.reshape(3, -1).T.astype(float)
        length = np.linalg.norm(moves, axis=1)
        longer = enlargement(length, float(np.mean(grid.spacing)))
        settings = {
            "name": f"displacement, {longer:g} x" if longer > 1 else "displacement",
            "metadata": {"bigreg": {"run": self.url, "what": "displacement"}},
            "features": {"um": length},
            "length": longer,
            "edge_color": "um",
            "edge_colormap": "viridis",
            "edge_width": 0.06,
            "vector_style": "arrow",
            "visible": False,
            **placed(grid),
        }
        # Positions and moves in units of the arrows' own grid, so that a slice shows the arrows nearest to it.
        return np.stack([index, moves / np.asarray(grid.spacing)], axis=1), settings, "vectors"

    def block_map(self) -> LayerData:
        """How the blocks of the finest level fared."""
        stage = next((s for s in self.run.blocks() if s == "levels/0"), next(iter(self.run.blocks())))
        return block_layer(self.run.blocks()[stage], self.run.block_status(stage), self.url, visible=False)

    def landmarks(self) -> LayerData:
        """The fixed points of the pairs that are kept in the run."""
        pairs = self.run.landmarks()
        kept = np.isfinite(pairs.fixed).all(1)
        points, where = dots(
            np.asarray(pairs.fixed)[kept], 5 * float(np.mean(self.run.pyramid("fixed")[0].grid.spacing))
        )
        settings = {
            "name": "landmarks",
            "metadata": {"bigreg": {"run": self.url, "what": "landmarks"}},
            "features": {"name": np.asarray(pairs.names)[kept]},
            "text": {"string": "{name}", "color": "white", "anchor": "upper_left"},
            "face_color": "#ffd400",
            "border_color": "black",
            **where,
        }
        return points, settings, "points"


def dots(points: np.ndarray, size: float) -> tuple[np.ndarray, dict[str, Any]]:
    """World points (um) as a Points layer has them that shows each as a dot of `size` um on every slice that cuts it.

    napari shows the points that are within half a unit of their layer from the slice, so that is its unit.
    """
    return points / size, {"scale": (size,) * 3, "size": 1.0, "units": UNITS, "axis_labels": AXES}


def enlargement(length: np.ndarray, step: float) -> float:
    """By how much arrows of some lengths, `step` apart, are drawn longer to be seen: 1, 2, 5, 10, ..., 100."""
    usual = float(np.percentile(length, 70)) if length.size else 0.0
    return next((f for f in (100.0, 50.0, 20.0, 10.0, 5.0, 2.0) if f * usual <= step), 1.0)


def block_layer(blocks: Any, statuses: np.ndarray, url: str, **settings: Any) -> LayerData:
    """The blocks of a stage of the run at `url`, a voxel each, coloured by status.

    An image, not labels: it opens in a tenth of the time, and nobody paints on it by mistake.
    """
    settings = {
        "name": f"blocks: {blocks.title}",
        "metadata": {"bigreg": {"run": url, "what": "blocks", "stage": blocks.stage}},
        "colormap": block_colours(),
        "contrast_limits": (-0.5, len(STATUS) - 0.5),
        "interpolation2d": "nearest",
        "opacity": 0.3,
        "blending": "translucent",
        **placed(blocks.grid),
        **settings,
    }
    return statuses, settings, "image"
