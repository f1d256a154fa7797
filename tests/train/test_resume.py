"""What may differ from the run that wrote a checkpoint, and what a resumed run takes from where."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from memsieve.filtering.settings import SettingsError
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.resume import FREE, FREE_SECTIONS, keep_config
from memsieve.train.set_up import set_up

MakeConfig = Callable[..., RunConfig]
ROOT = Path(__file__).parents[2]
SAVING: dict[str, Any] = {"checkpoint": {"every": 500, "final": True}}
PLAIN: dict[str, Any] = {**SAVING, "filter": {"enabled": False}}
ALONE = SimpleNamespace(wait_for_everyone=lambda: None, is_main_process=True)


def test_a_longer_run_plans_its_learning_rate_anew(make_config: MakeConfig) -> None:
    config = make_config(**PLAIN, train={"steps": 3}, optimizer={"lr": 1e-3, "schedule": "cosine"})
    fit(set_up(config))
    config.train.steps = 6
    session = set_up(config)
    half = 1e-3 * 0.5 * (1 + math.cos(math.pi * 3 / 6))
    assert session.schedule.get_last_lr() == pytest.approx([half])
    assert [group["lr"] for group in session.optimizer.param_groups] == pytest.approx([half])
    fit(session)
    assert session.schedule.get_last_lr() == pytest.approx([0.0])


SPEAKS_WHILE_TRAINING = [
    *(f"train/{name}.py" for name in ("loop", "step", "finish", "export", "stop", "watchdog", "batch")),
    *(f"filtering/data/{name}.py" for name in ("archives", "decode", "fields", "rows")),
    "filtering/rules/evidence.py",
]
NAMED_NOT_ADVISED = {"filter.max_drop_fraction"}
CHANGED: dict[str, Any] = {
    "train.steps": 7, "train.threads": None, "train.timeout": 99.0, "train.mixed_precision": "bf16", "data.workers": 2,
    "optimizer.lr": 5e-4, "data.max_bad": 3, "data.image_key": "png;bmp", "data.caption_key": "txt;caption",
    "data.allow_empty_caption": True, "data.allow_pipe": True, "data.max_caption_bytes": 9999,
    "filter.retire_until": 0.2, "data.max_image_bytes": 99999, "data.max_image_pixels": 99999,
}  # fmt: skip


def strings_of(path: Path) -> list[str]:
    """The messages of a module: its string expressions, docstrings apart."""
    tree = ast.parse(path.read_text())
    apart = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
    wanted = (ast.JoinedStr, ast.Constant)
    found = [node for node in ast.walk(tree) if isinstance(node, wanted) and id(node) not in apart | parts]
    return [ast.unparse(node) for node in found]


@pytest.mark.parametrize("module", SPEAKS_WHILE_TRAINING)
def test_what_a_message_advises_while_training_may_change_on_resume(module: str) -> None:
    for text in strings_of(ROOT / module):
        named = set(re.findall(r"\b(?:train|data|optimizer|model|filter)\.[a-z_]+\b", text)) - NAMED_NOT_ADVISED
        assert named <= FREE or "in a new run" in text.replace("' '", ""), f"{module} names {named - FREE}: {text}"


def test_all_that_may_change_does_change(make_config: MakeConfig, other_process: Callable[[], None]) -> None:
    config = make_config(**PLAIN, train={"steps": 2}, data={"streams": 0})
    fit(set_up(config))
    other_process()
    changed = config.model_copy(deep=True)
    for name, value in CHANGED.items():
        section, _, field = name.partition(".")
        setattr(getattr(changed, section), field, value)
    elsewhere = {
        "train.cache",
        "train.epochs",
        "train.batch_size",
        "train.accumulation",
    }  # the cache, other ranks, above
    assert set(CHANGED) == FREE - elsewhere
    session = set_up(changed)
    assert session.step == 2 and session.optimizer.param_groups[0]["lr"] == 5e-4
    assert session.accelerator.mixed_precision == "bf16"
    fit(session)
    assert session.step == 7 and session.schedule.get_last_lr() == [5e-4]


def test_bad_config_of_a_resume_is_refused(make_config: MakeConfig) -> None:
    config = make_config(checkpoint={"every": 2})
    fit(set_up(config))
    config.optimizer.weight_decay = 2e-3
    with pytest.raises(ValueError, match=r"'optimizer\.weight_decay' is 0\.002 but the run .* was started with 0\.01"):
        set_up(config)


def test_a_refusal_names_the_first_setting_and_leaves_the_file_as_it_was(make_config: MakeConfig) -> None:
    config = make_config()
    keep_config(config, ALONE, resumed=False)
    file = config.output / "config.yaml"
    before = file.read_bytes()
    config.train.seed, config.data.shuffle_buffer = 9, 8
    with pytest.raises(SettingsError, match=r"'data\.shuffle_buffer' is 8 but the run .* started with 16: use that"):
        keep_config(config, ALONE, resumed=True)
    assert file.read_bytes() == before
    keep_config(config, ALONE, resumed=False)  # nothing was saved before, so that this is another run
    assert yaml.safe_load(file.read_text())["train"]["seed"] == 9


def test_what_decides_nothing_may_change_as_it_likes_and_is_written_down(make_config: MakeConfig) -> None:
    config = make_config()
    keep_config(config, ALONE, resumed=False)
    config.validation.every, config.checkpoint.keep, config.tracking.top_k = 7, 5, 3
    keep_config(config, ALONE, resumed=True)
    saved = yaml.safe_load((config.output / "config.yaml").read_text())
    assert (saved["validation"]["every"], saved["checkpoint"]["keep"], saved["tracking"]["top_k"]) == (7, 5, 3)
    sections = set(type(config).model_fields)
    assert sections > FREE_SECTIONS and {name.partition(".")[0] for name in FREE} <= sections - FREE_SECTIONS


def test_a_folder_whose_config_went_away_is_gone_on_with(make_config: MakeConfig) -> None:
    config = make_config()
    keep_config(config, ALONE, resumed=True)
    assert (config.output / "config.yaml").is_file()


def test_a_complete_run_is_begun_anew_by_nobody(make_config: MakeConfig) -> None:
    config = make_config()
    config.output.mkdir()
    (config.output / "summary.json").write_text("{}")
    with pytest.raises(SettingsError, match=r"complete and has no checkpoint to go on from .*name another output"):
        keep_config(config, ALONE, resumed=False)
    assert [path.name for path in config.output.iterdir()] == ["summary.json"]
    keep_config(config, ALONE, resumed=True)
