"""Every shipped training config loads, and opens with what a reader needs to know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from memsieve.filtering.rules import ThresholdRule
from memsieve.filtering.settings import load_settings
from memsieve.train.config import RunConfig

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs" / "train").rglob("*.yaml"))


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 5


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_loads_and_has_a_header(path: Path) -> None:
    config = load_settings(RunConfig, path)
    head = path.read_text().split("output:")[0]
    for word in ("Launch:", "Hardware:", "Duration:", "Expected:", path.name):
        assert word in head, word
    assert config.train.steps or config.train.epochs


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl", "sd3", "flux", "pixart", "sana"])
def test_a_familys_config_says_what_is_estimated_and_not_measured(name: str) -> None:
    path = ROOT / "configs" / "train" / f"{name}.yaml"
    head = path.read_text().split("output:")[0]
    said = " ".join(head.replace("#", " ").split())
    memory, expected = said.split("Memory:")[1].split("Duration:")[0], said.split("Expected:")[1]
    assert "(estimated)" in memory and "(estimated)" in said.split("Hardware:")[1].split("Memory:")[0]
    assert expected.strip().startswith("not measured") and "square" in said
    config = load_settings(RunConfig, path)
    distilled = name == "flux"
    assert ("magnitude" in config.filter.measured) == (not distilled)
    flow = name in ("sd3", "flux", "sana")
    assert config.train.snr_gamma is None or not flow
    if distilled:  # looked up in the audit that the header makes
        assert config.filter.audits and config.filter.audits[0] in said and "--seed 0" in said
        assert f"text_encoder_dtype={config.model.text_encoder_dtype}" in said and config.train.seed == 0


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_launch_config_says_how_it_is_launched(path: Path) -> None:
    head = path.read_text().split("compute_environment:")[0]
    assert "Launch:" in head and "Hardware:" in head and f"--config_file configs/accelerate/{path.name}" in head
    settings = yaml.safe_load(path.read_text()).get("deepspeed_config", {})
    if settings:
        file = ROOT / settings["deepspeed_config_file"]
        assert json.loads(file.read_text())["_launch"].startswith("accelerate launch --config_file configs/accelerate/")


def test_the_papers_settings() -> None:
    """Wen et al.'s training-time mitigation: every sample, in the batch, tau = 2, mean over the kept."""
    config = load_settings(RunConfig, ROOT / "configs" / "train" / "wen2024.yaml")
    f = config.filter
    assert (f.signals, f.rule, f.threshold, f.policy) == (["magnitude"], "threshold", 2.0, "drop")
    assert ThresholdRule.divides_by == "kept"
    assert (config.optimizer.lr, config.train.batch_size, config.train.steps) == (1e-5, 8, 20000)
    assert config.train.mixed_precision == "fp16" and config.model.ema and config.optimizer.schedule == "constant"
    soft = load_settings(RunConfig, ROOT / "configs" / "train" / "wen2024_reweight.yaml")
    assert soft.filter.policy == "reweight" and soft.filter.threshold == 2.0
    anchored = load_settings(RunConfig, ROOT / "configs" / "train" / "wen2024_anchored.yaml")
    assert anchored.filter.signals == ["anchored_magnitude"] and anchored.filter.rule == "threshold"
    assert anchored.filter.threshold == pytest.approx(2.0 / (4 * 64 * 64) ** 0.5, rel=0.01)
