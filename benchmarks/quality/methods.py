"""The methods that ``scripts/bench quality`` compares, each a shipped config with settings laid over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import yaml

from benchmarks.common import CONFIGS

__all__ = ["CASES", "METHODS", "NAMES", "Method", "filter_of"]

CASES = ("planted", "nothing")
"""``nothing``: the stream that the oracle gets, each pair once a pass, for a few passes: no pair is to be dropped."""
_VISIT_RULE = ["filter.enabled=true", "filter.signals=[loss]", "filter.record=[]", "filter.rule=threshold",
    "filter.threshold=1e9"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Method:
    """How a method is run: a shipped config, settings laid over it, the part of the data, and what it needs first.

    ``score``: what ranks pairs: ``evidence`` (of groups), ``margin`` (mean over visits of the rule's own number),
    ``removed`` (rows that were taken out before training), ``exposures``, or nothing. ``{audit}`` in ``settings``
    stands for an audit of the base over the stream and the held-out pairs. ``caption_dropout`` None takes the
    protocol's; not ``trained`` is the base model; ``extra`` ones run where they are named or needed;
    ``grouped`` by ``memsieve audit groups``.
    """

    name: str
    config: str = "openmoji.yaml"
    settings: tuple[str, ...] = ()
    part: str = "stream"
    score: str = ""
    caption_dropout: float | None = None
    trained: bool = True
    extra: bool = False
    grouped: bool = False


METHODS = {
    m.name: m
    for m in (
        Method("base", trained=False),
        Method("none", settings=("filter.enabled=false",)),
        Method("oracle", settings=("filter.enabled=false",), part="oracle", score="removed"),
        Method("ours", settings=("filter.record=[]",), score="evidence"),
        Method("paper", config="wen2024_tiny.yaml", settings=("filter.record=[]",), score="margin",
               caption_dropout=0.0),
        Method("ours_sieve", config="openmoji_sieve.yaml", score="evidence"),
        Method("dedup", settings=("filter.enabled=false",), part="dedup", score="removed"),
        Method("iet_agc", settings=tuple(_VISIT_RULE), score="margin"),
        Method("cap", score="exposures",
               settings=("filter.policy=cap", "filter.signals=[loss]", "filter.record=[]")),
        Method("random_tokens", config="random_tokens.yaml"),
        Method("ours_phash", config="openmoji_sieve.yaml", score="evidence", grouped=True),
        Method("ours_ratio", settings=("filter.signals=[reference_ratio]", "filter.record=[]"), score="evidence"),
        Method("ours_magnitude", settings=("filter.signals=[magnitude]", "filter.record=[]"), score="evidence"),
        Method("random_drop", settings=tuple(_VISIT_RULE)),
        Method("dedup_phash", settings=("filter.enabled=false",), part="dedup_phash", score="removed"),
        # The paper's rule at another threshold; every signal at every visit of the unfiltered run; the default budget;
        # the reference looked up; the run in which the paper's thresholds are chosen.
        Method("paper_five", config="wen2024_tiny.yaml", settings=("filter.record=[]",), score="margin",
               caption_dropout=0.0, extra=True),
        Method("observe", score="evidence", extra=True,
               settings=("filter.policy=observe", "filter.record=[magnitude,loss_gap,cosine,magnitude_ratio]")),
        Method("ours_thrifty", config="openmoji_sieve.yaml", settings=("filter.score_budget=null",), score="evidence",
               extra=True),
        Method("ours_lookup", config="openmoji_sieve.yaml", score="evidence", extra=True,
               settings=("filter.reference={audit}", "filter.beyond=frozen")),
        Method("tune_paper", extra=True,
               settings=("filter.signals=[magnitude]", "filter.record=[]", "filter.policy=observe",
                         "filter.rule=threshold", "filter.threshold=1e9")),
    )
}  # fmt: skip
NAMES: Final = {
    "base": "base model",
    "none": "no filter",
    "observe": "no filter: what memsieve would have said",
    "oracle": "oracle: each pair once, by the truth",
    "ours": "memsieve, in the batch",
    "ours_ratio": "memsieve, in the batch: reference ratio alone",
    "ours_magnitude": "memsieve, in the batch: magnitude alone",
    "ours_phash": "memsieve, at the loader, near-duplicates grouped",
    "ours_sieve": "memsieve, at the loader",
    "ours_thrifty": "memsieve, at the loader, default budget",
    "ours_lookup": "memsieve, at the loader, reference looked up",
    "paper": "the paper's rule",
    "paper_five": "the paper's rule, τ for 5 % of ordinary visits",
    "iet_agc": "IET-AGC's rule",
    "random_tokens": "random token addition",
    "random_drop": "random drop",
    "cap": "cap: 50 visits a pair",
    "dedup": "exact dedup by image hash",
    "dedup_phash": "dedup by perceptual hash",
}
"""What they are called, in the order in which pages have them."""


def filter_of(method: Method) -> dict[str, Any]:
    """The filter's section of the method's config with its settings laid over it; without a filter nothing more."""
    given = dict(setting.split("=", 1) for setting in method.settings)
    if not method.trained or given.get("filter.enabled") == "false":
        return {"enabled": False}
    shipped = yaml.safe_load((CONFIGS / method.config).read_text(encoding="utf-8"))["filter"]
    return {**shipped, **{name.removeprefix("filter."): yaml.safe_load(value) for name, value in given.items()}}
