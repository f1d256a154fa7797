"""Which model it was: hashes of its weights as loaded, the same whatever folder, format or hub id they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container
from typing import Any

import torch

__all__ = ["model_hashes", "total_hash"]


def model_hashes(denoiser: Any, leave_out: Container[str] = ()) -> dict[str, str]:
    """sha256 (hex) of each part of a denoiser's pipeline, by the part's name.

    A network counts by the names, types and values of its weights; a scheduler by its config without diffusers' own
    bookkeeping; a tokenizer, a processor's too, by its vocabulary and, where it has one, its chat template.
    """
    found = {}
    for name, part in sorted(denoiser.pipeline().components.items()):
        if name in leave_out:
            continue
        if isinstance(part, torch.nn.Module):
            found[name] = _weights(part)
        elif hasattr(getattr(part, "tokenizer", part), "get_vocab"):
            found[name] = _tokenizer(part)
        elif part is not None and hasattr(part, "config"):
            found[name] = _text({k: v for k, v in dict(part.config).items() if not k.startswith("_")})
    return found


def total_hash(parts: dict[str, str]) -> str:
    """One hash of what ``model_hashes`` gave."""
    return _text(sorted(parts.items()))


def _tokenizer(part: Any) -> str:
    tokenizer = getattr(part, "tokenizer", part)
    told = [sorted(tokenizer.get_vocab().items()), int(tokenizer.model_max_length)]
    template = getattr(part, "chat_template", None)
    return _text(told if template is None else [*told, template])


def _weights(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        # numpy has no bfloat16; bytes are bytes.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _text(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
