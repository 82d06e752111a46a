"""Trained networks as files: weights (safetensors) with a card (JSON) beside them that says what they are."""

from .card import Card, Spacing
from .weights import RANDOM, card_of, load, packaged_names, save, weight_bytes

__all__ = ["RANDOM", "Card", "Spacing", "card_of", "load", "packaged_names", "save", "weight_bytes"]
