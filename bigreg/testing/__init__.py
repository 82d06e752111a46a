"""What tests of engines and of GPU code need: a CUDA device that is simulated on the CPU.

Nothing else in bigreg imports this package.
"""

from .counts import Counts
from .cuda import BrokenDeviceError, DeviceMismatchError, HostAccessError, SimulatedCuda, simulated_cuda

__all__ = [
    "BrokenDeviceError",
    "Counts",
    "DeviceMismatchError",
    "HostAccessError",
    "SimulatedCuda",
    "simulated_cuda",
]
