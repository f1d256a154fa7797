"""A run's settings: what contradicts itself, or would be ignored, is refused with the sentence that helps."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from memsieve.train.config import ModelConfig, OptimizerConfig, TrainConfig


@pytest.mark.parametrize(
    ("settings", "values", "sentence"),
    [
        (OptimizerConfig, {"name": "sgd", "betas": (0.8, 0.99)}, r"optimizer\.betas is Adam's"),
        (OptimizerConfig, {"name": "sgd", "eps": 1e-6}, r"optimizer\.eps is Adam's"),
        (TrainConfig, {"steps": 1, "logit_std": 0.5}, r"train\.logit_std: 0\.5 shapes .* logit_normal"),
        (TrainConfig, {"steps": 1, "logit_mean": 0.5}, r"train\.logit_mean: 0\.5 shapes .* logit_normal"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(settings: Any, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        settings(**values)


@pytest.mark.parametrize("values", [{}, {"steps": 3, "epochs": 1}])
def test_a_run_is_as_long_as_either_its_steps_or_its_epochs(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"give either train\.steps or train\.epochs"):
        TrainConfig(**values)


def test_the_word_no_is_a_precision_though_yaml_reads_it_as_false() -> None:
    read = yaml.safe_load("{steps: 1, mixed_precision: no}")
    assert read["mixed_precision"] is False and TrainConfig(**read).mixed_precision == "no"
    assert TrainConfig(steps=1).mixed_precision is None, "the launcher's"


def test_what_shapes_a_logit_normal_is_taken_where_that_is_drawn_from() -> None:
    shaped = TrainConfig(steps=1, timestep_weighting="logit_normal", logit_mean=0.5, logit_std=0.5)
    assert (shaped.logit_mean, shaped.logit_std) == (0.5, 0.5)
    assert TrainConfig(steps=1, logit_mean=0.0, logit_std=1.0).timestep_weighting == "uniform", "as it would be anyway"


def test_a_constant_learning_rate_warms_up_where_that_is_asked_for() -> None:
    """Diffusers' ``constant`` takes no notice of a warm-up."""
    assert OptimizerConfig(warmup_steps=5).scheduler == "constant_with_warmup"
    assert OptimizerConfig(schedule="linear", warmup_steps=5).scheduler == "linear"
    assert OptimizerConfig().scheduler == "constant"


def test_half_precision_is_for_what_is_frozen() -> None:
    with pytest.raises(ValueError, match=r"model\.dtype: bfloat16 is for the frozen network .*: set model\.lora, or"):
        ModelConfig(path="m", dtype="bfloat16")
    assert ModelConfig.model_validate({"path": "m", "dtype": "bfloat16", "lora": {}}).lora is not None


def test_a_learning_rate_that_would_stop_prodigy_is_refused() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.lr: 1e-05 multiplies the step size that prodigy finds"):
        OptimizerConfig(name="prodigy")
    assert OptimizerConfig(name="prodigy", lr=0.1).lr == 0.1
