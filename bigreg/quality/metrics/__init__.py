"""Figures of merit of a map and of the images it brings together.

Every function takes numpy arrays or torch tensors (on any device) and answers in kind. What is summed over a volume is
a small frozen summary with `+`: the summaries of blocks add up to the summary of the whole, so that no figure ever
needs the volume in memory. Moments are added with the parallel update of Chan, Golub and LeVeque (1979).
"""

from .distance import ErrorHistogram, RegistrationError, target_registration_error
from .intensity import CorrelationSummary, local_correlation, local_ncc, ncc, structural_similarity
from .overlap import LabelCounts, SurfaceDistance, SurfacePoints, surface_distance
from .regions import JointHistogram, RegionSums, moments
from .regularity import JacobianSummary, SeamSummary, central_jacobian, min_jacobian, seam_ratio
from .tensors import Array

__all__ = [
    "Array",
    "CorrelationSummary",
    "ErrorHistogram",
    "JacobianSummary",
    "JointHistogram",
    "LabelCounts",
    "RegionSums",
    "RegistrationError",
    "SeamSummary",
    "SurfaceDistance",
    "SurfacePoints",
    "central_jacobian",
    "local_correlation",
    "local_ncc",
    "min_jacobian",
    "moments",
    "ncc",
    "seam_ratio",
    "structural_similarity",
    "surface_distance",
    "target_registration_error",
]
