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
        0.1685,
        (0.0594, -0.0789, 0.5672, 0.1426, 0.021, 0.1452, -0.4286, 0.2324, 0.1831, 0.7024, -0.88, 0.0833, 0.0188),
    ),
    "shift_around": (
        -0.4235,
        1.5859,
        0.3513,
        (-0.406, 0.4097, 0.7403, -0.2221, -0.1243, -0.7005, 0.6097, -0.3337, -0.2185, -0.631, 0.0785, -0.0453),
    ),
    "shift_soft": (
        0.4906,
        1.2601,
        1.5111,
        (-0.1777, 0.7437, 0.0283, -0.1608, -0.7652, -0.0077, 0.4565, -0.5953, 0.3195, -0.1043, -0.174),
    ),
    "fit": (
        1.2246,
        0.7566,
        0.5197,
        (-0.0606, 0.0019, 0.04, 0.4106, 0.3766, -0.1106, 0.5506, -0.3714, -0.0331, -0.8926),
    ),
    "local": (1.0566, 1.0769, -0.1186, (-0.0, 0.0075, 0.1041, -0.047, -0.0455, -0.0521, -0.0494, -0.0813, -0.0167)),
    "local_around": (0.5198, 0.572, -0.0222, (0.089, 0.1019, -0.865, 0.604, 0.1143, 0.0769, 0.0217, 0.0163)),
    "texture": (1.4778, 0.7792, 0.9213, (-0.5828, 0.2389, 0.1191, 0.3651, 0.1866, -0.018, 1.3522)),
    "curvature": (-0.8764, 0.7604, -0.4608, (0.2406, 0.2705, -1.1873, 0.1504, 0.1058, -1.1006)),
    "curvature_around": (-0.8113, 0.6742, 0.1989, (-0.4158, 0.7214, -0.7437, -0.0976, -0.0416)),
    "evidence": (0.3954, 4.0591, -1.7694, (-0.5921, -0.1584, -0.0841, -0.0356)),
    "evidence_around": (0.6651, 3.9943, 0.3132, (0.5945, 0.211, 0.5906)),
    "detail": (0.3134, 1.5563, 0.0506, (-0.0192, 0.0211)),
    "alike": (0.3139, 0.2682, -0.0964, (-0.362,)),
}
BIAS = -1.5829
