"""Devices that are not there: tensors say that they lie on one, compute on the CPU, and may not be mixed.

Under a `Pretence`, `.to("cuda:0")` copies a tensor and marks the copy. What torch is then called with must lie on one
device, with the exceptions that a GPU makes too (scalars, indices on the CPU, copies). `mps:0` has no float64 either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

__all__ = ["Pretence", "WrongDeviceError", "where"]

CPU = torch.device("cpu")
_MARK = "_pretended"
_MOVES = ("to", "cpu", "copy_", "type", "_has_compatible_shallow_copy_type")
_ON_THE_HOST = ("numpy", "__array__")
_READS = ("item", "tolist", "nonzero", "equal", "__bool__", "__float__", "__int__", "__index__", "__contains__")
_INDEXES = ("__getitem__", "__setitem__", "index_put", "index_put_")
_FLAGS = {"is_cpu.__get__": "cpu", "is_cuda.__get__": "cuda", "is_mps.__get__": "mps"}


class WrongDeviceError(RuntimeError):
    """What a machine with such devices would refuse."""


def where(tensor: Tensor) -> torch.device:
    """The device that a tensor pretends to lie on: a mark of its storage, so that views have it too."""
    with torch._C.DisableTorchFunction():
        return getattr(tensor.untyped_storage(), _MARK, CPU)


class Pretence(TorchFunctionMode):
    """`waits` counts, by name, the calls in which the host waits for a device; `calls` those that a device computes."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.calls: Counter[torch.device] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = resolve_name(func) or func.__name__
        name = name.removeprefix("torch.Tensor.").rpartition("torch.")[2]
        if name == "device.__get__":
            return where(args[0])
        if name in _FLAGS:
            return where(args[0]).type == _FLAGS[name]
        if name == "data.__set__":  # the parameter goes where its new storage lies
            return func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        device = self._runs_on(name, args, tensors)
        asked, args, kwargs = _asked(args, kwargs, follow=name == "to")
        there = CPU if name == "cpu" else device if asked is None else asked
        result = func(*args, **kwargs)
        if tensors and device != CPU:
            self.calls[device] += 1
        if name in ("to", "cpu") and there != device:
            self.waits[name] += 1
            if result.untyped_storage().data_ptr() == args[0].untyped_storage().data_ptr():
                result = result.clone()
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                _mark(made, device if name == "grad.__get__" else there, name)
        return result

    def _runs_on(self, name: str, args: Sequence[Any], tensors: Sequence[Tensor]) -> torch.device:
        """Where a call runs. WrongDeviceError for tensors of two devices."""
        if not tensors:
            return CPU
        first = where(tensors[0])
        if name == "copy_" and where(args[1]) != first:
            self.waits[name] += 1
        if name in _MOVES:
            return first
        if name in _ON_THE_HOST and first != CPU:
            raise WrongDeviceError(f"{name} of a tensor on {first}")
        if name in _READS and first != CPU:
            self.waits[name] += 1
        taken = self._indexed(name, args, first) if name in _INDEXES else tensors
        found = {where(tensor) for tensor in taken if tensor.dim() or where(tensor) != CPU}
        if len(found) > 1:
            raise WrongDeviceError(f"{name} of tensors on {' and '.join(sorted(map(str, found)))}")
        return next(iter(found), first)

    def _indexed(self, name: str, args: Sequence[Any], first: torch.device) -> list[Tensor]:
        """The tensors of an index expression that must lie on one device; indices may lie on the CPU."""
        indices = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)]
        if any(where(index) not in (CPU, first) for index in indices):
            raise WrongDeviceError(f"{name} of a tensor on {first} by indices elsewhere")
        if first != CPU and any(where(index) == CPU or index.dtype == torch.bool for index in indices):
            self.waits[name] += 1
        values = [leaf for leaf in tree_leaves(args[2:]) if isinstance(leaf, Tensor)] if indices else []
        return [args[0], *values]


def _asked(
    args: Sequence[Any], kwargs: dict[str, Any], *, follow: bool
) -> tuple[torch.device | None, Sequence[Any], dict[str, Any]]:
    """The device that a call names, and the call as the CPU gets it. `follow`: also one named by another tensor."""
    named: Iterable[Any] = (kwargs.get("device"), *args[1:2])
    device = next((_device(value) for value in named if _device(value) is not None), None)
    if device is None and follow and len(args) > 1 and isinstance(args[1], Tensor):
        device = where(args[1])
    if device is None:
        return None, args, kwargs
    moved = [CPU if index == 1 and _device(value) is not None else value for index, value in enumerate(args)]
    return device, moved, {**kwargs, **({"device": CPU} if "device" in kwargs else {})}


def _device(value: Any) -> torch.device | None:
    if isinstance(value, torch.device):
        return value
    return torch.device(value) if isinstance(value, str) and value.partition(":")[0] in ("cpu", "cuda", "mps") else None


def _mark(tensor: Tensor, device: torch.device, name: str) -> None:
    if device.type == "mps" and tensor.dtype == torch.float64:
        raise WrongDeviceError(f"{name} gives float64, which {device} does not have")
    setattr(tensor.untyped_storage(), _MARK, device)
