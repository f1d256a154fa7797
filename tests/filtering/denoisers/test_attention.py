"""cuDNN's attention is left out where gradients are taken. That its gradients are wrong shows on a GPU alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from memsieve.filtering.denoisers.attention import without_cudnn
from memsieve.inference.gradients import frozen

enabled = torch.backends.cuda.cudnn_sdp_enabled


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


def test_for_a_while() -> None:
    inside = []

    def interrupted() -> None:
        with without_cudnn():
            inside.append(enabled())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert inside == [False] and enabled(), "it is somebody else's process"


def test_gradients_of_a_finished_model() -> None:
    with frozen(torch.nn.Linear(1, 1)):
        assert not enabled()
    assert enabled()
