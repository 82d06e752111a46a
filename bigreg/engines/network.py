"""Engines that ask a trained network: `sitreg`, `invgan`, `voxelmorph`, `transmorph`. They differ in the network alone.

The network says where both patches meet, F o (id + a) = M o (id + b), in voxels. The velocity is v = (a - b) / 2, which
is antisymmetric, fitted by least squares to the level's lattice and kept under the bound that makes it invertible. So
a network may say what it likes: what comes out of the pipeline does not fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from ..errors import ConfigError
from ..models import RANDOM, load, packaged_names
from ..similarity import by_name
from ..transforms.bspline import BOUND_CELLS, fit, soft_bound
from .base import PatchPair, VelocityPatch
from .channels import mid_space_pair, named
from .gauss_newton import texture_confidence

SLACK = 2**0.5
"""How far outside the spacings it was trained on a network is used: to the middle of the next level's octave."""
ROUGH = 0.15
"""Cells by which a control point may differ from the mean around it before it is drawn towards that."""
UNSURE = 1e-6
"""Confidence that every channel has at least, among several."""
STIFFNESS = 0.32
"""What texture is weighed against for the confidence, as the engine `optimise` does by default."""


class NetworkEngine:
    """Base of the engines.

    weights       name of packaged weights (`bigreg models`), the path of a file, or `random` (untrained)
    any_spacing   use them at any voxel spacing, whatever they were trained on
    similarity, radius, noise   what the figures and the confidence of a patch are measured by (see optimise)
    """

    architecture: ClassVar[str]
    antisymmetric: ClassVar[bool] = True
    takes_channels: ClassVar[bool] = True

    def __init__(
        self,
        *,
        weights: str | None = None,
        any_spacing: bool = False,
        similarity: str = "lncc",
        radius: int = 3,
        noise: float = 0.02,
    ) -> None:
        if weights is None:
            raise ConfigError(
                f"engine {self.architecture!r} has no weights; set engine_options.{self.architecture}.weights to the "
                f"name of packaged weights ({', '.join(packaged_names()) or 'there are none yet'}) or a file"
            )
        if not isinstance(weights, str):
            raise ConfigError(f"engine {self.architecture!r}: weights {weights!r} must be a name or a path")
        self.named = named(by_name(similarity, radius=radius, noise=noise), radius, noise)
        self.network, self.card = load(weights, self.architecture)
        self.identity = self.card.digest
        self.any_spacing = any_spacing
        packaged = weights == RANDOM or weights in packaged_names()
        self.options = {
            "weights": weights if packaged else str(Path(weights).absolute()),
            "any_spacing": any_spacing, "similarity": similarity, "radius": radius, "noise": noise,
        }  # fmt: skip

    def check_spacing(self, spacing: Sequence[float]) -> None:
        """Raise ConfigError for voxels of a size that the network was not trained on.

        What a network says there looks like any other answer, so it is refused before the work, not found out after.
        """
        trained = self.card.spacing
        if trained is None or self.any_spacing or trained.holds(tuple(spacing), SLACK):
            return
        shown = ["(" + ", ".join(f"{v:.3g}" for v in values) + ")" for values in (spacing, trained.low, trained.high)]
        name = self.architecture
        raise ConfigError(
            f"weights {self.options['weights']!r} of engine {name!r} were trained on voxels of {shown[1]} to "
            f"{shown[2]} µm (z, y, x), and a level has {shown[0]}; choose the levels by ladder.finest and "
            "ladder.coarsest, give the coarse ones another engine (coarse.engine, coarse.passes), or set the option "
            f"any_spacing of {name} to true"
        )

    @torch.inference_mode()
    def estimate(self, pair: PatchPair) -> VelocityPatch:
        """See bigreg.engines.base. Of several channels the mean velocity, by how sure each is; without labels."""
        if len(pair.channels) == 1:
            return self._of_channel(pair)
        # Each says how sure it is; where none is, all count alike.
        images = [one for one in pair.channels if not one.labels]
        found = [self._of_channel(pair.of_channel(one)) for one in images]
        weights = torch.stack(
            [one.weight * patch.confidence + UNSURE for one, patch in zip(images, found, strict=True)]
        )
        coefficients = torch.stack([patch.coefficients for patch in found])
        mean = (weights[:, None] * coefficients).sum(0) / weights.sum(0)
        confidence = torch.stack([patch.confidence for patch in found]).amax(0)
        total = sum(one.weight for one in images)
        quality = {
            name: sum(one.weight * patch.quality[name] for one, patch in zip(images, found, strict=True)) / total
            for name in found[0].quality
        }
        return VelocityPatch(mean, confidence, quality)

    def _of_channel(self, pair: PatchPair) -> VelocityPatch:
        samples = pair.lattice.samples
        velocity = self.velocity(pair.fixed, pair.moving)
        like: dict[str, Any] = {"dtype": velocity.dtype, "device": velocity.device}
        cell = torch.tensor(samples, **like).reshape(3, 1, 1, 1)
        c = calmed(soft_bound(fit(velocity, samples) / cell, BOUND_CELLS)) * cell
        confidence, quality = self.judged(pair, c)
        voxel = torch.tensor(pair.lattice.spacing, **like).reshape(3, 1, 1, 1) / cell
        return VelocityPatch((c * voxel).clone(), confidence.clone(), quality)

    def judged(self, pair: PatchPair, c: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        """Confidence and figures of control points in voxels."""
        # Which image comes first is decided by their content, so that exchanging them does not change a bit: the blend
        # of patches would make rounding visible, and a network makes it larger at every finer level.
        if float(pair.fixed.sum()) > float(pair.moving.sum()):
            pair, c = pair.swapped(), -c
        samples = pair.lattice.samples
        images = mid_space_pair(pair, self.named(pair.similarity), samples)
        before, after = images(None, curvature=False), images(c, curvature=True)
        quality = {"similarity_before": 1.0 - before.mean, "similarity_after": 1.0 - after.mean}
        assert after.matrix is not None, "it was asked for"
        return texture_confidence(after.matrix, samples, STIFFNESS), quality

    def velocity(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        """(3, z, y, x) voxels, of images (1, z, y, x)."""
        if fixed.shape[0] != 1:
            raise ValueError(f"the network takes one channel, the patch has {fixed.shape[0]}")
        self.network.to(fixed.device)
        shape = fixed.shape[1:]
        pad = [n for size in reversed(shape) for n in (0, -size % self.network.factor)]
        pair = [F.pad(image[None], pad, mode="replicate") for image in (fixed, moving)]
        if not self.network.antisymmetric:  # both orders in one batch
            pair = [torch.cat([a, b]) for a, b in (pair, pair[::-1])]
        found = self.network(*pair, *self.told(pair[0]))
        v = (found.to_fixed - found.to_moving) / 2
        if not self.network.antisymmetric:
            v = (v[:1] - v[1:]) / 2
        return v[(0, slice(None), *(slice(0, n) for n in shape))].contiguous()

    def told(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the network takes beside the images (N, 1, z, y, x)."""
        return ()


def calmed(c: torch.Tensor) -> torch.Tensor:
    """Control points (3, z, y, x), cells, of which none stands far from the mean of its 27 neighbours.

    A trained network's do not, and are left alone. What an untrained one makes up would still be invertible, but
    between the samples that are stored the inverse would be off by up to 0.2 voxel. Odd; keeps every bound.
    """
    mean = F.avg_pool3d(F.pad(c[None], (1,) * 6, mode="replicate"), 3, stride=1)[0]
    apart = (c - mean).abs().amax(0)
    return torch.lerp(c, mean, ((apart - ROUGH) / ROUGH).clamp(0, 1))


class SITRegEngine(NetworkEngine):
    """See NetworkEngine and bigreg.networks.sitreg.

    regularisation   how stiff the map is, as of `optimise`: for weights that were trained over a range of it. None: the
                     middle of their range, by logarithm
    """

    architecture: ClassVar[str] = "sitreg"

    def __init__(self, *, regularisation: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.stiffness = trained = self.network.regularisation
        if regularisation is not None:
            source = f"weights {self.options['weights']!r} of engine {self.architecture!r}"
            if trained is None:
                raise ConfigError(
                    f"{source} were trained for one stiffness and take no regularisation; leave out "
                    f"engine_options.{self.architecture}.regularisation, or train weights with "
                    "network.settings.regularisation"
                )
            if not trained[0] <= regularisation <= trained[1]:
                raise ConfigError(
                    f"{source} were trained for a regularisation of {trained[0]:g} to {trained[1]:g}, and it is "
                    f"{regularisation:g}; choose one in that range, or train weights for another"
                )
        self.regularisation = regularisation
        self.options["regularisation"] = regularisation

    def told(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return () if self.regularisation is None else (images.new_full((len(images),), self.regularisation),)

    @property
    def bytes_a_voxel(self) -> int:
        """Measured 865 with the default widths: features of both images, warped, put together, and what follows.

        Measured 70 more where the normalisations are changed.
        """
        s = self.network.settings
        k = s["finest"]
        update = (14 * s["encoder"][k] + 6 * s["update"][k] + 110 * s["correlation"]) / 8**k
        changed = 2.2 * s["encoder"][0] * (self.network.regularisation is not None)
        return int(4 * (max(update, 6 * s["encoder"][0]) + changed + 30))


class InvGANEngine(NetworkEngine):
    """See NetworkEngine and bigreg.networks.invgan."""

    architecture: ClassVar[str] = "invgan"

    @property
    def bytes_a_voxel(self) -> int:
        """Measured 468 with the default widths: the last layers of a decoder, of both orders."""
        s = self.network.settings
        return int(4 * (3 * s["width"] + 2 * s["last"] + 5))


class VoxelMorphEngine(NetworkEngine):
    """See NetworkEngine and bigreg.networks.voxelmorph."""

    architecture: ClassVar[str] = "voxelmorph"

    @property
    def bytes_a_voxel(self) -> int:
        """Measured 298 with the default widths: eight maps at full resolution, and the images."""
        return int(4 * (64 + 0.7 * self.network.settings["encoder"][0]))


class TransMorphEngine(NetworkEngine):
    """See NetworkEngine and bigreg.networks.transmorph."""

    architecture: ClassVar[str] = "transmorph"

    @property
    def bytes_a_voxel(self) -> int:
        """Measured 373 with the default widths, 435 with correlations: eight maps at full resolution, the images, and
        queries, keys and values at a quarter of it."""
        s = self.network.settings
        return int(4 * (74 + 0.7 * s["stem"] + 0.15 * s["encoder"][0] + 16 * s["correlation"]))
