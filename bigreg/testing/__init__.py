"""What tests of engines, of storage and of GPU code need.

    check_engine(MyEngine())                     antisymmetry, bounds, bit-identical results
    with failing_store(at(7)) as faults: ...     the store fails from the seventh write on
    with simulated_cuda() as device: ...         a CUDA device that is simulated on the CPU, and counts

Nothing else in bigreg imports this package.
"""

from .counts import Counts
from .cuda import BrokenDeviceError, DeviceMismatchError, HostAccessError, SimulatedCuda, simulated_cuda
from .faults import LASTING, PASSING, Faults, at, failing_store
from .laws import check_antisymmetry, check_bounds, check_engine, check_same_bits, patch_pair

__all__ = [
    "LASTING",
    "PASSING",
    "BrokenDeviceError",
    "Counts",
    "DeviceMismatchError",
    "Faults",
    "HostAccessError",
    "SimulatedCuda",
    "at",
    "check_antisymmetry",
    "check_bounds",
    "check_engine",
    "check_same_bits",
    "failing_store",
    "patch_pair",
    "simulated_cuda",
]
