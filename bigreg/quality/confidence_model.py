"""The weights of the risk of an error; see confidence.py. What they were fitted on: tests/benchmarks/confidence_fit.py.

Of each feature: its mean and SD over the tiles that the model was fitted on, the weight of its standard score, and
those of that score's products with itself and with those of the features after it.
"""

from __future__ import annotations

Model = dict[str, tuple[float, float, float, tuple[float, ...]]]

FAR = 3.0
"""Standard scores beyond this count as this: what was never seen is not judged by what a parabola makes of it."""

MODEL: Model = {
    "shift": (
        -0.8115,
        1.8414,
        0.1573,
        (0.0386, -0.1013, 0.561, 0.144, 0.0221, 0.1484, -0.4315, 0.2371, 0.1849, 0.7157, -0.8609, 0.0852, 0.0162),
    ),
    "shift_around": (
        -0.4235,
        1.5859,
        0.3437,
        (-0.4266, 0.4063, 0.7434, -0.2209, -0.1213, -0.705, 0.6128, -0.3333, -0.2055, -0.6133, 0.0792, -0.0504),
    ),
    "shift_soft": (
        0.4906,
        1.2601,
        1.5069,
        (-0.1786, 0.7477, 0.0304, -0.1604, -0.7715, -0.012, 0.4506, -0.5904, 0.3267, -0.1057, -0.1773),
    ),
    "fit": (
        1.2246,
        0.7566,
        0.5349,
        (-0.055, 0.0033, 0.0389, 0.4186, 0.3751, -0.1099, 0.547, -0.3752, -0.0322, -0.8839),
    ),
    "local": (1.0566, 1.0769, -0.113, (0.0011, 0.0093, 0.1088, -0.0458, -0.0422, -0.0556, -0.0534, -0.0825, -0.0138)),
    "local_around": (0.5198, 0.572, -0.0209, (0.0944, 0.0946, -0.874, 0.5981, 0.1194, 0.0804, 0.0216, 0.0128)),
    "texture": (1.4778, 0.7792, 0.9215, (-0.585, 0.239, 0.1215, 0.3679, 0.1913, -0.0164, 1.3527)),
    "curvature": (-0.8764, 0.7604, -0.4662, (0.2393, 0.2686, -1.1918, 0.1453, 0.1094, -1.1009)),
    "curvature_around": (-0.8113, 0.6742, 0.1913, (-0.4198, 0.7213, -0.7452, -0.092, -0.0461)),
    "evidence": (0.3954, 4.0591, -1.7558, (-0.6014, -0.1702, -0.0864, -0.0258)),
    "evidence_around": (0.6651, 3.9943, 0.3314, (0.5843, 0.2099, 0.6044)),
    "detail": (0.3134, 1.5563, 0.0506, (-0.0181, 0.0242)),
    "alike": (0.3139, 0.2682, -0.1016, (-0.3665,)),
}
BIAS = -1.0832
