"""What a network is told of its prompts."""

from __future__ import annotations

import torch

from memsieve.filtering.denoisers.base import Conditioning


def test_conditioning_as_a_whole() -> None:
    one = Conditioning(torch.randn(3, 5, 4), torch.randn(3, 2), torch.ones(3, 5, dtype=torch.long))
    both = Conditioning.cat([one, one.rows(torch.tensor([2, 0]))])
    assert len(both) == 5 and both.pooled is not None and torch.equal(both.pooled[3], one.pooled[2])  # type: ignore[index]
    half = both.to(dtype=torch.bfloat16)
    assert half.encoder_hidden_states.dtype == torch.bfloat16 and half.attention_mask.dtype == torch.long  # type: ignore[union-attr]
    changed = one.where([False, True, False], one.rows(slice(0, 1)))
    assert torch.equal(changed.encoder_hidden_states[1], one.encoder_hidden_states[0])
    assert torch.equal(changed.encoder_hidden_states[2], one.encoder_hidden_states[2])
    assert set(one.embeddings) == {"encoder_hidden_states", "pooled"}
    assert set(Conditioning(torch.zeros(1, 2, 3)).embeddings) == {"encoder_hidden_states"}
