"""The fine-tuned model is written whole or not at all, and an earlier export stands until then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from memsieve.filtering.denoisers.lora import trained_parameters
from memsieve.inference.base import base_of_model
from memsieve.inference.opened import open_model
from memsieve.train.config import RunConfig
from memsieve.train.export import ExportError, export
from memsieve.train.loop import fit
from memsieve.train.set_up import set_up
from tests.filtering.denoisers.ldm import save_ldm
from tests.train.test_finish import no_room_for

MakeConfig = Callable[..., RunConfig]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_an_export_that_fails_leaves_the_earlier_one_and_says_what_to_do(
    make_config: MakeConfig, lora: dict[str, int] | None
) -> None:
    session = set_up(make_config(model={"lora": lora}, filter={"enabled": False}))
    final = session.config.output / ("lora" if lora else "pipeline")
    left = final.with_name(f"unfinished-{final.name}")
    left.mkdir(parents=True)
    (left / "half").write_text("of an export that was killed")
    export(session)
    before = contents(final)
    assert before and "half" not in before and not left.exists()
    with torch.no_grad():
        for parameter in trained_parameters(session.model):
            parameter.add_(1.0)
    session.step, session.saved = 7, 3
    with no_room_for(2_000), pytest.raises(ExportError) as failed:
        export(session)
    assert str(failed.value).startswith(f"'{final}' could not be written: ")
    assert str(failed.value).endswith("make room, and the same command goes on from the last checkpoint")
    session.saved = 7
    with (
        no_room_for(2_000),
        pytest.raises(ExportError, match=r"whole in checkpoints/step-00000007: make room, and"),
    ):
        export(session)
    assert contents(final) == before and not left.exists()
    export(session)
    assert contents(final).keys() == before.keys() and contents(final) != before


def test_what_is_exported_is_the_average_where_there_is_one(make_config: MakeConfig) -> None:
    session = set_up(make_config(model={"ema": True}, filter={"enabled": False}))
    assert session.ema is not None
    with torch.no_grad():
        for average, parameter in zip(session.ema.shadow_params, trained_parameters(session.model), strict=True):
            average.copy_(parameter + 1.0)
    wanted = [average.clone() for average in session.ema.shadow_params]
    export(session)
    written = UNet2DConditionModel.from_pretrained(session.config.output / "pipeline" / "unet")
    assert all(torch.equal(a, b) for a, b in zip(written.parameters(), wanted, strict=True))


def test_a_checkpoint_in_one_file_is_trained_and_written_as_a_pipeline(
    make_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    """The pipeline names its base: the run's config has the file, and the folder of its configs."""
    pipe = DiffusionPipeline.from_pretrained(tiny_model)
    named = f"{save_ldm(pipe, tmp_path / 'model.safetensors')}::{tiny_model}"
    session = set_up(make_config(model={"path": named}, train={"steps": 1}, filter={"enabled": False}))
    fit(session)
    export(session)
    folder = session.config.output / "pipeline"
    assert base_of_model(folder) == named
    model = open_model(folder, base=named)
    assert model.base is not None and model.base.same_text
    before, after = (part.state_dict() for part in (model.base.network, model.denoiser.model))
    assert all(torch.equal(value, pipe.unet.state_dict()[name]) for name, value in before.items())
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
