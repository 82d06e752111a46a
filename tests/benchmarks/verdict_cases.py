"""Right and wrong registrations of many kinds, on which starts.py judges the verdict: whole runs of at most 96^3.

`verdicts/right-SOURCE-KIND` are expected to end right, `verdicts/wrong-SOURCE-KIND` wrong, but the known map decides.
Wrong ones begin with an affine that is off and is not searched for; what the levels cannot mend stays wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation
from start_images import (
    DATA,
    Map,
    Pair,
    Picture,
    bent,
    cut,
    known,
    mouse,
    noise,
    recorded,
    seeded,
    seen_through,
    tissue,
    tissue_places,
    with_glow,
    with_zeros,
)

from bigreg.transforms.affine import about
from bigreg.volumes import open_volume

MI = ("--set", "affine.similarity=mi", "--set", "engine_options.optimise.similarity=mi")
MIND = ("--set", "engine_options.optimise.similarity=mind")
NGF = ("--set", "engine_options.optimise.similarity=ngf")
AS_GIVEN = ("--set", "affine.kind=none")


# ------------------------------------------------------------------------------------------------------- sources


@lru_cache(maxsize=1)
def cells() -> Picture:
    return cut(tissue("mov"), slice(40, 128), slice(80, 168), slice(250, 338))


@lru_cache(maxsize=1)
def small_mouse() -> Picture:
    """mouse_tiff at 150 to 200 um."""
    image = mouse()
    data = image.data[:134, :96, :134].reshape(67, 2, 48, 2, 67, 2).mean((1, 3, 5))
    return Picture(data.astype(np.float32), (200.0, 160.0, 160.0))


@lru_cache(maxsize=1)
def head() -> Picture:
    volume = open_volume(DATA / "mouse_heads" / "FVB_NJ_.nii.gz")
    data = volume.read((0, 0, 0), volume.shape).astype(np.float32)
    n = [2 * (s // 2) for s in data.shape]
    data = data[: n[0], : n[1], : n[2]].reshape(n[0] // 2, 2, n[1] // 2, 2, n[2] // 2, 2).mean((1, 3, 5))
    return Picture(np.ascontiguousarray(data[:, :96, :96]), tuple(2 * s for s in volume.grid().spacing))


SOURCES = {"cells": cells, "mouse": small_mouse, "head": head}


@dataclass(eq=False)
class Scene:
    """A moving image, fixed seen through a map, both recorded; a kind changes what it needs to."""

    moving: Picture
    rng: np.random.Generator
    bend: float = 3.0  # voxels
    shift: float = 4.0
    degrees: float = 3.0
    fixed_noise: float = 0.015
    moving_noise: float = 0.015
    fixed_gamma: float = 0.8
    moving_gamma: float = 1.0
    truth: Map | None = None
    options: tuple[str, ...] = ()

    def map(self) -> Map:
        step = self.moving.spacing[2]
        return self.truth or bent(self.moving.extent, self.rng, self.degrees, self.bend * step, self.shift * step)

    def pair(
        self,
        spoil: Callable[[Picture, Picture], tuple[Picture, Picture]] | None = None,
        there: np.ndarray | None = None,
        inside: float = 3.0,
    ) -> Pair:
        """`there` (z, y, x): which places of moving count; only such as lie `inside` voxels within it do."""
        truth = self.map()
        clean = seen_through(self.moving, truth)
        fixed = recorded(clean, self.rng, self.fixed_gamma, self.fixed_noise, 4000.0)
        moving = recorded(self.moving, self.rng, self.moving_gamma, self.moving_noise, 4000.0)
        points = tissue_places(clean)
        if there is None:
            there = np.ones(self.moving.data.shape, bool)
        depth = Picture(ndimage.distance_transform_edt(np.pad(there, 1))[1:-1, 1:-1, 1:-1], self.moving.spacing)
        points = points[depth.at(truth(points)) >= inside]
        if spoil is not None:
            fixed, moving = spoil(fixed, moving)
        return judged(fixed, moving, truth, points, options=self.options)


def judged(fixed: Picture, moving: Picture, truth: Map, points: np.ndarray, **more: object) -> Pair:
    """A pair whose errors are told in voxels of fixed; right is a mean below one, lost one above two."""
    pair = known(fixed, moving, truth, points, **more)
    voxel = float(max(fixed.spacing))
    return replace(pair, unit=voxel, accurate=voxel, lost=2 * voxel)


# --------------------------------------------------------------------------------------------------- right kinds


def right(name: str, source: str, kind: str) -> Pair:
    rng = seeded(name)
    scene = Scene(SOURCES[source](), rng)
    n = np.array(scene.moving.data.shape)
    still = lambda p: np.asarray(p, float)  # noqa: E731
    if kind == "aligned":
        scene.truth, scene.fixed_gamma = still, 0.7
        scene.fixed_noise = scene.moving_noise = 0.03
    elif kind == "identical":
        image = recorded(scene.moving, rng, gain=4000.0)
        return judged(image, image, still, tissue_places(scene.moving))
    elif kind in ("noise5", "noise10", "noise20"):
        scene.fixed_noise = scene.moving_noise = int(kind[5:]) / 100
    elif kind == "shift":
        offset = rng.uniform(-6, 6, 3) * scene.moving.spacing
        scene.truth = lambda p: p + offset
    elif kind in ("mi", "mind", "ngf"):
        scene.options = {"mi": MI, "mind": MIND, "ngf": NGF}[kind]
    elif kind == "inverted":
        scene.options = MI
        return scene.pair(lambda f, m: (f, replace(m, data=(4500 - np.minimum(m.data.astype(int), 4400)).astype("u2"))))
    elif kind == "gamma":
        scene.fixed_gamma, scene.moving_gamma = 0.45, 1.6
    elif kind == "atlas":
        scene.options = ("--preset", "brain-to-atlas")
    elif kind == "zeros":
        there = with_zeros(replace(scene.moving, data=np.ones(n, np.uint8)), n.min() // 7).data > 0
        return scene.pair(lambda f, m: (with_zeros(f, n.min() // 14), with_zeros(m, n.min() // 7)), there)
    elif kind == "missing":
        there = np.ones(n, bool)
        there[:, : int(0.6 * n[1]), int(0.4 * n[2]) :] = False
        return scene.pair(lambda f, m: (f, replace(m, data=np.where(there, m.data, 200).astype("u2"))), there, 5.0)
    elif kind == "stripes":
        shade = 1 - 0.6 * (rng.random(n[1] // 4 + 1).repeat(4)[: n[1]] > 0.6)
        return scene.pair(lambda f, m: (f, replace(m, data=(m.data * shade[None, :, None]).astype("u2"))))
    elif kind == "gradient":
        fall = [np.linspace(1, 0.3, k) for k in n]
        return scene.pair(
            lambda f, m: (
                replace(f, data=(f.data * fall[1][None, :, None]).astype("u2")),
                replace(m, data=(m.data * fall[0][:, None, None]).astype("u2")),
            )
        )
    elif kind == "glow":
        return scene.pair(lambda f, m: (f, with_glow(m, rng, 4000.0)))
    elif kind == "few-greys":
        return scene.pair(lambda f, m: (f, replace(m, data=(33000 + (m.data.astype(float) - 200) * 0.01).astype("u2"))))
    elif kind == "float":
        return scene.pair(lambda f, m: (f, replace(m, data=((m.data.astype(float) - 2000) / 4000).astype("f4"))))
    elif kind in ("slab", "part", "tiny8", "tiny16", "half"):
        return part(scene, kind)
    elif kind == "anisotropic":
        scene.shift = 2.0
        thick = (4 * scene.moving.spacing[0], *scene.moving.spacing[1:])
        planes = n[0] // 4 * 4
        return scene.pair(
            lambda f, m: (
                Picture(
                    f.data[:planes].reshape(-1, 4, n[1], n[2]).mean(1).astype("u2"), thick,
                    (1.5 * scene.moving.spacing[0], 0.0, 0.0),
                ),
                m,
            )
        )  # fmt: skip
    elif kind == "overlap":
        # Two windows of one image with 35 % of a length in common.
        width = int(n[2] / 1.65)
        step = n[2] - width
        truth, still_in = scene.map(), step * scene.moving.spacing[2] * np.array([0.0, 0, 1])
        clean = seen_through(scene.moving, truth)
        fixed = recorded(cut(clean, slice(None), slice(None), slice(0, width)), rng, 0.8, 0.015, 4000.0)
        moving = recorded(cut(scene.moving, slice(None), slice(None), slice(step, None)), rng, 1.0, 0.015, 4000.0)
        return judged(
            fixed, moving, lambda p: truth(p) - still_in, tissue_places(cut(clean, *[slice(None)] * 2, slice(0, width)))
        )
    elif kind != "plain":
        raise ValueError(kind)
    return scene.pair()


def part(scene: Scene, kind: str) -> Pair:
    """Fixed shows a part of what moving does."""
    n = np.array(scene.moving.data.shape)
    size = {
        "slab": (10, n[1], n[2]),
        "part": n // 2,
        "tiny8": (8, 8, 8),
        "tiny16": (16, 16, 16),
        "half": (n[0], n[1], n[2] // 2),
    }[kind]
    low = (n - size) // 2
    box = tuple(slice(a, a + b) for a, b in zip(low, size, strict=True))
    if kind.startswith("tiny"):
        moving = cut(scene.moving, *box)
        truth = lambda p: p + 0.6 * np.asarray(moving.spacing)  # noqa: E731
        clean = cut(seen_through(scene.moving, truth), *box)
        pictures = (recorded(clean, scene.rng, 0.9, gain=4000.0), recorded(moving, scene.rng, gain=4000.0))
        return judged(*pictures, truth, clean.places())
    truth, offset = scene.map(), low * np.asarray(scene.moving.spacing)
    clean = cut(seen_through(scene.moving, truth), *box)
    fixed = recorded(clean, scene.rng, 0.8, gain=4000.0)
    return judged(
        fixed, recorded(scene.moving, scene.rng, gain=4000.0), lambda p: truth(p + offset), tissue_places(clean)
    )


RIGHT = (
    "plain", "aligned", "identical", "noise5", "noise10", "noise20", "shift", "mi", "mind", "ngf", "inverted", "gamma",
    "zeros", "missing", "stripes", "gradient", "glow", "few-greys", "float", "slab", "part", "tiny8", "tiny16", "half",
    "anisotropic", "overlap", "atlas",
)  # fmt: skip


# --------------------------------------------------------------------------------------------------- wrong kinds


def wrong(name: str, source: str, kind: str, options: tuple[str, ...] = ()) -> Pair:
    """Off by voxels, turned by degrees or mirrored from about where the truth is, and taken as it is."""
    rng = seeded(name)
    scene = Scene(SOURCES[source](), rng, options=options)
    if kind == "push":  # narrow and far: more than the levels reach
        truth, step, middle = scene.map(), scene.moving.spacing[2], scene.moving.centre
        away = np.array([0.0, 1.0, 0.0])

        def pushed(p: np.ndarray) -> np.ndarray:
            near = np.exp(-((p - middle) ** 2).sum(1, keepdims=True) / (2 * (9 * step) ** 2))
            return truth(p) + 14 * step * near * away

        scene.truth = pushed
        pair = scene.pair()
        close = np.linalg.norm(pair.points - middle, axis=1) < 22 * step
        return replace(pair, points=pair.points[close], targets=pair.targets[close])
    if kind == "swapped":  # a half of moving is of another place
        n = scene.moving.data.shape
        pair = scene.pair(lambda f, m: (f, m))
        data = pair.moving.data.copy()
        data[:, :, n[2] // 2 :] = data[::-1, ::-1, n[2] // 2 :]
        return replace(pair, moving=replace(pair.moving, data=data))
    if kind == "spacing":
        pair = scene.pair()
        wide = tuple(np.multiply(pair.moving.spacing, (2.6, 1.0, 1.0)))
        return replace(pair, moving=replace(pair.moving, spacing=wide), targets=pair.targets * (2.6, 1.0, 1.0))
    pair = scene.pair()
    middle = scene.moving.centre
    if kind.startswith("off"):
        way = rng.standard_normal(3)
        off = about(np.eye(3), middle, middle + int(kind[3:]) * scene.moving.spacing[2] * way / np.linalg.norm(way))
    elif kind.startswith("turn"):
        way = rng.standard_normal(3)
        angle = np.deg2rad(int(kind[4:]))
        off = about(Rotation.from_rotvec(angle * way / np.linalg.norm(way)).as_matrix(), middle, middle)
    else:
        off = about(np.diag([1.0, 1.0, -1.0]), middle, middle)
    return replace(pair, start=off, options=(*pair.options, *AS_GIVEN))


def unrelated(kind: str) -> Pair:
    """Nothing in common, taken as it lies."""
    here = recorded(cells(), np.random.default_rng(0), gain=4000.0)
    other = cut(tissue("fix"), slice(20, 108), slice(20, 108), slice(20, 108))
    other = recorded(other, np.random.default_rng(1), gain=4000.0)
    fixed, moving = {
        "elsewhere": (here, other),
        "turned-round": (here, replace(here, data=np.ascontiguousarray(here.data[::-1, :, ::-1]))),
        "noise": (noise(11), noise(12)),
        "grain": (noise(13, smooth=2.0), noise(14, smooth=2.0)),
        "kinds": (
            replace(recorded(small_mouse(), np.random.default_rng(2)), spacing=(2.0, 2.0, 2.0)),
            replace(recorded(head(), np.random.default_rng(3)), spacing=(2.0, 2.0, 2.0)),
        ),
    }[kind]
    return Pair(fixed, moving, None, None, 1.0, 0.0, 0.0, AS_GIVEN, "nothing")


WRONG = (
    "off12",
    "off20",
    "off35",
    "off60",
    "turn20",
    "turn45",
    "turn90",
    "turn150",
    "mirror",
    "push",
    "swapped",
    "spacing",
)


def verdicts() -> dict[str, Callable[[], Pair]]:
    out: dict[str, Callable[[], Pair]] = {}
    for kind in RIGHT:
        for source in SOURCES:
            name = f"verdicts/right-{source}-{kind}"
            out[name] = partial(right, name, source, kind)
    for kind in WRONG:
        for source in SOURCES:
            name = f"verdicts/wrong-{source}-{kind}"
            out[name] = partial(wrong, name, source, kind)
    for label, options in {"mi": MI, "mind": MIND, "ngf": NGF}.items():
        for source, kind in (("cells", "off35"), ("mouse", "turn45"), ("head", "turn90")):
            name = f"verdicts/wrong-{source}-{kind}-{label}"
            out[name] = partial(wrong, name, source, kind, options)
    for kind in ("elsewhere", "turned-round", "noise", "grain", "kinds"):
        out[f"verdicts/wrong-unrelated-{kind}"] = partial(unrelated, kind)
    return out
