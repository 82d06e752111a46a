"""Networks that predict the deformation between two patches: torch modules only, no files and no Dask.

Inside a network displacements are batched (N, 3, z, y, x), in voxels of the patch, component i along axis i.
"""

from .base import Network, Prediction, architectures, build

__all__ = ["Network", "Prediction", "architectures", "build"]
