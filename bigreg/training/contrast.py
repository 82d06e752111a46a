"""Contrasts that no one image has: random intensity curves, and grey values drawn for each label.

Both are drawn for each image by itself, so that the two of a pair are no longer alike, and a network that is taught by
the known map must find what their structure has in common. The image is of about 0 .. 1, (z, y, x).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator

from .config import Curve, Greys

SAMPLES = 256
"""Pieces of 0 .. 1 on which a curve is straight."""
DARK = (0.01, 0.1)
"""Intensity up to which what is dark stays so, of curves that leave it dark: from .. to, log-uniform."""


def drawn_curve(settings: Curve, rng: np.random.Generator) -> np.ndarray:
    """(SAMPLES + 1,) values, 0 .. 1, of a random smooth curve at even intensities of 0 .. 1; it covers the whole range.

    Between its knots the curve is a cubic that overshoots none of them, so one of rising knots rises.
    """
    monotone = rng.random() < settings.monotone
    least, most = settings.knots
    count = int(rng.integers(least if monotone else max(least, 3), most + 1))
    places = np.concatenate([[0.0], np.cumsum(rng.uniform(0.3, 1.0, count - 1))])
    values = np.sort(rng.uniform(size=count))
    values = (values - values[0]) / (values[-1] - values[0])
    if not monotone:
        while (steps := np.diff(values)).min() >= 0 or steps.max() <= 0:
            rng.shuffle(values)
    elif rng.random() < settings.inverted:
        values = values[::-1]
    intensities = np.linspace(0, 1, SAMPLES + 1)
    curve = PchipInterpolator(places / places[-1], values)(intensities)
    if rng.random() < settings.dark:
        level = np.exp(rng.uniform(*np.log(DARK)))
        curve = curve * np.minimum(intensities / level, 1.0)
    return curve.clip(0, 1)


def curved(image: torch.Tensor, settings: Curve, rng: np.random.Generator) -> torch.Tensor:
    """The image through a random curve; below 0 and above 1 the curve's ends hold."""
    table = torch.as_tensor(drawn_curve(settings, rng), dtype=image.dtype, device=image.device)
    place = image.clamp(0, 1) * SAMPLES
    below = place.floor().clamp(max=SAMPLES - 1)
    index = below.long()
    return torch.lerp(table[index], table[index + 1], place - below)


def greyed(labels: torch.Tensor, settings: Greys, rng: np.random.Generator) -> torch.Tensor:
    """A float32 image (z, y, x) of labels (int64): a mean of 0 .. 1 and a deviation drawn for each, 0 among them."""
    values, place = torch.unique(labels, return_inverse=True)
    means, deviations = rng.uniform(size=len(values)), rng.uniform(*settings.deviation, size=len(values))
    generator = torch.Generator(labels.device).manual_seed(int(rng.integers(2**62)))
    noise = torch.randn(labels.shape, generator=generator, device=labels.device)
    mean, deviation = (torch.as_tensor(v, dtype=noise.dtype, device=labels.device) for v in (means, deviations))
    return mean[place] + deviation[place] * noise
