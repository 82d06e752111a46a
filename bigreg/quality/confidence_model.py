"""The weights of the risk of an error; see confidence.py. What they were fitted on: tests/benchmarks/RESULTS.md.

Of each feature: its mean and SD over the tiles that the model was fitted on, the weight of its standard score, and
those of that score's products with itself and with those of the features after it.
"""

from __future__ import annotations

Model = dict[str, tuple[float, float, float, tuple[float, ...]]]

FAR = 3.0
"""Standard scores beyond this count as this: what was never seen is not judged by what a parabola makes of it."""

MODEL: Model = {
    "shift": (
        -0.8164,
        1.8547,
        -0.065,
        (-0.2092, -0.0055, 0.6434, -0.3233, 0.0275, 0.0236, -0.0082, -0.0401, 0.1156, 0.8356, -0.585, 0.1116),
    ),
    "shift_around": (
        -0.4222,
        1.5909,
        0.1158,
        (-0.6086, 0.3634, 0.3967, -0.1192, 0.1145, -0.097, 0.1991, -0.7502, 0.5012, -0.9599, -0.0549),
    ),
    "shift_soft": (
        0.4593,
        1.3054,
        1.5945,
        (-0.1963, 0.9757, 0.1771, -0.1049, -0.9894, 0.153, 0.6565, -1.12, 0.4043, -0.2257),
    ),
    "fit": (1.2315, 0.775, 0.3222, (-0.1971, 0.1382, 0.2224, 0.3303, 0.7066, -0.3967, 0.8691, -0.2303, -0.2309)),
    "local": (1.2208, 1.2382, -0.2771, (0.0273, -0.0331, -0.0208, 0.0934, -0.0883, -0.1728, 0.0711, -0.1113)),
    "local_around": (0.5221, 0.7143, -0.1207, (-0.0376, 0.1625, -1.0449, 1.0268, 0.1313, -0.2626, -0.0447)),
    "texture": (1.474, 0.8217, 1.136, (-0.1992, -0.4474, 0.5295, -0.4298, 0.727, 0.1958)),
    "curvature": (-0.8507, 0.7749, -0.4968, (0.3376, 0.0987, -0.6399, -0.1305, -0.0066)),
    "curvature_around": (-0.7859, 0.6885, 0.1272, (-0.4849, 1.0575, -1.22, -0.1308)),
    "evidence": (0.4112, 4.2105, -1.9255, (-0.8656, -0.485, 0.0028)),
    "evidence_around": (0.6828, 4.1418, 0.4295, (0.7776, 0.1827)),
    "detail": (0.3146, 1.5755, 0.0652, (-0.0224,)),
}
BIAS = -1.1017
