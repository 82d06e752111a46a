"""`optimise`: instance optimisation of a patch's velocity by accelerated Gauss-Newton on the lattice.

The loss is the similarity of F o (id + v) and M o (id - v) plus a quadratic energy of the control points, a membrane
unless another regulariser is asked for. Each step minimises a quadratic model: the lumped curvature sum_x B_a(x) j j^T
at each control point, which majorises the Gauss-Newton matrix (Jensen's inequality, since the B-splines sum to 1), and
the regulariser as it is, which ties the points together; so a step never overshoots the model and needs no step length.
Nesterov's momentum with restart makes it fast. Where there is no texture the curvature is zero and the regulariser
alone decides: the velocity is carried over from where there is texture, in the same step, however stiff it is.

It begins at zero, or where another engine left off (the pair's `start`), if the images are more alike there.

id +/- v stands for exp(+/- v) here: the two agree to third order in the map between the images, and the pipeline
composes the true exponentials.
"""

from __future__ import annotations

from copy import copy
from typing import ClassVar

import torch

from ..similarity import by_name
from ..transforms.bspline import BOUND_CELLS, soft_bound
from .base import PatchPair, VelocityPatch
from .channels import MidSpacePairs, mid_space_pairs, named, without_detail_of
from .gauss_newton import sum_of, texture_confidence
from .regularisers import KINDS, Regulariser, edge_weights, regulariser
from .stiffness import best_stiffness
from .uncertainty import velocity_sigma

CARD_BYTES = {"mi": 186, "nmi": 186, "ngf": 221, "mind": 317}
"""Bytes a voxel of a patch on a GPU at the worst moment, by similarity; measured on an H200, by tensor operations."""
OTHER_CARD_BYTES = 141
HALVES_BYTES = 40
"""Bytes a voxel of a patch more where the stiffness is chosen: measured 38 on a CPU, taken to be as many on a GPU."""
UPHILL = 0.01  # of the energy: a step that raises it more was too bold and is taken back; momentum raises it less
SHORTER, LONGER = 4.0, 1.5  # factors of the curvature after such a step, and its inverse after another
SHORTEST = SHORTER**10  # the factor from which a step no longer moves anything: the images match already
STIFFER = 16.0
COARSE = 0.8
"""The stiffness of "auto" where it is not chosen. On coarser levels the choice, which knows only small motion, would
lose the way where motion is large (tests/benchmarks/RESULTS.md)."""
CHOOSING = ("lncc", "lncc_squared")
"""Similarities whose forces say by themselves how stiff a map has to be; those of mutual information mislead."""
CURABLE = 5.0  # times what may be lacking of agreement: so much may be motion that is still to be found


class Optimise:
    """Engine. All lengths in voxels of the level.

    similarity       name (see bigreg.similarity)
    radius           window radius of local similarities
    noise            intensity SD (of images scaled to about 0..1) that counts as no texture
    iterations       steps at most
    max_step         a control point moves at most this far in one step
    tolerance        stop where no control point moves further than this
    regularisation   weight of a squared strain (um of motion a um) in each voxel, in units of the loss: one stiffness
                     for any spacing, isotropic or not, and any cells. "auto": COARSE, but where the voxels are the
                     images' own and those agree in detail, what the images of each patch ask for, by a similarity of
                     CHOOSING (see bigreg.engines.stiffness); `quality` then says which it was
    regulariser      what is smooth: membrane, elastic or bending (see bigreg.engines.regularisers)
    elastic_volume   of elastic: resistance to a change of volume over that to shear, Lame's lambda / mu; None: 1
    least_agreement  where the voxels are the images' own, a patch whose images agree less than this in detail (1:
                     wholly; see bigreg.engines.agreement), before and after, is found again in images without that
                     detail, STIFFER times as stiff: smoothed, they have fewer independent voxels. None: nothing is
                     asked. `quality` then says the agreement, and whether the patch was smoothed (1 or 0); what it
                     says of the similarity is that of the images that were followed
    """

    antisymmetric: ClassVar[bool] = True
    takes_start: ClassVar[bool] = True
    takes_channels: ClassVar[bool] = True
    takes_labels: ClassVar[bool] = True
    gives_sigma: ClassVar[bool] = True
    by_similarity: ClassVar[bool] = True
    stiffness: ClassVar[tuple[float, float]] = (0.0, float("inf"))

    def __init__(
        self,
        *,
        similarity: str = "lncc",
        radius: int = 3,
        noise: float = 0.02,
        iterations: int = 30,
        max_step: float = 1.0,
        tolerance: float = 0.02,
        regularisation: float | str = 0.32,
        regulariser: str = "membrane",
        elastic_volume: float | None = None,
        least_agreement: float | None = None,
    ) -> None:
        self.chooses = regularisation == "auto" and similarity in CHOOSING
        if regularisation == "auto":
            regularisation = COARSE
        elif isinstance(regularisation, str):
            raise ValueError(f"regularisation {regularisation!r} must be a number above 0, or auto")
        if regularisation <= 0:
            raise ValueError(f"regularisation {regularisation} must be above 0: it decides where texture is missing")
        if regulariser not in KINDS:
            raise ValueError(f"regulariser {regulariser!r} does not exist; there are {', '.join(KINDS)}")
        if elastic_volume is not None and regulariser != "elastic":
            raise ValueError(f"elastic_volume belongs to the regulariser elastic, and this is {regulariser}")
        if elastic_volume is not None and not 0 <= elastic_volume < float("inf"):
            raise ValueError(f"elastic_volume {elastic_volume} must be 0 or more: Lame's lambda / mu")
        self.similarity = by_name(similarity, radius=radius, noise=noise)
        self.named = named(self.similarity, radius, noise)
        self.channels = self.similarity.channels
        self.bytes_a_voxel = HALVES_BYTES if self.chooses else 0
        self.card_bytes_a_voxel = CARD_BYTES.get(similarity, OTHER_CARD_BYTES) + self.bytes_a_voxel
        self.iterations = iterations
        self.max_step = max_step
        self.tolerance = tolerance
        self.regularisation = float(regularisation)
        self.regulariser = regulariser
        self.elastic_volume = 1.0 if elastic_volume is None else elastic_volume
        self.least_agreement = least_agreement

    def estimate(self, pair: PatchPair) -> VelocityPatch:
        """See bigreg.engines.base. The loss is the sum of the pairs of channels' similarities, times their weights."""
        samples = pair.lattice.samples
        voxel = torch.tensor(
            [s / n for s, n in zip(pair.lattice.spacing, samples, strict=True)],
            dtype=pair.fixed.dtype, device=pair.fixed.device,
        ).reshape(3, 1, 1, 1)  # fmt: skip
        images = mid_space_pairs(pair, self.named, samples)
        cell = float(torch.tensor(samples).prod())
        bound = BOUND_CELLS * torch.tensor(samples, dtype=voxel.dtype, device=voxel.device).reshape(3, 1, 1, 1)

        points = tuple(pair.lattice.points)

        def as_stiff(regularisation: float) -> Regulariser:
            strength = regularisation * cell
            return regulariser(self.regulariser, points, voxel.flatten(), samples, strength, self.elastic_volume)

        stiff = as_stiff(self.regularisation)
        c = torch.zeros(3, *points, dtype=pair.fixed.dtype, device=pair.fixed.device)
        before = after = float("nan")
        still = True  # no control point is anywhere but at zero
        if pair.start is not None:
            begin = soft_bound(pair.start.to(c) / voxel, bound)
            before, begun = images(None, curvature=False).mean, images(begin, curvature=False).mean
            if begun < before:
                c, still = begin, False
        ahead = c
        momentum = 0
        shorter = 1.0  # factor of the images' curvature; above 1 where its model is too bold
        lowest: tuple[float, float, torch.Tensor, torch.Tensor] | None = None  # energy, mean, place and slope there
        matrix: torch.Tensor | None = None
        steps = 0
        asked: dict[str, float] = {}
        chosen: float | None = None
        confidence = torch.zeros(points, dtype=c.dtype, device=c.device)
        for steps in range(self.iterations + 1):
            refresh = steps % 5 == 0
            there = None if still else ahead
            halves = images.halves(there) if steps == 0 and self.chooses and pair.native else None
            pull = sum_of(*halves) if halves else images(there, curvature=refresh)
            after = pull.mean
            if steps == 0:
                before = after if still else before
                weight = pull.weight
                if not weight:
                    break
                if self.least_agreement is not None and pair.native:
                    asked = self._asked(images, there, CURABLE)
                if halves and asked.get("agreement", 1.0) >= (self.least_agreement or 0.0):
                    chosen = best_stiffness(halves, ahead, self.regularisation, as_stiff)
                    stiff = as_stiff(chosen)
            if refresh:
                matrix = pull.matrix
                assert matrix is not None, "it was asked for"
                confidence = texture_confidence(matrix, samples, self.regularisation)
                matrix[:3] += 1e-6 * cell
            bent = stiff.pull(ahead)
            slope = pull.slope + bent
            energy = pull.mean * weight + float((ahead * bent).sum(dtype=torch.float64)) / 2
            if lowest is not None and energy > (1 + UPHILL) * lowest[0]:
                _, after, ahead, slope = lowest
                c, momentum, shorter = ahead, 0, SHORTER * shorter
                if shorter > SHORTEST:
                    break
            else:
                shorter = max(1.0, shorter / LONGER)
                # Nothing is compared with images that have not moved: these are not interpolated, and the smallest
                # motion takes the outermost voxels from one of the two.
                if not still and (lowest is None or energy < lowest[0]):
                    lowest = energy, after, ahead, slope
            if steps == self.iterations or asked.get("smoothed"):
                break
            assert matrix is not None, "the first step makes it"
            move = stiff.solve(shorter * matrix, -slope)
            move = move * (self.max_step / move.abs().amax(0, keepdim=True).clamp_min(self.max_step))
            new = (ahead + move).clamp(-bound, bound)
            moved = new - c
            uphill, change = torch.stack([(moved * slope).sum(), moved.abs().max()]).tolist()  # one wait for both
            if uphill > 0:
                momentum = 0  # the step went uphill: forget the momentum
            momentum += 1
            ahead = new + moved * ((momentum - 1) / (momentum + 2))
            ahead = ahead.clamp(-bound, bound)
            c, still = new, False
            if change < self.tolerance and shorter == 1:
                break
        if asked and not asked["smoothed"] and asked["agreement"] < (self.least_agreement or 0.0):
            asked = self._asked(images, c, 1.0)
        quality = {"similarity_before": 1.0 - before, "similarity_after": 1.0 - after, "iterations": float(steps)}
        if asked.get("smoothed"):
            followed = self._stiffer().estimate(without_detail_of(pair, STIFFER))
            c, confidence, quality = followed.coefficients / voxel, followed.confidence, {**followed.quality}
        elif chosen is not None:
            quality["regularisation"] = chosen
        sigma = None
        if pair.sigma and weight:
            stiffness = self.regularisation * cell * edge_weights(voxel.flatten(), samples)
            sigma = voxel * velocity_sigma(pair, c, self.similarity.name, samples, stiffness, self.regulariser)
        return VelocityPatch(c * voxel, confidence, quality | asked, sigma)

    def _asked(self, images: MidSpacePairs, there: torch.Tensor | None, times: float) -> dict[str, float]:
        """The agreement, and whether it lacks more than so many times what may be lacking."""
        assert self.least_agreement is not None, "it is asked for"
        agreed = images.agreement(there)
        return {"agreement": agreed, "smoothed": float(1.0 - agreed > times * (1.0 - self.least_agreement))}

    def _stiffer(self) -> Optimise:
        """The engine for images without their detail."""
        engine = copy(self)
        engine.least_agreement, engine.regularisation, engine.chooses = None, STIFFER * self.regularisation, False
        return engine
