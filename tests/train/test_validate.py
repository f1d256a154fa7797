"""Validation: by the averaged weights, which go away again, and with captions that all ranks know alike."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from memsieve.train.config import RunConfig
from memsieve.train.probes import held_out_loss, probe_magnitude
from memsieve.train.seen import SeenSamples
from memsieve.train.session import Session
from memsieve.train.set_up import set_up
from memsieve.train.validate import _probes, known_samples, validate
from tests.train.forked import on_two_ranks

MakeConfig = Callable[..., RunConfig]


def logged(session: Session) -> dict[str, float]:
    file = session.config.output / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {name: value for row in rows for name, value in row.items() if name.startswith("val/")}


def test_the_averaged_weights_are_validated_and_training_goes_on_with_its_own(make_config: MakeConfig) -> None:
    validation = {"prompts": ["pair 1", "pair 2"], "sampling_steps": 1, "held_out_pairs": 4, "held_out_draws": 2}
    session = set_up(make_config(model={"ema": True}, filter={"enabled": False}, validation=validation))
    assert session.ema is not None
    with torch.no_grad():
        for average in session.ema.shadow_params:
            average.mul_(0.5)
    own = [p.detach().clone() for p in session.model.parameters()]
    session.step = 5
    found = validate(session)
    assert all(torch.equal(a, b) for a, b in zip(own, session.model.parameters(), strict=True))
    assert session.model.training and session.validated == 5
    options = {"seed": 3, "resolution": 16, "draws": 2, "batch_size": 16}
    by_own = held_out_loss(session.denoiser, session.model, session.held_out[:4], **options)
    session.ema.copy_to(session.model.parameters())
    by_average = held_out_loss(session.denoiser, session.model, session.held_out[:4], **options)
    assert found == pytest.approx(by_average, rel=1e-5) and abs(found - by_own) > 1e-3
    assert logged(session)["val/heldout_loss"] == found and logged(session)["val/probe_magnitude"] > 0
    (drawn,) = (session.config.output / "samples").iterdir()
    assert drawn.name == "step-000005.png" and Image.open(drawn).size == (32, 16)


def test_without_held_out_pairs_and_prompts_there_is_no_number(make_config: MakeConfig) -> None:
    session = set_up(make_config(filter={"enabled": False}, validation={"held_out_pairs": 0}))
    assert math.isnan(validate(session)) and logged(session) == {}
    assert not (session.config.output / "samples").exists()


def test_suspects_are_asked_by_the_captions_that_were_read(make_config: MakeConfig) -> None:
    session = set_up(make_config())
    assert session.filter is not None and _probes(session, session.model) == {}, "nobody is suspected yet"
    session.filter.groups.rows(["known", "without a caption", "never read"], 1)
    assert _probes(session, session.model) == {}, "nothing is known of them"
    session.records.seen.note("known", "k", "s.tar", "pair 1")
    session.records.seen.note("without a caption", "l", "s.tar", "")
    wanted = probe_magnitude(session.denoiser, session.model, ["pair 1"], seed=3, resolution=16)
    assert _probes(session, session.model) == {"val/suspects_magnitude": wanted}


def test_a_distilled_model_has_no_magnitude_to_ask_for(make_family: MakeConfig) -> None:
    session = set_up(make_family("flux", validation={"prompts": ["cat"]}))
    assert _probes(session, session.model) == {}


def test_all_ranks_know_the_first_ranks_sample_of_a_group(tmp_path: Path, a_port: int) -> None:
    def work(rank: int, accelerator: Any) -> dict[str, list[str]]:
        seen = SeenSamples(tmp_path / str(rank))
        seen.note("both", f"key {rank}", "s.tar", f"caption {rank}")
        seen.note(f"of {rank}", "key", "s.tar", "its own")
        session: Any = SimpleNamespace(records=SimpleNamespace(known=seen.find))
        return known_samples(session, ["both", "of 0", "of 1", "nobody's"])

    own = ["key", "s.tar", "its own"]
    known = on_two_ranks(work, a_port)
    assert known == [{"both": ["key 0", "s.tar", "caption 0"], "of 0": own, "of 1": own}] * 2
