"""CUDA devices that are pretended: tensors which say that they lie on a GPU, and compute on the CPU.

So what only a GPU enters runs where there is none, with numbers, gradients and collectives (gloo's). What a GPU would
refuse is refused: tensors of two devices in one operation, `numpy()`, operations without a CUDA kernel or, where bits
have to be the same again, without a deterministic one, a collective of another device than the current one. What would
make the host wait for the GPU is recorded. Not pretended: CUDA's own kernels and their rounding, NCCL, streams, memory.
"""

import contextlib
import functools
import threading
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing

from resnet_dist.training import captured, numerics

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "bincount", "_unique2")
"""Operations for which the host waits until the GPU has done all before them."""
NOT_DETERMINISTIC = (
    *("adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "max_pool2d_with_indices_backward"),
    *("avg_pool3d_backward", "nll_loss2d_forward", "upsample_bilinear2d_backward", "grid_sampler_2d_backward"),
    *("reflection_pad2d_backward", "replication_pad2d_backward", "scatter_add", "index_add", "put", "cumsum"),
    *("histc", "kthvalue", "median", "embedding_bag_backward"),
)
"""Those of `torch.use_deterministic_algorithms` that have no CUDA kernel which gives the same bits again."""
BETWEEN_DEVICES = ("copy_", "_to_copy")
BUCKETS = ("mul.out", "copy_.default")
"""What DistributedDataParallel's reducer, in C++, does to its buckets, of which nobody says that they are on a GPU."""


class OnGpu(Tensor):
    """A tensor on a pretended GPU."""

    held: Tensor
    gpu: torch.device

    @staticmethod
    def __new__(cls, held: Tensor, gpu: torch.device) -> "OnGpu":
        tensor: OnGpu = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype
        )
        tensor.held, tensor.gpu = held, gpu
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.gpu

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"{self.held!r} on {self.gpu}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        _STORED.add(self.held.untyped_storage().data_ptr())
        return self.held.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        tensors: list[Tensor] = []
        held = [_opened(value, tensors) for value in args]
        named = {name: _opened(value, tensors) for name, value in kwargs.items()}
        gpu = _one_device(func, tensors)
        name = func._schema.name.partition("::")[2]
        if name in WAITING or (name == "index" and any(tensor.dtype == torch.bool for tensor in tensors[1:])):
            WAITS.append(name)
        _refuse(func, name, gpu)
        out = func(*held, **named)
        if func.namespace == "c10d":
            return out
        wrapped = _wrapped(out, gpu)
        return return_and_correct_aliasing(func, args, kwargs, wrapped) if _gives_an_argument(func) else wrapped


WAITS: list[str] = []
"""Operations for which the host would have waited, in order."""
_STORED: set[int] = set()
_CURRENT = threading.local()


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnGpu) else value


def _opened(value: Any, tensors: list[Tensor]) -> Any:
    """The same on the CPU; its tensors are added to those. Written out: PyTorch's trees of values take half a test."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return _held(value)
    return type(value)([_opened(one, tensors) for one in value]) if isinstance(value, list | tuple) else value


def _wrapped(value: Any, gpu: torch.device) -> Any:
    if isinstance(value, list | tuple):
        return type(value)([_wrapped(one, gpu) for one in value])
    return OnGpu(value, gpu) if isinstance(value, Tensor) else value


@functools.cache
def _gives_an_argument(func: Any) -> bool:
    """Whether what it returns may be an argument, or a view of one."""
    return any(value.alias_info is not None for value in func._schema.returns)


def _one_device(func: Any, tensors: list[Tensor]) -> torch.device:
    found = {tensor.device for tensor in tensors if isinstance(tensor, OnGpu) or tensor.dim() > 0}
    (gpu, *more) = [device for device in found if device.type == "cuda"]
    if more or (len(found) > 1 and not str(func).endswith(BUCKETS)):
        raise RuntimeError(
            f"{func}: Expected all tensors to be on the same device, but found {sorted(map(str, found))}"
        )
    return gpu


def _refuse(func: Any, name: str, gpu: torch.device) -> None:
    if func.namespace == "c10d":
        if gpu != torch.device("cuda", torch.cuda.current_device()):
            raise RuntimeError(f"{func} on {gpu}, but the current device is cuda:{torch.cuda.current_device()}")
    elif torch.backends.cuda.is_built() and not has_cuda_kernel(func.name()):
        raise NotImplementedError(f"{func} has no CUDA kernel")
    if name in NOT_DETERMINISTIC and torch.backends.cudnn.deterministic:
        raise RuntimeError(f"{func} does not give the same bits again on CUDA")


@functools.cache
def has_cuda_kernel(operation: str) -> bool:
    """Whether an operation has a kernel on CUDA, of its own or composed of others."""
    return bool(torch._C._dispatch_has_computed_kernel_for_dispatch_key(operation, "CUDA"))


def _wanted(value: Any) -> torch.device | None:
    """The pretended GPU that an argument names, if it names one."""
    if isinstance(value, str) and value.startswith("cuda"):
        value = torch.device(value)
    if not isinstance(value, torch.device) or value.type != "cuda":
        return None
    return torch.device("cuda", torch.cuda.current_device() if value.index is None else value.index)


class _Functions(TorchFunctionMode):
    """Calls that name a device, or lead away from one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "to" or name in ("cpu", "cuda"):
            return self._to(func, args, kwargs)
        if args and isinstance(args[0], OnGpu) and name in ("tolist", "numpy", "__array__"):
            if name != "tolist":
                raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
            WAITS.append(name)
            return args[0].held.tolist()
        if name == "pin_memory":
            pinned = args[0].clone()
            pinned.is_pinned_memory = True
            return pinned
        if gpu := _wanted(kwargs.get("device")):
            made = func(*args, **kwargs | {"device": "cpu"})
            return OnGpu(_held(made), gpu)
        return func(*args, **kwargs)

    def _to(self, func: Any, args: Any, kwargs: Any) -> Any:
        tensor, *rest = args
        named = [value for value in (*rest, kwargs.pop("device", None)) if isinstance(value, str | torch.device)]
        gpus = [gpu for value in named if (gpu := _wanted(value))]
        others = [value for value in rest if not isinstance(value, str | torch.device)]
        if func.__name__ == "cpu" or (named and not gpus):
            if isinstance(tensor, OnGpu):
                WAITS.append(func.__name__)
                kwargs["copy"] = True
            return Tensor.to(_held(tensor), "cpu", *others, **kwargs)
        if not gpus:
            return func(tensor, *others, **kwargs)
        (gpu,) = gpus
        if isinstance(tensor, OnGpu):
            if tensor.gpu == gpu:
                return Tensor.to(tensor, *others, **kwargs) if others or kwargs else tensor
        elif not (getattr(tensor, "is_pinned_memory", False) and kwargs.get("non_blocking")):
            WAITS.append("to")
        made = Tensor.to(_held(tensor).detach(), *others, **kwargs | {"copy": True})
        return OnGpu(made, gpu).requires_grad_(tensor.requires_grad)


class _Autocast(torch.autocast):
    """On a pretended GPU it is the CPU's, whose list of operations is another one."""

    def __init__(self, device_type: str, dtype: torch.dtype, enabled: bool = True, **settings: Any) -> None:
        if enabled and device_type != "cuda":
            raise RuntimeError(f"autocast of {device_type} has no effect on tensors of a GPU")
        super().__init__("cpu", dtype, enabled, **settings)


class _Stream:
    """All that is computed is there at once."""

    def __init__(self, device: Any = None) -> None:
        pass

    def wait_stream(self, other: Any) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Nothing to wait for."""


def set_device(device: Any) -> None:
    """Stands for `torch.cuda.set_device`: of this thread, in which factories know of GPUs from then on."""
    _CURRENT.index = torch.device(device).index
    if not getattr(_CURRENT, "entered", False):
        _CURRENT.entered = True
        _Functions().__enter__()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def pretended_cuda(count: int = 1) -> Iterator[None]:
    """As if this process saw `count` GPUs."""
    properties = SimpleNamespace(uuid="12-34", name="a pretended GPU", major=9, minor=0, total_memory=80 * 2**30)
    torch.serialization.register_package(5, _tag, lambda storage, location: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: count)
        patch.setattr(torch.cuda, "init", lambda: set_device(torch.device("cuda", torch.cuda.current_device())))
        patch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
        patch.setattr(torch.cuda, "set_device", set_device)
        patch.setattr(torch.cuda, "current_device", lambda: getattr(_CURRENT, "index", 0))
        patch.setattr(torch.cuda, "get_device_name", lambda device: properties.name)
        patch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        patch.setattr(torch, "autocast", _Autocast)
        patch.setattr(torch.cuda, "Stream", _Stream)
        patch.setattr(torch.cuda, "current_stream", _Stream)
        patch.setattr(torch.cuda, "stream", contextlib.nullcontext)
        patch.setattr(numerics, "_IDLE", defaultdict(list))
        # What is captured is kept, and called for each replay.
        patch.setattr(captured, "capture", lambda call: call)
        # Adam asks whether its updates are being captured for a CUDA graph.
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        patch.setattr(torch.accelerator, "current_stream", lambda *_: SimpleNamespace(is_capturing=lambda: False))
        # `Module.to` gives a network new parameters: the tensors of the old ones cannot become others.
        patch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
        WAITS.clear()
        try:
            yield
        finally:
            if getattr(_CURRENT, "entered", False):
                _CURRENT.entered = False
                torch.overrides._pop_mode()
            torch.serialization._package_registry[:] = [
                entry for entry in torch.serialization._package_registry if entry[1] is not _tag
            ]


def _tag(storage: Any) -> str | None:
    """Where `torch.save` says that a storage lies; `torch.load` without another place wants a GPU for it."""
    return "cuda:0" if storage.data_ptr() in _STORED else None
