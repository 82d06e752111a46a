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
        (0.0385, -0.1013, 0.5611, 0.1439, 0.0221, 0.1482, -0.4315, 0.237, 0.185, 0.7158, -0.8607, 0.0851, 0.0164),
    ),
    "shift_around": (
        -0.4235,
        1.5859,
        0.3437,
        (-0.4265, 0.4062, 0.7434, -0.2209, -0.1211, -0.705, 0.6128, -0.3332, -0.2056, -0.6134, 0.0792, -0.0505),
    ),
    "shift_soft": (
        0.4906,
        1.2601,
        1.507,
        (-0.1785, 0.7478, 0.0304, -0.1602, -0.7714, -0.012, 0.4505, -0.5905, 0.3266, -0.1057, -0.1774),
    ),
    "fit": (
        1.2246,
        0.7566,
        0.5349,
        (-0.055, 0.0033, 0.0389, 0.4186, 0.3751, -0.1098, 0.547, -0.3752, -0.0322, -0.8839),
    ),
    "local": (1.0566, 1.0769, -0.113, (0.0011, 0.0093, 0.1088, -0.0458, -0.0422, -0.0557, -0.0533, -0.0825, -0.0139)),
    "local_around": (0.5198, 0.572, -0.021, (0.0944, 0.0948, -0.8741, 0.5983, 0.1196, 0.0804, 0.0216, 0.0129)),
    "texture": (1.4778, 0.7792, 0.9215, (-0.5851, 0.239, 0.1214, 0.3679, 0.1913, -0.0164, 1.3528)),
    "curvature": (-0.8764, 0.7604, -0.4662, (0.2392, 0.2687, -1.1918, 0.1454, 0.1094, -1.1008)),
    "curvature_around": (-0.8113, 0.6742, 0.1914, (-0.4198, 0.7213, -0.7452, -0.0919, -0.0462)),
    "evidence": (0.3954, 4.0591, -1.7557, (-0.6013, -0.1702, -0.0864, -0.0258)),
    "evidence_around": (0.6651, 3.9943, 0.3314, (0.5842, 0.2099, 0.6044)),
    "detail": (0.3134, 1.5563, 0.0506, (-0.0181, 0.0242)),
    "alike": (0.3139, 0.2682, -0.1015, (-0.3666,)),
}
BIAS = -1.0832
