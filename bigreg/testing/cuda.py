"""A CUDA device that is simulated on the CPU: what runs on it would run on a GPU, and what a GPU refuses it refuses.

Its tensors say `cuda:0` and hold their values on the host. Operations that mix devices, `.numpy()` and other access
from the host raise, as they do on a GPU. Kernels, bytes, transfers and waits of the host are counted. Values are
computed by PyTorch's operations for the CPU, so results are those of tensor code, not of bigreg's own CPU sweeps.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .. import kernels
from ..pipeline.schedule import answers, streaming
from .counts import INDEXING, SYNCHRONISING, Counts, touched

CUDA = torch.device("cuda", 0)
NAME = "simulated CUDA device"


class DeviceMismatchError(RuntimeError):
    """Tensors of different devices met in one operation."""


class HostAccessError(TypeError):
    """The host asked for values that are on the device."""


class BrokenDeviceError(RuntimeError):
    """The device is lost; as on a GPU, everything after the first error fails too."""


class SimulatedCuda:
    """The device. Used as in `with simulated_cuda() as device`.

    memory    bytes that it has; more raises torch.OutOfMemoryError. None: no end
    counts    what was done since it was made, or since `measured` began
    tasks     the counts of each block that a Dask worker of this process ran, by the name of its task
    """

    def __init__(self, memory: int | None = None) -> None:
        self.memory = memory
        self.counts = Counts()
        self.tasks: dict[str, list[Counts]] = {}
        self.in_use = 0
        self.broken: str | None = None
        self._holders: dict[int, int] = {}

    @contextmanager
    def entered(self) -> Iterator[SimulatedCuda]:
        """Operations of this thread know the device."""
        with _Functions(self), _Operations(self):
            yield self

    @contextmanager
    def measured(self) -> Iterator[Counts]:
        """Count into new counts, which are returned, and then continue with the old ones, which include them."""
        before, self.counts = self.counts, Counts(peak_bytes=self.in_use)
        new = self.counts
        try:
            yield new
        finally:
            self.counts = added(before, new)

    def break_down(self, message: str = "CUDA error: an illegal memory access was encountered") -> None:
        """From now on every operation raises BrokenDeviceError, in every thread."""
        self.broken = message

    def hold(self, tensor: DeviceTensor) -> None:
        """Account for the memory of a new tensor until it is gone. Raises torch.OutOfMemoryError."""
        storage = tensor.host.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if size == 0:
            return
        if place not in self._holders:
            if self.memory is not None and self.in_use + size > self.memory:
                raise torch.OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {size} bytes; the {NAME} has {self.memory}, of which "
                    f"{self.in_use} are in use"
                )
            self._holders[place] = 0
            self.in_use += size
            self.counts.peak_bytes = max(self.counts.peak_bytes, self.in_use)
        self._holders[place] += 1
        weakref.finalize(tensor, self._release, place, size)

    def _release(self, place: int, size: int) -> None:
        self._holders[place] -= 1
        if self._holders[place] == 0:
            del self._holders[place]
            self.in_use -= size

    def upload(self, values: torch.Tensor) -> DeviceTensor:
        """A tensor of the host, copied to the device."""
        self.check()
        self.counts.to_device += 1
        self.counts.to_device_bytes += touched(values)
        return DeviceTensor(values.detach().clone(), self)

    def download(self, tensor: DeviceTensor) -> torch.Tensor:
        """A tensor of the device, copied to the host, which waits for it."""
        self.check()
        self.counts.wait()
        self.counts.to_host += 1
        self.counts.to_host_bytes += touched(tensor.host)
        return tensor.host.clone()

    def check(self) -> None:
        if self.broken is not None:
            raise BrokenDeviceError(self.broken)

    def run(self, operation: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """One operation of which a tensor, or the result, is on the device."""
        # What is made is an ordinary tensor in inference mode too: PyTorch cannot wrap those of inference.
        with torch.inference_mode(False), torch.no_grad():
            return self._run(operation, args, kwargs)

    def _run(self, operation: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        self.check()
        name = operation._overloadpacket.__name__
        if name == "_has_compatible_shallow_copy_type":
            return False  # a parameter that is moved is replaced
        kwargs = dict(kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [t for t in tensors if isinstance(t, DeviceTensor)]
        here = [t for t in tensors if not isinstance(t, DeviceTensor)]
        if name == "copy_" and here:
            return self._copied(*args)
        self._require_one_device(name, operation, here)
        if isinstance(kwargs.get("device"), torch.device):
            kwargs["device"] = torch.device("cpu")
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        out = operation(*tree_map(_host, args), **tree_map(_host, kwargs))
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        if name == "_local_scalar_dense":
            self.counts.wait()
            self.counts.to_host_bytes += there[0].host.element_size()
            return out
        if name in SYNCHRONISING or (name in INDEXING and any(_is_boolean(i) for i in args[1])):
            self.counts.wait()
        adds = name in INDEXING and (kwargs.get("accumulate", False) or True in args[3:4])
        self.counts.launch(name, [_host(t) for t in tensors], made, adds)
        known = {id(t.host): t for t in there}  # what works in place hands back the tensor that it was given

        def wrapped(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            given = known.get(id(value))
            return DeviceTensor(value, self) if given is None else given

        return tree_map(wrapped, out)

    def _require_one_device(self, name: str, operation: Any, here: list[torch.Tensor]) -> None:
        strange = [t for t in here if t.dim() > 0]
        if not strange:
            return
        if name in INDEXING and all(t.dtype in (torch.int64, torch.int32, torch.bool, torch.uint8) for t in strange):
            self.counts.to_device += len(strange)  # indices may lie on the host: they are sent along
            self.counts.to_device_bytes += sum(map(touched, strange))
            return
        raise DeviceMismatchError(
            f"{operation}: expected all tensors to be on the same device, but found cuda:0 and cpu "
            f"({', '.join(str(tuple(t.shape)) for t in strange)}); move them with .to(device)"
        )

    def _copied(self, target: torch.Tensor, source: torch.Tensor, *_: Any) -> torch.Tensor:
        if isinstance(target, DeviceTensor):
            self.counts.to_device += 1
            self.counts.to_device_bytes += touched(source)
            target.host.copy_(source)
        else:
            assert isinstance(source, DeviceTensor), "one of the two is on the device"
            target.copy_(self.download(source))
        return target


def _host(value: Any) -> Any:
    return value.host if isinstance(value, DeviceTensor) else value


def _is_boolean(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


def added(a: Counts, b: Counts) -> Counts:
    """What two counts count together."""
    return Counts(
        a.kernels + b.kernels, a.bytes + b.bytes, a.syncs + b.syncs, a.unordered + b.unordered,
        a.to_device + b.to_device, a.to_device_bytes + b.to_device_bytes,
        a.to_host + b.to_host, a.to_host_bytes + b.to_host_bytes,
        max(a.peak_bytes, b.peak_bytes),
    )  # fmt: skip


class DeviceTensor(torch.Tensor):
    """A tensor of a simulated device. `host` has its values on the host, which code under test must not touch."""

    host: torch.Tensor
    owner: SimulatedCuda

    # PyTorch itself takes it for one of the CPU, so that it asks no driver; who asks in Python is told cuda:0.
    @staticmethod
    def __new__(cls, host: torch.Tensor, owner: SimulatedCuda) -> DeviceTensor:
        with torch.inference_mode(False):
            return cls._made(host, owner)

    @classmethod
    def _made(cls, host: torch.Tensor, owner: SimulatedCuda) -> DeviceTensor:
        new = torch.Tensor._make_wrapper_subclass(
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype,
            layout=host.layout, device=torch.device("cpu"), requires_grad=host.requires_grad,
        )  # fmt: skip
        new.host, new.owner = host.detach(), owner
        owner.hold(new)
        return new

    def __init__(self, host: torch.Tensor, owner: SimulatedCuda) -> None:
        pass

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        owner = next(t.owner for t in tree_leaves((args, kwargs)) if isinstance(t, DeviceTensor))
        return owner.run(operation, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype}, device='cuda:0')"

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
        return moved(self, torch.device("cpu"), None)

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return moved(self, *destination(self, args, kwargs))

    def cuda(self, *_: Any, **__: Any) -> torch.Tensor:
        return self

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        raise HostAccessError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def data_ptr(self) -> int:
        raise HostAccessError("the memory of a cuda:0 tensor cannot be read from the host; use Tensor.cpu() first")


def destination(tensor: torch.Tensor, args: tuple, kwargs: dict[str, Any]) -> tuple[torch.device, torch.dtype | None]:
    """Device and dtype that `tensor.to(*args, **kwargs)` asks for."""
    device, dtype = tensor.device, None
    for value in (*args, kwargs.get("device"), kwargs.get("dtype"), kwargs.get("other")):
        if isinstance(value, torch.Tensor):
            device, dtype = value.device, value.dtype
        elif isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, torch.device | str) or (isinstance(value, int) and not isinstance(value, bool)):
            device = torch.device(value) if not isinstance(value, int) else CUDA
    return device, dtype


def moved(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype | None) -> torch.Tensor:
    """A tensor on a device, with a dtype. What is there already and right is handed back."""
    if isinstance(tensor, DeviceTensor) and device.type == "cpu":
        tensor = tensor.owner.download(tensor)
    elif not isinstance(tensor, DeviceTensor) and device.type == "cuda":
        tensor = _active().upload(tensor)
    if dtype is None or dtype == tensor.dtype:
        return tensor
    return torch.ops.aten._to_copy.default(tensor, dtype=dtype)


_execute = answers.execute
_entered: list[SimulatedCuda] = []


def execute_simulated(opener: Any, url: str, stamp: str, task: Any, arguments: tuple, index: Any) -> answers.Answer:
    """A block in a worker of this process: its thread knows the device, which counts the block by itself."""
    device = _active()
    with device.entered(), device.measured() as counts:
        answer = _execute(opener, url, stamp, task, arguments, index)
    name = getattr(task, "__qualname__", type(task).__name__)
    device.tasks.setdefault(f"{task.__module__.rpartition('.')[2]}.{name}", []).append(counts)
    return answer


def _active() -> SimulatedCuda:
    return _entered[-1]


def is_cuda(device: Any) -> bool:
    return isinstance(device, torch.device | str) and torch.device(device).type == "cuda"


class _Functions(TorchFunctionMode):
    """Calls that PyTorch would answer before it asks for an operation: transfers, and tensors made of host data."""

    def __init__(self, device: SimulatedCuda) -> None:
        super().__init__()
        self.simulated = device

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        first = args[0] if args else None
        if name in ("to", "cuda") and isinstance(first, torch.Tensor) and not isinstance(first, DeviceTensor):
            device, dtype = destination(first, args[1:], kwargs)
            if name == "cuda" or device.type == "cuda":
                return moved(first if dtype is None else first.to(dtype), CUDA, None)
        if name in ("tensor", "as_tensor") and (is_cuda(kwargs.get("device")) or isinstance(first, DeviceTensor)):
            device, dtype = kwargs.get("device"), kwargs.get("dtype")
            if isinstance(first, DeviceTensor):
                return moved(first, first.device if device is None else torch.device(device), dtype)
            return self.simulated.upload(func(*args, **{**kwargs, "device": "cpu"}))
        if name == "new_tensor" and isinstance(first, DeviceTensor):
            return self.simulated.upload(torch.tensor(args[1], dtype=kwargs.get("dtype") or first.dtype))
        if is_cuda(kwargs.get("device")):
            kwargs = {**kwargs, "device": CUDA}
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    """Operations that make tensors on the device out of nothing."""

    def __init__(self, device: SimulatedCuda) -> None:
        super().__init__()
        self.simulated = device

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if is_cuda(kwargs.get("device")) or any(isinstance(t, DeviceTensor) for t in tree_leaves((args, kwargs))):
            return self.simulated.run(operation, args, kwargs)
        return operation(*args, **kwargs)


@contextmanager
def simulated_cuda(memory: int | None = None) -> Iterator[SimulatedCuda]:
    """Context in which PyTorch has one CUDA device, which is simulated: in this thread, and where a worker of this
    process runs a block of bigreg.

    memory   bytes of the device; None: no end

    Give it to a run through a Dask cluster whose worker is in this process and was given a GPU:
    `LocalCluster(processes=False, n_workers=1, threads_per_worker=1, resources={"GPU": 1})`.
    """
    device = SimulatedCuda(memory)
    total = memory or 2**40
    functions: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda *_: None,
        "get_device_name": lambda *_: NAME,
        "get_device_properties": lambda *_: SimpleNamespace(name=NAME, total_memory=total),
        "mem_get_info": lambda *_: (total - device.in_use, total),
        "memory_allocated": lambda *_: device.in_use,
        "max_memory_allocated": lambda *_: device.counts.peak_bytes,
        "reset_peak_memory_stats": lambda *_: setattr(device.counts, "peak_bytes", device.in_use),
        "synchronize": lambda *_: device.counts.wait(),
        "empty_cache": lambda: None,
        "_lazy_init": lambda: None,
    }
    # Parameters of a network that is moved are replaced: they cannot be turned into another kind of tensor.
    future = torch.__future__
    before = future.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        for module in (answers, streaming):
            stack.enter_context(mock.patch.object(module, "execute", execute_simulated))
        stack.enter_context(mock.patch.object(kernels, "present", lambda: False))  # Triton wants a real card
        for name, answer in functions.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        future.set_overwrite_module_params_on_conversion(True)
        stack.callback(future.set_overwrite_module_params_on_conversion, before)
        _entered.append(device)
        stack.callback(_entered.remove, device)
        stack.enter_context(device.entered())
        yield device
