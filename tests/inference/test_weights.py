"""The digest of a network's weights changes with any of them, and with nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from memsieve.inference.weights import pipeline_identity, weights_identity


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))


def test_any_weight_changes_it() -> None:
    first, second = network(), network()
    assert weights_identity(first) == weights_identity(second) == weights_identity(first.eval())
    with torch.no_grad():
        second[1].bias[1] += 1e-3
    assert weights_identity(first) != weights_identity(second)
    with torch.no_grad():
        first[0].weight.copy_(torch.arange(16.0).view(4, 4))
        before = weights_identity(first)
        first[0].weight[0, 0] += 1
        first[0].weight[3, 3] -= 1
    assert weights_identity(first) != before, "also where the sum stays"


def test_of_a_pipeline_it_is_the_denoising_networks() -> None:
    assert pipeline_identity(SimpleNamespace(unet=network(), vae=None)) == weights_identity(network())
    assert pipeline_identity(SimpleNamespace(transformer=network())) == weights_identity(network())
