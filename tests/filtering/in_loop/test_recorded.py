"""What the base says is carried through whatever linear a loop does with its network's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from diffusers import FluxPipeline
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from memsieve.filtering.in_loop.recorded import Recorded, carried, frozen


class Net(nn.Module):
    """Returns what networks return, by ``kind``."""

    def __init__(self, kind: str = "tensor") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.kind = nn.Linear(6, 6), kind

    def forward(self, x: Any, scale: float = 1.0) -> Any:
        if self.kind == "list":
            return ([self.layer(row) * scale for row in x], {})
        out = self.layer(x) * scale
        return (out,) if self.kind == "tuple" else out


def stacked_and_turned(output: Any) -> Tensor:
    return -torch.stack(output[0]).squeeze(1)


AFTER: dict[str, tuple[str, Callable[[Any], Tensor]]] = {
    "as it is": ("tensor", lambda out: out),
    "the first of a tuple": ("tuple", lambda out: out[0]),
    "a list, stacked and turned": ("list", stacked_and_turned),
    "unpacked": ("tensor", lambda out: FluxPipeline._unpack_latents(out[:, :, :4], 8, 8, 2)),
    "cropped, in half precision": ("tensor", lambda out: out[:, :2].to(torch.bfloat16).float()),
    "the instance half": ("tensor", lambda out: out.chunk(2, dim=0)[0]),
    "preconditioned": ("tensor", lambda out: 3.0 - 0.5 * out),
}


@pytest.mark.parametrize("name", list(AFTER))
def test_the_base_s_prediction_is_what_the_loop_would_have_made_of_it(name: str) -> None:
    kind, after = AFTER[name]
    net = Net(kind)
    recorded = Recorded(net, net, None, nullcontext)
    base = frozen(net)
    x: Any = torch.randn(4, 4, 6)
    if kind == "list":
        x = list(torch.randn(4, 1, 6).unbind())
    with torch.no_grad():
        net.layer.weight += 0.1 * torch.randn(6, 6)
    prediction = after(net(x, scale=2.0))
    found = recorded.reference(prediction)
    with torch.no_grad():
        expected, before = after(base(x, scale=2.0)), prediction.detach()
    assert found.shape == expected.shape and not found.requires_grad
    assert torch.allclose(found, expected, atol=1e-2 if "half" in name and "precision" in name else 1e-6)
    assert not torch.allclose(found, before, atol=1e-3)
    prediction.square().sum().backward()  # the graph is still there
    assert net.layer.weight.grad is not None


def test_a_lora_switched_off_is_the_base() -> None:
    net = Net()
    inject_adapter_in_model(LoraConfig(target_modules=["layer"], r=2, init_lora_weights=False), net, "default")
    net.requires_grad_(False)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("lora" in name)
    recorded = Recorded(net, net, None, nullcontext)
    x = torch.randn(2, 6)
    prediction = net(x)
    found = recorded.reference(prediction)
    assert torch.allclose(found, net.layer.base_layer(x), atol=1e-6) and not torch.allclose(found, prediction)
    prediction.sum().backward()
    assert all(p.grad is not None for n, p in net.named_parameters() if "lora_B" in n), "it is on again"


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    for state in (AcceleratorState, GradientState):
        state._reset_state()
    yield
    for state in (AcceleratorState, GradientState):
        state._reset_state()


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_copy_stays_what_it_was_where_accelerate_has_bound_its_forward() -> None:
    net = Accelerator(cpu=True, mixed_precision="bf16").prepare(Net())
    copied, x = frozen(net), torch.randn(2, 6)
    before = copied(x)
    with torch.no_grad():
        net.layer.weight += 1.0
    assert torch.equal(copied(x), before) and not torch.allclose(net(x).float(), before, atol=0.1)
    assert not any(parameter.requires_grad for parameter in copied.parameters()) and not copied.training


def test_another_network_or_a_context_may_be_the_base() -> None:
    """For adapters that peft knows nothing of."""
    net, other, x = Net(), Net(), torch.randn(2, 6)
    with torch.no_grad():
        other.layer.weight += 1.0
    recorded = Recorded(net, net, other, nullcontext)
    assert torch.allclose(recorded.reference(net(x)), other(x), atol=1e-6)

    @contextmanager
    def off() -> Iterator[None]:
        kept, net.layer = net.layer, other.layer
        yield
        net.layer = kept

    recorded = Recorded(net, net, off, nullcontext)
    prediction = net(x)
    assert torch.allclose(recorded.reference(prediction), other(x), atol=1e-6)
    assert torch.equal(net(x), prediction)


def test_forwards_that_are_not_trained_are_none_of_it() -> None:
    net = Net()
    recorded = Recorded(net, net, None, nullcontext)
    with pytest.raises(RuntimeError, match="was not called with gradients"):
        recorded.reference(torch.zeros(1))
    x = torch.randn(2, 6)
    prediction = net(x)
    with torch.no_grad():
        net(torch.zeros(5, 6))
    assert torch.allclose(recorded.reference(prediction), prediction.detach())
    with pytest.raises(RuntimeError, match="call loss once for each forward"):
        recorded.reference(prediction)


def test_a_prediction_of_something_else_is_refused() -> None:
    net, other = Net(), Net()
    recorded = Recorded(net, net, None, nullcontext)
    x = torch.randn(2, 6)
    net(x)
    with pytest.raises(ValueError, match="was not made of the output"):
        recorded.reference(other(x) * 2)


def test_of_several_outputs_those_that_count_are_carried() -> None:
    one, two = (torch.randn(3, requires_grad=True) for _ in range(2))
    change = [torch.ones(3), torch.full((3,), 5.0)]
    assert torch.equal(carried(one.flip(0) * 2, [one, two], change), torch.full((3,), 2.0))
    assert torch.equal(carried(one - two, [one, two], change), torch.full((3,), -4.0))
