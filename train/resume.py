"""Going on from a checkpoint: what may differ from the run that wrote it, and what is taken from where."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from memsieve.filtering.files import write_whole
from memsieve.filtering.gone import GONE, changed_since, in_todays_words
from memsieve.filtering.settings import SettingsError
from memsieve.train.checkpoint import load_checkpoint, remove_unfinished
from memsieve.train.config import RunConfig
from memsieve.train.session import Session

__all__ = ["FREE", "FREE_SECTIONS", "keep_config", "restore"]

FREE_SECTIONS: Final = frozenset({"checkpoint", "output", "tracking", "validation"})
"""They decide nothing."""
FREE: Final = frozenset(
    {
        # how long, and by what means
        "train.batch_size", "train.accumulation",  # where ranks x both stays: the loader refuses other windows
        "train.steps", "train.epochs", "filter.retire_until",
        "train.threads", "train.timeout", "train.cache", "data.workers",
        # what messages that end a run advise to change
        "optimizer.lr", "train.mixed_precision", "data.max_bad", "data.image_key", "data.caption_key",
        "data.allow_empty_caption", "data.allow_pipe", "data.max_caption_bytes", "data.max_image_bytes",
        "data.max_image_pixels",
    }
)  # fmt: skip
"""What else a resume may change."""


def keep_config(config: RunConfig, accelerator: Any, resumed: bool) -> None:
    """Save the resolved config with the run, of which a resume must not change what decides, and remove what a save
    that was cut off has left.

    Raises:
        SettingsError: names the first setting that differs from the run's; or the run is complete, and there is
            nothing to go on from.
    """
    path = config.output / "config.yaml"
    now = config.model_dump(mode="json")
    if resumed and path.is_file():
        _refuse_changes(config, yaml.safe_load(path.read_text(encoding="utf-8")) or {}, now)
    if not resumed and (config.output / "summary.json").is_file():
        raise SettingsError(
            f"the run in '{config.output}' is complete and has no checkpoint to go on from (checkpoint.final was off, "
            "or its checkpoints were removed), so that it would begin anew over its results: name another output"
        )
    accelerator.wait_for_everyone()  # before anything is changed that the others look at
    if accelerator.is_main_process:
        config.output.mkdir(parents=True, exist_ok=True)
        remove_unfinished(config.output)
        write_whole(path, yaml.safe_dump(now, sort_keys=False, allow_unicode=True))
    accelerator.wait_for_everyone()


def _refuse_changes(config: RunConfig, saved: dict[str, Any], now: dict[str, Any]) -> None:
    for name in changed_since(saved.get("filter") or {}):
        raise SettingsError(
            f"the run in '{config.output}' was started by memsieve 0.1 with filter.{name}: {saved['filter'][name]!r}, "
            f"which is no setting any more ({GONE[name].why}): go on with it in 0.1, or name another output"
        )
    defaults = _defaults(config)
    saved = {**saved, "filter": in_todays_words(saved.get("filter") or {})}
    for section in sorted(set(now) - FREE_SECTIONS):
        for name, value in now[section].items():
            # What the run's config does not have came later, and held as it does by default.
            before = saved.get(section, {}).get(name, defaults.get(section, {}).get(name))
            if before != value and f"{section}.{name}" not in FREE:
                raise SettingsError(
                    f"'{section}.{name}' is {value!r} but the run in '{config.output}' was started with "
                    f"{before!r}: use that value to resume, or another output folder for a new run"
                )


def _defaults(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Of each section's settings that have a default, as a config file would hold it."""
    found: dict[str, dict[str, Any]] = {}
    for section in type(config).model_fields:
        part = getattr(config, section)
        if isinstance(part, BaseModel):
            fields = type(part).model_fields
            found[section] = {
                name: to_jsonable_python(field.get_default(call_default_factory=True))
                for name, field in fields.items()
                if not field.is_required()
            }
    return found


def restore(session: Session, checkpoint: Path, extra: dict[str, Any]) -> None:
    """Set everything to the end of the step that ``checkpoint`` was written at; the learning rate is the config's."""
    load_checkpoint(session.accelerator, checkpoint, session.accelerator.unwrap_model(session.model))
    session.schedule.load_state_dict(extra["schedule"])
    _take_learning_rate(session.schedule, session.config.optimizer.lr)
    if session.ema is not None:
        session.ema.load_state_dict(extra["ema"])
        session.ema.to(session.accelerator.device)
    if session.filter is not None:
        session.filter.load_state_dict(extra["filter"])
    session.records.load_state_dict(extra["records"])
    if "overfits" in extra:  # 0.1 did not look
        session.overfits.load_state_dict(extra["overfits"])
        session.best = int(extra["best"])
    session.step, session.updates = int(extra["step"]), int(extra["updates"])
    session.skipped = int(extra["skipped"])
    session.saved = session.step
    session.validated = int(extra.get("validated", session.step))
    session.times = list(extra["times"])


def _take_learning_rate(schedule: Any, lr: float) -> None:
    """Let a restored schedule, and its optimizer, go on from ``lr`` and from the present plan: a longer run plans
    linear and cosine anew over its whole length. Where neither has changed this changes nothing."""
    values = [lr * share(schedule.last_epoch) for share in schedule.lr_lambdas]
    schedule.base_lrs = [lr for _ in values]
    schedule._last_lr = list(values)
    for group, value in zip(schedule.optimizer.param_groups, values, strict=True):
        group["initial_lr"], group["lr"] = lr, value
