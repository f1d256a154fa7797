"""Settings of section ``filter`` that version 0.1 had: some are constants now, some are said by ``filter.rule``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["GONE", "Gone", "changed_since", "first_gone", "in_todays_words", "rule_of_0_1"]


@dataclass(frozen=True, slots=True)
class Gone:
    """What holds in place of a setting.

    Attributes:
        value: the value that now holds for everybody; None where no single one does.
        why: in words.
    """

    value: Any
    why: str


_RULE: Final = "filter.rule names the test in one word: evidence, recall, threshold, z_score or rank"
GONE: Final[dict[str, Gone]] = {
    "calibrator": Gone(None, _RULE),
    "decide": Gone(None, _RULE),
    "normalize": Gone(None, "rule threshold divides the loss by the kept samples, the others by the eligible ones"),
    "t_bins": Gone(10, "signals are calibrated in 10 bins of timesteps"),
    "bank_size": Gone(2048, "the 2048 newest measurements of held-out pairs calibrate"),
    "horizon": Gone(64, "the rate holds for 64 sweeps over the held-out pairs, doubled where a run goes on for longer"),
    "softness": Gone(1.0, "policy reweight falls as exp(-excess)"),
    "half_life": Gone(8.0, "a pair's evidence halves in 8 measured visits"),
    "min_sweeps": Gone(3, "nobody is condemned before 3 sweeps and 3 measured visits"),
    "held_out_draws": Gone(16, "each held-out pair has 16 draws of t and noise"),
    "score_after": Gone(2, "at the loader a pair's first 2 visits are not measured"),
    "delay": Gone(4, "at the loader a decision holds from the fourth window after it"),
    "retest_every": Gone(None, "who is condemned is measured no more"),
    "pardon_looks": Gone(0, "who is condemned stays condemned"),
    "pardon_p": Gone(None, "who is condemned stays condemned"),
}
_RULES: Final = {
    ("conformal", "group"): "evidence", ("conformal", "visit"): "rank", ("fixed", "visit"): "threshold",
    ("robust", "visit"): "z_score",
}  # fmt: skip
_OF_A_RULE: Final = ("calibrator", "decide", "normalize")


def rule_of_0_1(section: Mapping[str, Any]) -> str | None:
    """The rule that a section of 0.1 named by ``calibrator`` and ``decide``; None where 0.1 refused the two together,
    or where the section is none of 0.1."""
    if "rule" in section or not any(name in section for name in _OF_A_RULE):
        return None
    return _RULES.get((section.get("calibrator", "conformal"), section.get("decide", "group")))


def in_todays_words(section: Mapping[str, Any]) -> dict[str, Any]:
    """``section`` without the settings that are gone, with the rule that they named, and without a threshold that 0.1
    compared with nothing."""
    rule = rule_of_0_1(section)
    named: dict[str, Any] = {} if rule is None else {"rule": rule}
    if rule in ("evidence", "rank") and "threshold" in section:
        named["threshold"] = None
    return {**{name: value for name, value in section.items() if name not in GONE}, **named}


def first_gone(section: Mapping[str, Any]) -> str | None:
    """A sentence about the first setting in ``section`` that is gone; None where there is none."""
    for name in section:
        if name in GONE:
            return (
                f"filter.{name} is gone: {GONE[name].why}. {_way_out(name, section)}; 'memsieve config upgrade FILE' "
                "does so for all such settings of a file"
            )
    return None


def _way_out(name: str, section: Mapping[str, Any]) -> str:
    if name not in ("calibrator", "decide"):
        return "Leave it out"
    if "rule" in section:
        return f"Leave it out: the rule is {section['rule']}"
    rule = rule_of_0_1(section)
    return "Set that in its place" if rule is None else f"Set filter.rule: {rule} in its place"


def changed_since(section: Mapping[str, Any]) -> list[str]:
    """Those of the settings that are gone whose value in ``section``, of a run of 0.1, is not what holds now."""
    rule = rule_of_0_1(section)
    acts = section.get("enabled", True) and section.get("policy", "drop") != "observe"  # else all weights are 1
    divided = acts and rule is not None and section.get("normalize", "eligible") != _divisor(rule)
    return [
        name for name, gone in GONE.items()
        if (name == "normalize" and divided)
        or (gone.value is not None and section.get(name, gone.value) != gone.value)
    ]  # fmt: skip


def _divisor(rule: str) -> str:
    return "kept" if rule == "threshold" else "eligible"
