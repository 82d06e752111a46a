"""Figures of merit of a map and of the images it brings together.

Every function takes numpy arrays or torch tensors (on any device) and answers in kind. What is summed over a volume is
a small frozen summary with `+`: the summaries of blocks add up to the summary of the whole, so that no figure ever
needs the volume in memory. Moments are added with the parallel update of Chan, Golub and LeVeque (1979).
"""

from .distance import ErrorHistogram, RegistrationError, target_registration_error
from .intensity import CorrelationSummary, local_correlation, local_ncc, ncc
from .regularity import JacobianSummary, central_jacobian, min_jacobian, seam_ratio
from .tensors import Array

__all__ = [
    "Array",
    "CorrelationSummary",
    "ErrorHistogram",
    "JacobianSummary",
    "RegistrationError",
    "central_jacobian",
    "local_correlation",
    "local_ncc",
    "min_jacobian",
    "ncc",
    "seam_ratio",
    "target_registration_error",
]
