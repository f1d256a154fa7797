"""Who is condemned, and which visits fail a test: each rule in a file of its own."""

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.held_out import HeldOutPairs
from memsieve.filtering.rules.base import Finding, Reading, Rule, VisitRule, WindowEnd, readings_of
from memsieve.filtering.rules.evidence import EvidenceRule
from memsieve.filtering.rules.threshold import RankRule, ThresholdRule, ZScoreRule

__all__ = [
    "EvidenceRule",
    "Finding",
    "RankRule",
    "Reading",
    "Rule",
    "ThresholdRule",
    "VisitRule",
    "WindowEnd",
    "ZScoreRule",
    "readings_of",
    "rule_of",
]


def rule_of(config: FilterConfig, held_out: HeldOutPairs) -> Rule:
    """The rule that the settings name."""
    if config.rule == "evidence":
        return EvidenceRule(config, held_out)
    if config.rule == "threshold":
        return ThresholdRule(config.deciding[0], float(config.threshold or 0.0))
    if config.rule == "z_score":
        return ZScoreRule(float(config.threshold or 0.0))
    return RankRule(config.false_drop_rate)
