"""Checkpoints are there whole or not at all, the newest are kept, and they hold what is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from memsieve.train.checkpoint import (
    _goes_on_as,
    latest_checkpoint,
    leave_out_frozen,
    load_checkpoint,
    load_extra,
    save_checkpoint,
    saved_steps,
)
from memsieve.train.config import RunConfig
from memsieve.train.engine import Engine
from memsieve.train.loop import fit
from memsieve.train.set_up import set_up

MakeConfig = Callable[..., RunConfig]


def network(frozen: bool = True) -> torch.nn.Module:
    """Two layers, of which the first is not trained."""
    made = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    made[0].requires_grad_(not frozen)
    return made


def prepared(model: torch.nn.Module) -> Any:
    accelerator = Accelerator(cpu=True)
    leave_out_frozen(accelerator, model)
    accelerator.prepare(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1))
    return accelerator


def test_what_was_left_of_a_save_is_removed_at_the_next_start(make_config: MakeConfig) -> None:
    config = make_config(checkpoint={"final": True}, filter={"enabled": False}, train={"steps": 1})
    fit(set_up(config))
    for step in (1, 7):
        left = config.output / "checkpoints" / f"unfinished-{step:08d}"
        left.mkdir()
        (left / "model.safetensors").write_bytes(b"half")
    set_up(config)
    assert [path.name for path in (config.output / "checkpoints").iterdir()] == ["step-00000001"]


def test_a_checkpoint_of_other_ranks_or_another_engine(tmp_path: Path) -> None:
    torch.save({"engine": str(Engine("zero2"))}, tmp_path / "memsieve-rank0.pt")
    one = SimpleNamespace(num_processes=1, process_index=0)
    assert load_extra(one, tmp_path, str(Engine("zero2")))["engine"] == "zero2, mixed precision no"
    with pytest.raises(ValueError, match="by zero2, mixed precision no and this run is ddp, mixed precision bf16"):
        load_extra(one, tmp_path, str(Engine("ddp", precision="bf16")))
    two = SimpleNamespace(num_processes=2, process_index=0)
    with pytest.raises(ValueError, match="by 1 ranks and this run has 2, and DeepSpeed .*: launch with 1 processes"):
        load_extra(two, tmp_path, str(Engine("zero2")))


def test_a_checkpoint_of_another_adapter_is_refused(make_config: MakeConfig) -> None:
    config = make_config(
        "other", model={"lora": {"rank": 4, "alpha": 2}}, checkpoint={"every": 3, "export": False}, train={"steps": 3}
    )
    fit(set_up(config))
    (file,) = (config.output / "checkpoints").glob("step-*/model.safetensors")
    weights = load_file(file)
    del weights[sorted(weights)[0]]
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"lacks '.*lora_A.*', which the model trains"):
        set_up(config)


def test_only_whole_checkpoints_are_found_and_the_newest_are_kept(tmp_path: Path) -> None:
    assert saved_steps(tmp_path) == [] and latest_checkpoint(tmp_path) is None
    accelerator = prepared(network())
    for step in (9, 10, 100):
        folder = save_checkpoint(accelerator, tmp_path, step, {"step": step}, keep=2)
        assert folder == latest_checkpoint(tmp_path)
    for name in ("unfinished-00000200", "step-200", "step-00000200.old", "step-0000020x"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert saved_steps(tmp_path) == [10, 100] and latest_checkpoint(tmp_path) == folder
    save_checkpoint(accelerator, tmp_path, 300, {"step": 300}, keep=None)
    assert saved_steps(tmp_path) == [10, 100, 300], "all stay where no number is given"


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    accelerator = prepared(network())
    save_checkpoint(accelerator, tmp_path, 4, {"step": 4}, keep=1)
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(accelerator, tmp_path, 5, {"step": lambda: None}, keep=1)
    assert saved_steps(tmp_path) == [4]
    save_checkpoint(accelerator, tmp_path, 5, {"step": 5}, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]


def test_a_step_that_is_saved_again_is_what_it_was_saved_as_last(tmp_path: Path) -> None:
    accelerator = prepared(network())
    for number in (1, 2):
        save_checkpoint(accelerator, tmp_path, 4, {"engine": "single", "number": number}, keep=1)
    folder = latest_checkpoint(tmp_path)
    assert folder is not None and load_extra(accelerator, folder, "single")["number"] == 2


def test_what_is_frozen_is_neither_saved_nor_changed_by_a_load(tmp_path: Path) -> None:
    model = network()
    folder = save_checkpoint(prepared(model), tmp_path, 1, {}, keep=1)
    assert set(load_file(folder / "model.safetensors")) == {"1.weight", "1.bias"}
    other = network()
    before = other[0].weight.detach().clone()  # type: ignore[index]
    load_checkpoint(prepared(other), folder, other)
    assert torch.equal(other[1].weight, model[1].weight)  # type: ignore[index]
    assert torch.equal(other[0].weight, before) and not torch.equal(before, model[0].weight)  # type: ignore[index]


def test_a_checkpoint_holds_exactly_what_is_trained_or_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(prepared(network()), tmp_path, 1, {}, keep=1)
    whole = network(frozen=False)
    with pytest.raises(ValueError, match=r"lacks '0\.bias', which the model trains: resume with the model and"):
        load_checkpoint(prepared(whole), folder, whole)
    smaller = torch.nn.Sequential(torch.nn.Linear(2, 3))
    smaller[0].requires_grad_(False)
    with pytest.raises(ValueError, match=r"has '1\.bias', which the model does not have"):
        load_checkpoint(Accelerator(cpu=True), folder, smaller)


@pytest.mark.parametrize(
    ("before", "now", "fits"),
    [
        (Engine("single"), Engine("single"), True),
        (Engine("ddp", precision="fp16"), Engine("ddp", precision="no"), True),
        (Engine("ddp", precision="no"), Engine("ddp", precision="bf16"), True),
        (Engine("ddp", precision="no"), Engine("ddp", precision="fp16"), False),  # its scaler has a state of its own
        (Engine("single"), Engine("ddp"), True),  # on another number of ranks
        (Engine("ddp", precision="fp16"), Engine("single", precision="fp16"), True),
        (Engine("single"), Engine("zero1"), False),
        (Engine("zero1"), Engine("single"), False),
        (Engine("zero2", precision="bf16"), Engine("zero2", precision="bf16"), True),
        (Engine("zero2", precision="bf16"), Engine("zero2", precision="no"), False),
        (Engine("zero2"), Engine("zero3"), False),
    ],
    ids=lambda value: str(value),
)
def test_a_run_goes_on_otherwise_where_no_state_hangs_on_it(before: Engine, now: Engine, fits: bool) -> None:
    assert _goes_on_as(str(before), str(now)) is fits
