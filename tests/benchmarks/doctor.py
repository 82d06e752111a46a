"""What `bigreg doctor` says of pairs whose kind is known, beside what they are.

    python tests/benchmarks/doctor.py [GLOB ...]

The real pairs of BIGREG_TEST_DATA, real images through known maps with noise of their own (one specimen; plain: bent by
6 voxels, noise 1 %; noisy: 8 %; inverted: bright goes with dark), and pairs with nothing in common. Images in memory
have no name that could hint.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from start_cases import SUITES
from start_images import DATA, Picture, bent, brain, cut, mouse, recorded, seen_through, tissue, tissue_mask

import bigreg
from bigreg import open_volume

Pair = tuple[Any, Any]
Cases = dict[str, tuple[str, Callable[[], Pair]]]
BENT = {"plain": (6.0, 0.8, 0.01), "noisy": (6.0, 1.3, 0.08), "inverted": (6.0, 1.0, 0.02)}  # voxels, gamma, noise


def real() -> Cases:
    heads = sorted((DATA / "mouse_heads").glob("*.nii.gz"))
    cells = {"dataset": "lowres", "spacing": (1.68, 1.84, 1.84)}
    mouse_tiff = partial(open_volume, DATA / "mouse_tiff", spacing=(50, 40, 40), orientation="psl")
    light = partial(open_volume, DATA / "lsfm_mouse" / "brain_25um.ome.zarr")
    template = partial(open_volume, DATA / "lsfm_mouse" / "ccf_template_25um.ome.zarr")
    nrrd = partial(open_volume, DATA / "ccf_100um" / "average_template_100.nrrd", orientation="rsa")
    return {
        "easifish, two rounds": ("rounds", lambda: tuple(
            open_volume(DATA / "easifish" / f"{n}.n5", **cells) for n in ("fix", "mov"))),
        **{f"heads {a.name[:6]} {b.name[:6]}": ("individuals", partial(lambda *p: tuple(map(open_volume, p)), a, b))
           for a, b in pairwise(heads)},
        "template, light-sheet brain": ("brain-to-atlas", lambda: (template(), light())),
        "template, autofluorescence": ("brain-to-atlas", lambda: (template(orientation="psl"), mouse_tiff())),
        "template at 100 um, autofluorescence": ("brain-to-atlas", lambda: (nrrd(), mouse_tiff())),
        "two brains, other stains": ("brain-to-atlas", lambda: (light(orientation="psl"), mouse_tiff())),
        "the template twice": ("rounds", lambda: (nrrd(), template(orientation="psl"))),
    }  # fmt: skip


def through_maps() -> Cases:
    images = {
        "cells": lambda: cut(tissue(), slice(30, 118), slice(60, 172), slice(150, 262)), "mouse": mouse,
        "template": lambda: brain("template"), "light-sheet brain": brain,
    }  # fmt: skip
    return {
        f"{name}, {how}": ("rounds" + ", mi" * (how == "inverted"), partial(_seen, image, how))
        for name, image in images.items() for how in BENT
    }  # fmt: skip


def _seen(source: Callable[[], Picture], how: str) -> Pair:
    image, (amplitude, gamma, noise) = source(), BENT[how]
    rng = np.random.default_rng(list(BENT).index(how) + 1)
    scale = max(image.spacing)
    fixed = seen_through(image, bent(image.extent, rng, 3.0, amplitude * scale, 5.0 * scale))
    if how == "inverted":
        value = np.clip(fixed.data / np.percentile(fixed.data, 99.9), 0, 1)
        inside = tissue_mask(fixed)
        fixed = replace(fixed, data=np.where(inside, 0.15 + 0.85 * (1 - value) ** 1.6, 0.02).astype(np.float32))
    return recorded(fixed, rng, gamma, noise), recorded(image, rng, 1.0, noise)


def impossible() -> Cases:
    def made(make: Callable) -> Pair:
        pair = make()
        options = {"orientation": "psl"} if not isinstance(pair.moving, Picture) else {}
        return pair.fixed, pair.moving if not options else open_volume(pair.moving, **options)

    return {name: ("nothing", partial(made, make)) for name, make in SUITES["impossible"]().items()}


def main() -> None:
    wanted = sys.argv[1:] or ["*"]
    print("| pair | is | preset | sure | similarity | sign | left by the affine | and bent | confidence | seconds |")
    print("|---" * 10 + "|")
    for name, (kind, make) in {**real(), **through_maps(), **impossible()}.items():
        if not any(fnmatch(name, glob) for glob in wanted):
            continue
        images = [
            open_volume(i.data, spacing=i.spacing, origin=i.origin) if isinstance(i, Picture) else i for i in make()
        ]
        try:
            found = bigreg.doctor(*images)
        except bigreg.errors.InputError as error:
            print(f"| {name} | {kind} | refused: {error} |" + " |" * 7, flush=True)
            continue
        seen = found.measured
        numbers = [seen.affine.sign, seen.affine.unexplained, seen.bent.unexplained, seen.confidence]
        said = "/".join(found.candidates) or "none"
        cells = [name, kind, said, "yes" if found.sure else "no", found.similarity]
        cells += ["" if n is None else f"{n:.2f}" for n in numbers] + [f"{found.seconds:.0f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
