"""How the base model is trained."""

from __future__ import annotations

import pytest
import torch

from scripts.base_model.training import _weights_at


def test_averaged_weights_are_there_to_be_saved_and_training_goes_on_from_its_own() -> None:
    layer = torch.nn.Linear(2, 2)
    learned = list(layer.parameters())
    before, average = [weight.detach().clone() for weight in learned], [torch.full_like(w, 0.5) for w in learned]
    with _weights_at(learned, average):
        assert all((value == 0.5).all() for value in layer.state_dict().values())
    assert all(torch.equal(now, then) for now, then in zip(learned, before, strict=True))
    with pytest.raises(OSError, match="no room"), _weights_at(learned, average):
        raise OSError("no room")
    assert all(torch.equal(now, then) for now, then in zip(learned, before, strict=True))
    assert all(weight.requires_grad for weight in learned)
