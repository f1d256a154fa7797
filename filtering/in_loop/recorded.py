"""The network's last training forward, and what the model before fine-tuning says of it.

A loop does something between its network's output and its loss: it unpacks latents, stacks a list, turns the sign. For
the base's output the same has to be done, by nobody's hand: whatever is linear in the output, autograd knows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from memsieve.filtering.denoisers.lora import adapter_off, has_adapter

__all__ = ["Base", "Recorded", "carried", "frozen"]

Base = torch.nn.Module | Callable[[], AbstractContextManager[Any]]
"""The model before fine-tuning: a network, or a context within which the trained one is it."""


def frozen(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of ``model`` as it is now, for forwards alone."""
    copied = copy.deepcopy(model)
    for name in ("forward", "_original_forward"):  # accelerate's, which are bound to the one that is trained
        copied.__dict__.pop(name, None)
    return copied.requires_grad_(False).eval()


class Recorded:
    """Notes each training forward of ``model``, and repeats it with the base.

    Args:
        model: as the loop calls it: prepared, wrapped.
        bare: the network inside.
        base: the model before fine-tuning; None: ``bare`` with its LoRA switched off, or a frozen copy of it.
        autocast: what the forwards of another network run in.
    """

    def __init__(
        self, model: torch.nn.Module, bare: torch.nn.Module, base: Base | None, autocast: Callable[[], Any]
    ) -> None:
        self._bare = bare
        if base is None and not has_adapter(bare):
            base = frozen(bare)
        self._base: torch.nn.Module = base if isinstance(base, torch.nn.Module) else bare
        self._within = autocast if isinstance(base, torch.nn.Module) else base or self._without_adapter
        self._call: tuple[tuple[Any, ...], dict[str, Any], list[Tensor]] | None = None
        self._asking = False
        model.register_forward_hook(self._note, with_kwargs=True)

    def _note(self, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._asking or not torch.is_grad_enabled():
            return
        predicted = list(_tensors(output))
        if any(one.requires_grad for one in predicted):
            self._call = (args, kwargs, predicted)

    def _without_adapter(self) -> AbstractContextManager[Any]:
        return adapter_off(self._bare)

    @torch.no_grad()
    def _repeat(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._asking = True
        try:
            with self._within():
                return self._base(*args, **kwargs)
        finally:
            self._asking = False

    def reference(self, prediction: Tensor) -> Tensor:
        """What ``prediction``, made of the last forward's output, would have been with the base; no gradients. The
        forward is forgotten.

        Raises:
            RuntimeError: the network was not called with gradients since the last time.
            ValueError: the prediction was not made of its output.
        """
        if self._call is None:
            raise RuntimeError(
                "the network was not called with gradients since the last loss: give LoopFilter the network that the "
                "loop calls (unet, not accelerator.unwrap_model(unet)), and call loss once for each forward"
            )
        args, kwargs, output = self._call
        self._call = None
        before = list(_tensors(self._repeat(args, kwargs)))
        change = [other.to(own.dtype) - own.detach() for own, other in zip(output, before, strict=True)]
        return prediction.detach() + carried(prediction, output, change)


def carried(prediction: Tensor, output: list[Tensor], change: list[Tensor]) -> Tensor:
    """By how much ``prediction`` changes where the ``output`` that it was made of changes by ``change``.

    Exact for what is linear, or linear but for a constant: with A the map, A^T u is a backward pass, linear in u, and
    its own derivative in the direction of ``change`` is A change.
    """
    if len(output) == 1 and output[0] is prediction:
        return change[0]
    probe = torch.zeros_like(prediction, requires_grad=True)
    pulled = torch.autograd.grad(prediction, output, probe, retain_graph=True, create_graph=True, allow_unused=True)
    used = [(back, along) for back, along in zip(pulled, change, strict=True) if back is not None]
    used = [(back, along) for back, along in used if back.requires_grad]
    if not used:
        raise ValueError(
            "model_pred was not made of the output of the network's last forward; LoopFilter.loss wants what the loop "
            "compares with its target"
        )
    (moved,) = torch.autograd.grad([back for back, _ in used], probe, [along.to(back.dtype) for back, along in used])
    return moved.detach()


def _tensors(output: Any) -> Iterable[Tensor]:
    """The predictions in what a network returned: a tensor, a tuple whose first it is, an output object, a list."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, list):
        for one in output:
            yield from _tensors(one)
    elif isinstance(output, tuple):
        yield from _tensors(output[0])
    else:
        yield from _tensors(output.sample)
