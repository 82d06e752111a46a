"""The weights of the risk of an error; see confidence.py. Made by tests/benchmarks/confidence.py.

Of each feature: its mean and SD over the tiles that the model was fitted on, the weight of its standard score, and
those of that score's products with itself and with those of the features after it.
"""

from __future__ import annotations

Model = dict[str, tuple[float, float, float, tuple[float, ...]]]

FAR = 3.0
"""Standard scores beyond this count as this: what was never seen is not judged by what a parabola makes of it."""

MODEL: Model = {
    "shift": (
        0.1501,
        1.377,
        2.2334,
        (-0.9768, 0.6314, -0.2249, -0.5177, -0.9051, -0.3055, 0.0238, 0.2455, -1.297, -0.2566, 0.1586),
    ),
    "shift_around": (
        0.4137,
        1.0561,
        -1.5222,
        (-0.1361, -0.6753, 0.6439, 1.4863, -1.0907, -0.997, 0.6091, 1.6885, -0.1056, 0.562),
    ),
    "local": (0.824, 0.5814, -2.5839, (-0.6981, 0.7141, 0.2053, 0.3322, -1.2364, -0.3078, -0.5525, 0.095, 0.7223)),
    "local_around": (0.7262, 0.3534, -0.2909, (0.2225, 0.0275, 0.0377, 0.6216, -0.171, -0.8086, -0.1776, -0.2002)),
    "texture": (1.4249, 0.7062, 3.4039, (-0.6297, 1.0696, 0.5336, 0.1922, 0.1264, 0.2137, 0.54)),
    "curvature": (-0.3118, 0.8078, -0.5631, (-0.1156, -0.5949, 0.1791, -0.691, -0.319, -0.8183)),
    "curvature_around": (-0.2017, 0.6026, 1.1865, (-0.1375, -0.4355, 0.5601, 0.1441, 0.5546)),
    "evidence": (1.8525, 1.5599, -1.2252, (0.4177, -0.1486, -0.2134, 0.3455)),
    "evidence_around": (1.9715, 1.4221, -1.9777, (0.0986, -0.0756, 0.2361)),
    "edge": (0.6663, 0.2088, -0.4693, (0.1285, 0.0199)),
    "detail": (0.7926, 1.0128, 0.7919, (0.0444,)),
}
BIAS = -2.9903
