"""What a pipeline calls its network with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

Call = tuple[tuple[Any, ...], dict[str, Any], Any]


@contextmanager
def calls_of(network: torch.nn.Module) -> Iterator[list[Call]]:
    """Every call of ``network`` within: its arguments by place, by name, and what it gave."""
    calls: list[Call] = []
    handle = network.register_forward_hook(
        lambda module, args, kwargs, output: calls.append((args, kwargs, output)), with_kwargs=True
    )
    try:
        yield calls
    finally:
        handle.remove()


def first_call(pipe: Any, prompts: list[str], **options: Any) -> Call:
    """The first of the calls by which ``pipe`` draws in two steps."""
    network = getattr(pipe, "unet", None) or pipe.transformer
    with calls_of(network) as calls:
        pipe(prompts, num_inference_steps=2, output_type="latent", **options)
    return calls[0]
