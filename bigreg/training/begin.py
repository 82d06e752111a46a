"""The network that a training begins with: a new one, or one that was trained before (fine-tuning)."""

from __future__ import annotations

from ..errors import ConfigError
from ..models import load
from ..networks import build
from ..networks.base import Network
from .config import Training


def network_of(config: Training) -> tuple[Network, str]:
    """The network of `config.network`, and for its card where its weights come from; new ones are torch's random ones.

    Raises ConfigError for weights that are not there, or of another architecture or other settings than is said.
    """
    wanted, origin = config.network, ""
    if wanted.weights is None:
        network = build(wanted.name, **wanted.settings)
    else:
        network, card = load(wanted.weights, wanted.name)
        asked = build(wanted.name, **{**card.settings, **wanted.settings}).settings
        other = {k: (v, card.settings.get(k)) for k, v in asked.items() if v != card.settings.get(k)}
        if other:
            shown = "; ".join(f"{k} is {ours}, theirs {theirs}" for k, (ours, theirs) in other.items())
            raise ConfigError(
                f"network.settings differ from those of the weights '{wanted.weights}': {shown}; leave them out to "
                "take those of the weights, or leave out network.weights"
            )
        network.train()
        origin = f"begun with the weights {wanted.weights} (digest {card.digest[:12]})"
    weighed = any(loss.name == "regularisation" for loss in config.losses)
    if (network.regularisation is not None) != weighed:
        raise ConfigError(
            f"weights '{wanted.weights}' take a weight of the regularisation of the range {network.regularisation}; "
            "give it as network.settings.regularisation, and the loss regularisation"
        )
    return network, origin
