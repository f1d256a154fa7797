"""Prior preservation: what the base draws, when, and how it is trained on beside the pairs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memsieve.filtering.settings import SettingsError
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit, window_batches
from memsieve.train.prior import HELD_OUT_EACH, Prior
from memsieve.train.session import Session
from memsieve.train.set_up import set_up

MakeConfig = Callable[..., RunConfig]
PRIOR: dict[str, Any] = {"prompts": ["class a", "class b"], "pictures": 10, "steps": 2, "guidance_scale": 2.0}
OFF = {"enabled": False}


def weights(session: Session) -> torch.Tensor:
    return torch.cat([p.detach().flatten().cpu() for p in session.model.parameters()])


def kept(config: RunConfig) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted((config.output / "prior").rglob("*.png"))}


def test_the_base_draws_them_once_and_what_is_missing_is_drawn_anew(make_config: MakeConfig) -> None:
    config = make_config(filter=OFF, prior=PRIOR)
    assert set_up(config).prior is not None
    first = kept(config)
    assert len(first) == 10 and len(set(first.values())) == 10, "each from noise of its own"
    gone = list(first)[4]
    times = {file: file.stat().st_mtime_ns for file in first}
    gone.unlink()
    prior = set_up(config).prior
    assert prior is not None and kept(config) == first
    assert [file.stat().st_mtime_ns == times[file] for file in list(first)[8:]] == [True, True]
    assert len(prior.held_out) == 2 and len(prior.trained) == 8
    assert {row.caption for row in prior.held_out} <= set(PRIOR["prompts"])


def test_ranks_share_out_what_one_process_sees_and_all_come_round(make_config: MakeConfig) -> None:
    config = make_config(filter=OFF, prior=PRIOR)
    session = set_up(config)
    batches = window_batches(session, next(iter(session.loader)))
    files = list(kept(config).values())

    def seen(prior: Prior, step: int, parts: list[Any]) -> list[tuple[str, int]]:
        found = prior.beside(session.denoiser, parts, step)
        return [(v.key, int(t)) for b in found for v, t in zip(b.prior.visits, b.prior.timesteps, strict=True)]

    alone = [one for step in range(3) for one in seen(Prior(config, files, 0, 1), step, batches)]
    half = [_half(batches[0])]
    ranks = [one for step in range(3) for rank in (0, 1) for one in seen(Prior(config, files, rank, 2), step, half)]
    assert sorted(alone) == sorted(ranks) and len(alone) == 24
    assert set(Counter(key for key, _ in alone).values()) == {3}, "eight pictures, three times each"
    assert not {key for key, _ in alone} & {f"prior-{i:05d}" for i in range(HELD_OUT_EACH - 1, 10, HELD_OUT_EACH)}


def _half(batch: Any) -> Any:
    from dataclasses import replace

    return replace(batch, visits=batch.visits[:4])


def test_their_mean_loss_times_the_weight_is_added(make_config: MakeConfig) -> None:
    """Of the gradient before clipping: with a weight of w it is that of the pairs and w times the prior's."""
    norms = {}
    for weight in (1.0, 2.0, 1e-9):
        config = make_config(f"w{weight}", filter=OFF, prior={**PRIOR, "weight": weight})
        session = set_up(config)
        step, found = session.trainer._step, []

        def noted(session: Session = session, found: list[Any] = found, step: Any = step) -> Any:
            found.append(torch.cat([p.grad.flatten().clone() for p in session.model.parameters()]))
            return step()

        session.trainer._step = noted  # type: ignore[method-assign]
        batches = window_batches(session, next(iter(session.loader)))
        assert session.prior is not None
        result = session.trainer.train(session.prior.beside(session.denoiser, batches, 0))
        assert result.prior_loss > 0 and result.loss > 0
        norms[weight] = found[0]
    prior = norms[1.0] - norms[1e-9]
    assert prior.norm() > 0.01 * norms[1e-9].norm()
    assert torch.allclose(norms[2.0], norms[1e-9] + 2 * prior, atol=1e-5)


def test_a_window_without_a_kept_pair_is_trained_on_its_class_pictures(make_config: MakeConfig) -> None:
    names = [f"{i:05d}" for i in range(48)] + [f"copy{i:04d}" for i in range(16)]
    sections: dict[str, Any] = {"filter": {"always_drop": names}, "train": {"steps": 2}}
    alone, beside = set_up(make_config("alone", **sections)), set_up(make_config("beside", prior=PRIOR, **sections))
    before = weights(alone)
    assert fit(alone)["updates"] == 0 and torch.equal(weights(alone), before)
    summary = fit(beside)
    assert summary["updates"] == 2 and summary["trained"] == 0 and not torch.equal(weights(beside), before)


def test_a_resumed_run_goes_on_exactly_and_the_curve_is_there(make_config: MakeConfig) -> None:
    sections: dict[str, Any] = {"filter": {"policy": "retire", "copy_rate": 0.1}, "prior": PRIOR}
    sections |= {"checkpoint": {"final": True}, "tracking": {"log_every": 1}}
    whole = set_up(make_config("whole", train={"steps": 6}, **sections))
    fit(whole)
    fit(set_up(make_config("part", train={"steps": 3}, **sections)))
    rest = set_up(make_config("part", train={"steps": 6}, **sections))
    assert rest.step == 3
    fit(rest)
    assert torch.equal(weights(whole), weights(rest))
    rows = [json.loads(line) for line in (whole.config.output / "metrics.jsonl").read_text().splitlines()]
    assert len([row for row in rows if row.get("train/prior_loss", 0) > 0]) == 6


def test_held_out_class_pictures_are_controls_of_one_caption_for_all(make_config: MakeConfig) -> None:
    """A trigger word leaves no held-out caption of its own: class prompts stand in its place, each from other noise."""
    config = make_config(filter={"policy": "retire"}, prior=PRIOR, data={"held_out_path": None, "held_out_fraction": 0})
    probe = set_up(config).recall
    assert probe is not None and {row.caption for row in probe.held_out} <= {"class a", "class b"}
    unseen = []
    for _ in range(3):
        asked = [one for one in probe._chosen() if not one[2]]
        unseen += asked
        probe.rule.evidence.add_held_out([0.0] * len(asked))
    assert len(set(unseen)) == len(unseen) >= 3


def test_a_caption_of_the_pairs_is_no_class(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(filter={"policy": "retire"}, prior={**PRIOR, "prompts": ["pair 3"]},
                         model={"path": str(tmp_path / "no model")})  # fmt: skip
    with pytest.raises(
        SettingsError, match=r"prior\.prompts: 'pair 3' is a caption of training pairs.* name the class"
    ):
        set_up(config)
    with pytest.raises(ValueError, match="an empty prompt names no class"):
        make_config(prior={"prompts": [" "]})


def test_a_lora_is_begun_from_the_base_that_draws(make_config: MakeConfig) -> None:
    whole = make_config("whole", filter=OFF, prior=PRIOR)
    lora = make_config("lora", filter=OFF, prior=PRIOR, model={"lora": {"rank": 2}}, train={"steps": 2})
    set_up(whole)
    fit(set_up(lora))
    assert list(kept(whole).values()) == list(kept(lora).values())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3"])
def test_two_ranks_are_one_process(engine: str, make_config: MakeConfig, run_ranks: Callable[..., Any]) -> None:
    sections: dict[str, Any] = {"filter": OFF, "prior": PRIOR, "data": {"streams": 2}, "train": {"steps": 4}}
    sections |= {"optimizer": {"lr": 1e-3, "name": "sgd"}, "checkpoint": {"final": True}}
    alone = set_up(make_config("alone", **sections))
    fit(alone)
    config = make_config("two", **{**sections, "train": {"steps": 4, "batch_size": 4}})
    runs = run_ranks(engine, [{"name": "two", "config": json.loads(config.model_dump_json())}])
    state = runs.state("two")["weights"]
    mine = dict(alone.accelerator.unwrap_model(alone.model).named_parameters())
    assert set(state) == set(mine)
    assert all(torch.allclose(state[name].cpu(), mine[name].detach(), atol=2e-5) for name in mine)
