"""A device beside the processor, on any machine: its tensors live in host memory, and mixing them with the processor's
is refused in CUDA's words. So a tensor that was left behind is found without a GPU.

torch lets a backend be written in Python (``torch.utils.backend_registration``, since 2.10). Every operator is caught,
run on the processor, and its result handed back as a tensor of the device ``far``. A process that installed it should
end with the test: torch keeps the registration.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.utils import _pytree
from torch.utils import backend_registration as registration

__all__ = ["AVAILABLE", "FAR", "install"]

FAR: Final = "far:0"
AVAILABLE: Final = hasattr(registration, "_setup_privateuseone_for_python_backend")
_MOVES: Final = ("aten::copy_", "aten::_to_copy")
_TAKES_HOST_INDICES: Final = ("aten::index.Tensor", "aten::_index_put_impl_", "aten::index_put_", "aten::index_put")
_LIBRARIES: list[torch.library.Library] = []  # a library that is collected takes its operators with it


class FarTensor(torch.Tensor):
    """A tensor of the device, whose values are ``host``."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> FarTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype,
            layout=host.layout, device=FAR,
        )  # fmt: skip
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    # What torch does not send through the dispatcher.

    def tolist(self) -> Any:
        return self.host.tolist()

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def storage(self) -> Any:
        return self.host.storage()

    def untyped_storage(self) -> Any:
        return self.host.untyped_storage()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.host.__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self.host!r} on {FAR}"


def install() -> None:
    """Let this process use the device, and make it the one that accelerate takes by itself."""
    from accelerate.state import PartialState

    # Backward passes of other devices run in threads of their own, which do not know Python's operators.
    torch.autograd.set_multithreading_enabled(False)
    registration._setup_privateuseone_for_python_backend("far")
    every, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    _LIBRARIES.extend((every, aten))
    every.fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), "PrivateUse1")
    for name in ("copy_", "_to_copy", "empty.memory_format", "empty_strided"):  # torch.tensor skips the fallback
        packet, _, overload = name.partition(".")
        op = getattr(getattr(torch.ops.aten, packet), overload or "default")
        aten.impl(name, lambda *args, op=op, **kwargs: _run(op, args, kwargs), "PrivateUse1")
    PartialState.default_device = property(lambda self: torch.device(FAR))


def _run(op: Any, args: Any, kwargs: Any) -> Any:
    """The operator on the processor, its tensors handed back where they belong."""
    given = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    far = any(isinstance(tensor, FarTensor) for tensor in given)
    name = op._schema.name + (f".{op._schema.overload_name}" if op._schema.overload_name else "")
    if far and not name.startswith(_MOVES):
        _check(op, name, given)
    if name.startswith("aten::copy_"):
        far = isinstance(args[0], FarTensor)
    if kwargs.get("device") is not None:
        far = torch.device(kwargs["device"]).type == torch.device(FAR).type
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    host_args, host_kwargs = _pytree.tree_map_only(FarTensor, lambda tensor: tensor.host, (args, kwargs))
    result = op(*host_args, **host_kwargs)
    # An operator in place gives back the very tensors that it was given.
    own = {id(tensor.host): tensor for tensor in given if isinstance(tensor, FarTensor)}
    return _pytree.tree_map_only(
        torch.Tensor, lambda tensor: own.get(id(tensor), FarTensor(tensor) if far else tensor), result
    )


def _check(op: Any, name: str, given: list[torch.Tensor]) -> None:
    """As CUDA: only numbers without dimensions, and indices of a tensor of the device, may be the processor's."""
    counted = given[:1] if name.startswith(_TAKES_HOST_INDICES) else given
    if any(not isinstance(tensor, FarTensor) and tensor.dim() > 0 for tensor in counted):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {FAR} and cpu! (in {op})"
        )
