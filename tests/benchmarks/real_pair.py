"""A finished run on a real pair beside peers that start from its affine: how alike are the images in their overlap?

    python tests/benchmarks/real_pair.py RUN --work DIR [--methods ants convexadam] [--peers-python PYTHON]

Every method sees fixed and the moving image as the run's affine brings it there, and is judged alike: its map resamples
that image linearly, and NCC and local correlation (9^3 windows, where the scaled fixed image is above 0.1) are taken
over the voxels that all maps leave inside of the moving image. Folds are of the map by central differences.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

import bigreg
from bigreg.similarity import local_correlation
from bigreg.transforms.affine import apply_affine

PEER = """
import os, sys, time
import numpy as np
method, source, out = sys.argv[1:]
os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "2"
data = np.load(source)
fixed, moving, spacing = data["fixed"], data["moving"], data["spacing"]
begin = time.perf_counter()
if method == "ants":
    import tempfile
    import ants
    f, m = (ants.from_numpy(x.astype("f4"), spacing=tuple(float(s) for s in spacing)) for x in (fixed, moving))
    result = ants.registration(f, m, type_of_transform="SyNOnly", initial_transform="Identity")
    field = ants.apply_transforms(f, m, result["fwdtransforms"], compose=tempfile.mkdtemp() + "/")
    u = np.moveaxis(ants.image_read(field).numpy(), -1, 0) / spacing[:, None, None, None]
else:
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt
    torch.set_num_threads(2)
    f, m = (torch.from_numpy(np.clip(x.astype("f4") / np.percentile(x, 99.9), 0, 1)) for x in (fixed, moving))
    u = convex_adam_pt(img_fixed=f, img_moving=m, dtype=torch.float32, device=torch.device("cpu"))
    u = np.moveaxis(np.asarray(u), -1, 0)
print(time.perf_counter() - begin)
np.save(out, u.astype("f4"))
"""


def figures(fixed, moving, inside, u) -> tuple[np.ndarray, np.ndarray, float]:
    """(warped, voxels inside, folds in %) of a displacement (3, z, y, x) in voxels."""
    index = np.indices(fixed.shape, dtype="f4") + u
    warped = ndimage.map_coordinates(moving.astype("f4"), index, order=1, mode="nearest")
    kept = ndimage.map_coordinates(inside.astype("f4"), index, order=1, mode="constant") > 0.99
    jacobian = np.stack([np.stack(np.gradient(index[d])) for d in range(3)])
    det = np.linalg.det(jacobian[:, :, 1:-1, 1:-1, 1:-1].transpose(2, 3, 4, 0, 1))
    return warped, kept, float((det <= 0).mean() * 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["ants", "convexadam"])
    parser.add_argument("--peers-python", default=sys.executable)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    run = bigreg.open_run(options.run)
    context = run._context()
    volumes = context.volumes
    fixed, moving = (volumes[w].read((0, 0, 0), volumes[w].shape).astype("f4") for w in ("fixed", "moving"))
    grid, other = volumes["fixed"].grid(), volumes["moving"].grid()
    points = grid.index_to_world(np.indices(fixed.shape).reshape(3, -1).T)
    place = other.world_to_index(apply_affine(run.affine, points)).T.reshape(3, *fixed.shape)
    affine = ndimage.map_coordinates(moving, place, order=1, mode="nearest")
    inside = np.all([(place[a] >= 0) & (place[a] <= n - 1) for a, n in enumerate(moving.shape)], axis=0)
    pair = options.work / "real_pair.npz"
    np.savez(pair, fixed=fixed, moving=affine, spacing=np.array(grid.spacing))

    back = np.linalg.inv(run.affine)
    mapped = np.concatenate([run.map_points(p) for p in np.array_split(points, 16)])
    u = ((apply_affine(back, mapped) - points) / grid.spacing).T.reshape(3, *fixed.shape).astype("f4")
    maps = {"affine alone": (np.zeros_like(u), 0.0), "bigreg": (u, sum(run.store.attributes["seconds"].values()))}
    for method in options.methods:
        out = options.work / f"real-{method}-{int(time.time())}.npy"
        done = subprocess.run(
            [options.peers_python, "-c", PEER, method, str(pair), str(out)], capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        maps[method] = (np.load(out), float(done.stdout.split()[-1]))
    seen = {name: figures(fixed, affine, inside, np.nan_to_num(u, nan=1e6)) for name, (u, _) in maps.items()}
    shared = np.all([kept for _, kept, _ in seen.values()], axis=0)
    low, high = np.percentile(fixed, [1, 99.9])
    scaled = lambda x: torch.as_tensor((x - low) / (high - low))  # noqa: E731
    texture = shared & ((fixed - low) / (high - low) > 0.1)
    print(f"{shared.mean():.1%} of the fixed voxels\n\n| | NCC | local correlation | folds % | seconds |")
    print("|---|---|---|---|---|")
    for name, (warped, _, folds) in seen.items():
        ncc = np.corrcoef(fixed[shared], warped[shared])[0, 1]
        local = local_correlation(scaled(fixed), scaled(warped), torch.as_tensor(shared).float(), radius=4)
        mean = float(local[torch.as_tensor(texture)].mean())
        print(f"| {name} | {ncc:.4f} | {mean:.4f} | {folds:.4f} | {maps[name][1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
