"""Draws the pictures of the documentation: python docs/scripts/figures.py [NAME...]; some minutes on one core.

Images are the procedural phantom of bigreg, so the true map is known and every title can state the error.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

import bigreg
from bigreg.config import load_config
from bigreg.demo import evaluate
from bigreg.phantom import DemoPair, make_pair
from bigreg.pipeline.context.context import Context
from bigreg.pipeline.schedule.driver import new_stamp

IMAGES = Path(__file__).resolve().parents[1] / "images"
SHAPE, SPACING = (48, 80, 96), (4.0, 2.6, 2.6)
SMALL = ["cluster.workers=1", "output.confidence=false", "output.report=false", "affine.voxels=64"]


def pair(noise: float = 0.0, shade: bool = False) -> DemoPair:
    """The phantom; `noise` as a share of its brightness in both images, `shade` dims moving along x."""
    made = make_pair(SHAPE, SPACING, seed=3, max_displacement_um=8.0)
    rng = np.random.default_rng(0)
    images = {}
    for name in ("fixed", "moving"):
        image = getattr(made, name).astype(float)
        if shade and name == "moving":
            image *= np.exp(-2.5 * np.linspace(0, 1, SHAPE[2]))
        image += noise * np.percentile(image, 99.9) * rng.standard_normal(SHAPE)
        images[name] = np.clip(image, 0, 65535).astype(np.uint16)
    return replace(made, **images)


def register(images: DemoPair, *overrides: str) -> tuple[bigreg.Run, float]:
    """A run with the preset `rounds`, and its mean error in um."""
    folder = tempfile.mkdtemp()
    run = bigreg.register(
        (images.fixed, images.spacing), (images.moving, images.spacing), out=f"{folder}/run.zarr",
        config=load_config("rounds", overrides=[*SMALL, *overrides]),
    )  # fmt: skip
    return run, evaluate(run, images)["after"].mean


def scaled(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, (1, 99.7))
    return np.clip((image.astype(float) - low) / max(high - low, 1e-9), 0, 1)


def overlay(ax: Any, fixed: np.ndarray, moving: np.ndarray) -> None:
    f, m = scaled(fixed), scaled(moving)
    ax.imshow(np.stack([f, m, f], -1), interpolation="nearest")


def grid_lines(ax: Any, run: bigreg.Run, z_um: float) -> None:
    """Regular lines of the fixed frame, moved as the map moves them beyond its affine."""
    extent = np.array(SHAPE[1:]) * SPACING[1:]
    for axis in (0, 1):
        for place in np.arange(0, extent[axis], 8.0):
            along = np.linspace(0, extent[1 - axis], 200)
            line = np.full((200, 3), z_um)
            line[:, 1 + axis], line[:, 2 - axis] = place, along
            there = run.map_points(line)
            back = (there - run.affine[:3, 3]) @ np.linalg.inv(run.affine[:3, :3]).T
            ax.plot(back[:, 2] / SPACING[2], back[:, 1] / SPACING[1], color="white", linewidth=0.5)
    ax.set_xlim(0, SHAPE[2] - 1)
    ax.set_ylim(SHAPE[1] - 1, 0)


def panels(titles: list[str], paint: Callable[[Any, int], None], name: str) -> None:
    figure, axes = plt.subplots(1, len(titles), figsize=(3.6 * len(titles), 3.4), constrained_layout=True)
    for place, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        paint(ax, place)
        ax.set_title(title, fontsize=10)
        ax.axis("off")
    figure.savefig(IMAGES / name, dpi=90)
    plt.close(figure)
    print(name)


def compared(key: str, values: dict[str, str], name: str, images: DemoPair, *more: str, lines: bool = False) -> None:
    """One panel for each value: overlay of a plane, or the deformed grid."""
    runs = [register(images, f"{key}={value}", *more) for value in values.values()]
    z = SHAPE[0] // 2

    def paint(ax: Any, place: int) -> None:
        run = runs[place][0]
        if lines:
            ax.imshow(scaled(images.fixed[z]), cmap="gray")
            grid_lines(ax, run, z * SPACING[0])
        else:
            overlay(ax, images.fixed[z], run.warped[z])

    titles = [
        f"{what}: {value}\nmean error {error:.2f} µm"
        for (what, value), (_, error) in zip(values.items(), runs, strict=True)
    ]
    panels(titles, paint, name)


def regularisation() -> None:
    compared(
        "engine_options.optimise.regularisation", {"too little": "0.002", "right": "0.8", "too much": "200"},
        "regularisation.png", pair(0.05), lines=True,
    )  # fmt: skip


def finest() -> None:
    compared(
        "ladder.finest", {"too coarse": "8", "right": "2", "too fine for this noise": "1"}, "finest.png", pair(0.15),
        "engine_options.optimise.least_agreement=null",
    )  # fmt: skip


def coarsest() -> None:
    compared(
        "ladder.coarsest", {"too fine": "1", "right": "4"}, "coarsest.png", pair(), "ladder.repeats=[1]",
        "affine.kind=none",
    )  # fmt: skip


def bias() -> None:
    images, seen, values = pair(shade=True), [], {"too small": "15", "right": "100", "too large": "1000"}
    for value in values.values():
        run, _ = register(images, f"preprocess.moving.bias_um={value}", "deformation=false")
        context = Context(run.url, new_stamp())
        image = context.seen("moving", (1, 1, 1))
        seen.append(image.read((0, 0, 0), image.grid.shape))
    titles = ["as stored", *(f"{what}: {value} µm" for what, value in values.items())]
    shown = [images.moving, *seen]
    z = SHAPE[0] // 2
    panels(titles, lambda ax, place: ax.imshow(scaled(np.asarray(shown[place])[z]), cmap="gray"), "bias.png")


def background() -> None:
    """Moving with a glow that is smooth and bright."""
    images, seen, values = pair(), [], {"too small": "12", "right": "80", "too large": "1000"}
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    glow = 0.6 * np.percentile(images.moving, 99.9) * np.exp(-((x - 0.6) ** 2 + (y + 0.5) ** 2 + z**2) / 0.5)
    images = replace(images, moving=np.clip(images.moving + glow, 0, 65535).astype(np.uint16))
    for value in values.values():
        run, _ = register(images, f"preprocess.moving.background_um={value}", "deformation=false", "affine.kind=none")
        image = Context(run.url, new_stamp()).seen("moving", (1, 1, 1))
        seen.append(image.read((0, 0, 0), image.grid.shape))
    titles = ["as stored", *(f"{what}: {value} µm" for what, value in values.items())]
    middle, shown = SHAPE[0] // 2, [images.moving, *seen]
    panels(titles, lambda ax, n: ax.imshow(scaled(np.asarray(shown[n])[middle]), cmap="gray"), "background.png")


def noise() -> None:
    compared(
        "engine_options.optimise.noise", {"too small": "0.0005", "right": "0.02", "too large": "0.6"}, "noise.png",
        pair(0.05), lines=True,
    )  # fmt: skip


def starts() -> None:
    """The same pair under a start that is right and one that is not."""
    images = pair()
    right, error = register(images, "deformation=false")
    z = SHAPE[0] // 2
    wrong = images.moving[:, ::-1, ::-1]
    panels(
        ["before registration", f"right start\nmean error {error:.1f} µm", "wrong start: half a turn"],
        lambda ax, place: overlay(ax, images.fixed[z], (images.moving, right.warped, wrong)[place][z]), "starts.png",
    )  # fmt: skip


def orientation() -> None:
    """Three planes through a pair whose stated orientation is right, and through one whose z and x are exchanged."""
    made = make_pair((64, 72, 96), (4.0, 4.0, 4.0), seed=5)

    def centred(image: np.ndarray) -> np.ndarray:
        low = [(96 - n) // 2 for n in image.shape]
        return np.pad(image, [(m, 96 - n - m) for m, n in zip(low, image.shape, strict=True)])

    moving = centred(made.moving)
    rows = {"right": centred(made.fixed), "z and x exchanged": centred(made.fixed.transpose(2, 1, 0))}
    figure, axes = plt.subplots(2, 3, figsize=(8, 5.6), constrained_layout=True)
    for line, (what, fixed) in zip(axes, rows.items(), strict=True):
        for axis, ax in enumerate(line):
            overlay(ax, fixed.take(48, axis), moving.take(48, axis))
            ax.set_title(f"{what}, across {'zyx'[axis]}", fontsize=9)
            ax.axis("off")
    figure.savefig(IMAGES / "orientation.png", dpi=90)
    plt.close(figure)
    print("orientation.png")


def blending() -> None:
    """Two neighbouring blocks that disagree: their displacements blended, and their velocities blended."""
    x = np.arange(161.0)
    weight = np.cos(np.pi / 2 * np.clip((x - 70) / 20, 0, 1)) ** 2  # the blocks overlap from 70 to 90
    blend = weight * 18.0 - (1 - weight) * 18.0  # voxels that the blocks propose: 18 to the right, 18 to the left
    flow = blend / 2**8
    for _ in range(8):  # exp(v) by scaling and squaring
        flow = flow + np.interp(x + flow, x, flow)
    maps = [x + blend, x + flow]

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), constrained_layout=True, sharey=True)
    for ax, there, what in zip(axes, maps, ("displacements", "velocities"), strict=True):
        folds = np.diff(there) <= 0
        ax.axvspan(70, 90, color="0.9")
        ax.plot(x, there, color="tab:blue")
        ax.plot(x[1:], np.where(folds, there[1:], np.nan), color="tab:red", linewidth=3)
        ax.set_title(f"{what} blended: {int(folds.sum())} voxels fold", fontsize=10)
        ax.set_xlabel("x, voxels")
    axes[0].set_ylabel("where the map takes x, voxels")
    figure.savefig(IMAGES / "blending.png", dpi=90)
    plt.close(figure)
    print("blending.png")


def result() -> None:
    """A pair, the warped image and the deformed grid."""
    images = pair()
    run, error = register(images)
    z = SHAPE[0] // 2
    panels(
        ["fixed (magenta) and moving (green)", f"after registration\nmean error {error:.2f} µm", "the deformed grid"],
        lambda ax, place: (
            (ax.imshow(scaled(images.fixed[z]), cmap="gray"), grid_lines(ax, run, z * SPACING[0]))
            if place == 2
            else overlay(ax, images.fixed[z], (images.moving, run.warped)[place][z])
        ),
        "result.png",
    )  # fmt: skip


DRAWN = {f.__name__: f for f in (
    regularisation, noise, finest, coarsest, bias, background, starts, orientation, blending, result
)}  # fmt: skip

if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for wanted in sys.argv[1:] or DRAWN:
        DRAWN[wanted]()
