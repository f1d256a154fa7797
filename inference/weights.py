"""A digest of a network's weights, so that results of one model are never taken for another's."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

__all__ = ["pipeline_identity", "weights_identity"]


def pipeline_identity(pipe: Any) -> str:
    """A digest of the weights of a pipeline's network."""
    return weights_identity(getattr(pipe, "unet", None) or pipe.transformer)


def weights_identity(network: torch.nn.Module) -> str:
    """A digest of a network's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        # two sums instead of all bytes: seconds for billions of parameters, and any training step changes them
        flat = tensor.detach().double().flatten()
        digest.update(f"{float(flat.sum())!r} {float(flat.square().sum())!r}".encode())
    return digest.hexdigest()
