"""The losses as a training's file names them, each with a weight."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ..config import Section


class _Loss(Section):
    weight: float = Field(1.0, gt=0)


class SimilarityLoss(_Loss):
    """Dissimilarity of the images by `bigreg.similarity`, in mid-space or at both ends."""

    name: Literal["lncc", "lncc_squared", "ncc", "mse", "mi", "nmi", "mind", "ngf"]
    where: Literal["mid", "ends"] = "ends"
    radius: int = Field(3, ge=1)
    noise: float = Field(0.01, ge=0)


class FieldLoss(_Loss):
    """Of the maps themselves: `of` says which, the half-way ones or the whole ones.

    diffusion, bending   mean square of first, second differences        volume   negative part of the determinants
    """

    name: Literal["diffusion", "bending", "volume"]
    of: Literal["halves", "wholes"] = "wholes"


class PlainLoss(_Loss):
    """What takes nothing but its weight.

    supervised     distance to the known maps           inverse    squared residual of the maps' composition
    dice           of labels                            gradicon   squared gradient of that residual
    landmarks      distance, voxels                     image_cycle   L1 of an image there and back
    identity       squared length (voxels^2) of the maps between an image and itself, after CycleGAN (Zhu et al. 2017);
                   not for sitreg, which gives the identity by construction
    regularisation   half the squared strain (um a um) of the half-way maps, times the weight that was drawn for each
                   item and given to the network. Beside an lncc of weight 1 in mid-space it is what optimise calls so
    """

    name: Literal["image_cycle", "identity", "inverse", "gradicon", "supervised", "dice", "landmarks", "regularisation"]


class Adversarial(_Loss):
    """Discriminators. pair: on (fixed, warped moving); flow: on whole maps, against smooth random ones; none: off.
    Named twice, a training has both kinds.

    positive   of `pair`, with M' the warped image. warped: (F, M') is registered and (M, M') is not; blend: the mixture
               (F, mix M + (1 - mix) F) is registered and (F, M') is not; either way the network pulls at (F, M')
    """

    name: Literal["adversarial"]
    kind: Literal["pair", "flow", "none"] = "pair"
    positive: Literal["blend", "warped"] = "warped"
    mix: float = Field(0.2, ge=0, lt=1)
    optimiser: Literal["adam", "sgd"] = "adam"
    rate: float = Field(2e-5, gt=0)
    settings: dict[str, Any] = Field(default_factory=dict)


Loss = Annotated[SimilarityLoss | FieldLoss | PlainLoss | Adversarial, Field(discriminator="name")]


def kind_of(loss: Loss) -> str:
    """What no two losses of a training may have in common."""
    if isinstance(loss, FieldLoss):
        return f"{loss.name} of {loss.of}"
    return f"adversarial {loss.kind}" if isinstance(loss, Adversarial) else loss.name
