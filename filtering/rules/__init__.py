"""Who is condemned, and which visits fail a test: each rule in a file of its own."""

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.held_out import HeldOutPairs
from memsieve.filtering.rules.base import Finding, Reading, Rule, VisitRule, WindowEnd, readings_of
from memsieve.filtering.rules.evidence import EvidenceRule
from memsieve.filtering.rules.recall import RecallRule
from memsieve.filtering.rules.threshold import RankRule, ThresholdRule, ZScoreRule

__all__ = [
    "EvidenceRule",
    "Finding",
    "RankRule",
    "Reading",
    "RecallRule",
    "Rule",
    "ThresholdRule",
    "VisitRule",
    "WindowEnd",
    "ZScoreRule",
    "checked",
    "readings_of",
    "rule_of",
]


def rule_of(config: FilterConfig, held_out: HeldOutPairs) -> Rule:
    """The rule that the settings name.

    Raises:
        ValueError: it compares a threshold, and there is none.
    """
    if config.rule == "evidence":
        return EvidenceRule(config, held_out)
    if config.rule == "recall":
        return RecallRule(config)
    if config.rule == "rank":
        return RankRule(float(config.false_drop_rate))
    if config.threshold is None:  # settings that were changed one by one
        raise ValueError(f"filter.rule: {config.rule} needs filter.threshold")
    return (
        ThresholdRule(config.deciding[0], config.threshold)
        if config.rule == "threshold"
        else ZScoreRule(config.threshold)
    )


def checked(rule: object, config: FilterConfig) -> Rule:
    """``rule``, if it is one and can do what the settings ask of it.

    Raises:
        TypeError: it is no rule; names what it lacks.
        ValueError: the settings act on condemned pairs, and it remembers none.
    """
    if isinstance(rule, type):
        raise TypeError(f"rule = {rule.__name__} is a class; give an object of it, as rule={rule.__name__}(...)")
    lacking = [name for name in sorted(_PARTS) if not hasattr(rule, name)]
    if lacking:
        raise TypeError(
            f"rule = {rule!r} is no rule: it has no '{lacking[0]}' (see memsieve.filtering.rules.Rule); derive from "
            "VisitRule, or name one of evidence, recall, threshold, z_score, rank"
        )
    made: Rule = rule  # type: ignore[assignment]
    for option, wanted in (("apply", "sieve"), ("policy", "caption")):
        if getattr(config, option) == wanted and not made.remembers:
            raise ValueError(
                f"filter.{option}: {wanted} acts on condemned pairs, and {type(rule).__name__} remembers none: set "
                f"filter.{option} otherwise, or give the rule remembers = True and let test_and_condemn condemn"
            )
    return made


_PARTS = frozenset(Rule.__annotations__) | {name for name in vars(Rule) if not name.startswith("_")}
