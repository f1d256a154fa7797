"""The methods that are compared, each a shipped config with settings laid over it, and the cells that are published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import yaml

from benchmarks.common import CONFIGS
from benchmarks.copying.data import MIXED, NOTHING, PAPER, SHORT, SMALL, Stream
from benchmarks.copying.found import PART

__all__ = ["METHODS", "NAMES", "SMALL_STOPS", "STOPS", "STREAMS", "TIERS", "Method", "filter_of"]

STREAMS: Final[dict[str, Stream]] = {stream.name: stream for stream in (MIXED, *SMALL.values(), NOTHING, PAPER, SHORT)}
_OFF: Final = ("filter.enabled=false",)
_ANCHORED: Final = ("filter.signals=[anchored_magnitude]", "filter.record=[]")
_BY_VISIT: Final = ("filter.signals=[loss]", "filter.record=[]", "filter.rule=threshold", "filter.threshold=1e9")
"""The filter measures, and a rival's rule takes the place of its own."""
_BY_DRAWINGS: Final = (
    "filter.rule=recall",
    "filter.signals=[loss]",
    "filter.record=[]",
    "validation.held_out_pairs=64",
)
"""The model is asked which pairs come back, and looked at twenty times."""
CLASSES: Final = ("dog", "house", "tree", "car", "apple", "star", "heart", "book", "ship", "flower", "fish", "cup",
                  "clock", "key", "chair", "hand", "face", "cloud", "bird", "train")  # fmt: skip
_PRIOR: Final = (f"prior.prompts=[{', '.join(f'a picture of a {name}' for name in CLASSES)}]",
                 "prior.guidance_scale=3.0")  # fmt: skip
"""Class pictures that the base draws: plain things, none in the words of a pair's caption."""


LORA_LR: Final = "optimizer.lr=3e-3"
"""An adapter takes a higher rate than all weights; three times here."""


@dataclass(frozen=True, slots=True)
class Method:
    """How a method is run.

    Attributes:
        name: of its cells.
        settings: laid over the config.
        config: a shipped one.
        part: of the data that it reads: what is left of the stream by it.
        score: what ranks pairs: ``evidence`` (of groups), ``margin`` (mean over visits of the rule's own number),
            ``removed`` (rows that were taken out before training), ``exposures``, or nothing.
        caption_dropout: None takes the stream's.
        share: of the steps that all methods take; it stops there, with a schedule of its own.
        trained: False is the base model.
        advised: the model that the run says is to be used is measured, not the last one.
        of: measures the last model of that method's run, and trains none.
        watched: its drawings are judged while it trains.
        groups: it takes the groups that a descriptor finds in the stream (``found``).
    """

    name: str
    settings: tuple[str, ...] = ()
    config: str = "openmoji.yaml"
    part: str = "stream"
    score: str = ""
    caption_dropout: float | None = None
    share: float = 1.0
    trained: bool = True
    advised: bool = False
    of: str = ""
    watched: bool = False
    groups: bool = False


METHODS: Final = {
    m.name: m
    for m in (
        Method("base", trained=False),
        Method("none", _OFF),
        Method("oracle", _OFF, part="oracle", score="removed"),
        Method("dedup", _OFF, part="dedup", score="removed"),
        Method("dedup_phash", _OFF, part="dedup_phash", score="removed"),
        Method("dedup_found", _OFF, part=PART, score="removed", groups=True),
        Method("cap", ("filter.policy=cap", "filter.signals=[loss]", "filter.record=[]"), score="exposures"),
        Method("stop_2", _OFF, share=0.5),
        Method("stop_4", _OFF, share=0.25),
        Method("stop_8", _OFF, share=0.125),
        Method("paper", ("filter.record=[]",), "wen2024_tiny.yaml", score="margin", caption_dropout=0.0),
        Method("paper_reweight", ("filter.record=[]", "filter.policy=reweight"), "wen2024_tiny.yaml", score="margin",
               caption_dropout=0.0),
        Method("ours", ("filter.record=[]",), score="evidence"),
        Method("ours_reweight", ("filter.record=[]", "filter.policy=reweight"), score="evidence"),
        Method("ours_sieve", config="openmoji_sieve.yaml", score="evidence"),
        Method("dedup_sieve", config="openmoji_sieve.yaml", part="dedup", score="evidence"),
        Method("found_all", config="openmoji_sieve.yaml", score="evidence", groups=True),
        Method("found_once", ("data.repeats=once",), "openmoji_sieve.yaml", score="evidence", groups=True),
        # One seed each: rivals that are known to do less, and parts of ours alone.
        Method("paper_five", ("filter.record=[]",), "wen2024_tiny.yaml", score="margin", caption_dropout=0.0),
        # Its magnitude against the base's unconditional branch holds with captions dropped as the stream does.
        Method("paper_anchored", _ANCHORED, "wen2024_tiny.yaml", score="margin"),
        Method("iet_agc", ("filter.enabled=true", *_BY_VISIT), score="margin"),
        Method("random_drop", ("filter.enabled=true", *_BY_VISIT)),
        Method("random_tokens", ("train.cache=null",), "random_tokens.yaml"),  # no two visits have one caption
        Method("ours_ratio", ("filter.signals=[reference_ratio]", "filter.record=[]"), score="evidence"),
        Method("ours_magnitude", ("filter.signals=[magnitude]", "filter.record=[]"), score="evidence"),
        # Small sets: memsieve's own, and what people do instead.
        Method("retire", (*_BY_DRAWINGS, "filter.policy=retire"), score="evidence", advised=True),
        Method("retire_last", (*_BY_DRAWINGS, "filter.policy=retire"), score="evidence", of="retire"),
        Method("retire_prior", (*_BY_DRAWINGS, "filter.policy=retire", *_PRIOR), score="evidence"),
        Method("watched", (*_BY_DRAWINGS, "filter.policy=observe"), score="evidence", watched=True),
        Method("stop_16", _OFF, share=0.0625),
        Method("stop_32", _OFF, share=0.03125),
        Method("cap_25", ("filter.policy=cap", "filter.max_exposures=25", "filter.signals=[loss]", "filter.record=[]"),
               score="exposures"),
        Method("lora_4", (*_OFF, "model.lora={rank: 4}", LORA_LR)),
        Method("lora_16", (*_OFF, "model.lora={rank: 16}", LORA_LR)),
        Method("prior", (*_OFF, *_PRIOR)),
        Method("dropout_3", _OFF, caption_dropout=0.3),
        # The runs in which the paper's thresholds are chosen.
        Method("tune_paper", ("filter.record=[]", "filter.policy=observe", "filter.threshold=1e9"),
               "wen2024_tiny.yaml", caption_dropout=0.0),
        Method("tune_paper_anchored", (*_ANCHORED, "filter.policy=observe", "filter.threshold=1e9"),
               "wen2024_tiny.yaml"),
    )
}  # fmt: skip
NAMES: Final = {
    "base": "base model",
    "none": "no filter",
    "oracle": "oracle: each pair once, by the truth",
    "dedup": "exact dedup",
    "dedup_phash": "dedup by perceptual hash",
    "dedup_found": "dedup by SSCD",
    "stop_2": "no filter, half of the steps",
    "stop_4": "no filter, a quarter of the steps",
    "stop_8": "no filter, an eighth of the steps",
    "stop": "best early stop, chosen in hindsight",
    "cap": "cap: 50 visits a pair",
    "paper": "the paper's rule, best τ, drop",
    "paper_reweight": "the paper's rule, best τ, reweight",
    "paper_five": "the paper's rule, τ for 5 % of ordinary visits",
    "paper_anchored": "the paper's rule against the base, best τ, drop",
    "iet_agc": "IET-AGC's rule",
    "random_drop": "random drop",
    "random_tokens": "random token addition",
    "ours": "memsieve, in the batch",
    "ours_reweight": "memsieve, in the batch, reweight",
    "ours_sieve": "memsieve, at the loader",
    "dedup_sieve": "memsieve, at the loader, after exact dedup",
    "found_all": "memsieve, at the loader, found groups",
    "found_once": "memsieve, at the loader, found groups once a pass",
    "ours_ratio": "memsieve, in the batch: reference ratio alone",
    "ours_magnitude": "memsieve, in the batch: magnitude alone",
    "retire": "memsieve, retire: the model that it advises",
    "retire_last": "memsieve, retire: the last model",
    "retire_prior": "memsieve, retire, with prior preservation: the last model",
    "watched": "memsieve, observe, asked which pairs come back",
    "stop_16": "no filter, a sixteenth of the steps",
    "stop_32": "no filter, a thirty-second of the steps",
    "cap_25": "cap: 25 visits a pair",
    "lora_4": "no filter, LoRA of rank 4",
    "lora_16": "no filter, LoRA of rank 16",
    "prior": "no filter, prior preservation",
    "dropout_3": "no filter, caption dropout .3",
}
"""What they are called, in the order in which pages have them; ``stop`` is the best of those that stop, and of none."""
STOPS: Final = ("none", "stop_2", "stop_4", "stop_8")
SMALL_STOPS: Final = (*STOPS, "stop_16", "stop_32")
"""Of small sets, which are learned by heart within a few passes."""
TIERS: Final[dict[int, tuple[tuple[str, tuple[str, ...], tuple[int, ...]], ...]]] = {
    1: (
        ("mixed", ("base", "none", "oracle", "dedup", "dedup_phash", "dedup_found", "stop_2", "stop_4", "stop_8",
                   "cap", "paper", "paper_reweight", "ours", "ours_reweight", "ours_sieve", "dedup_sieve", "found_all",
                   "found_once"), (0, 1, 2)),
        *((name, ("base", "none"), (0, 1, 2)) for name in SMALL),
    ),
    2: (
        ("mixed", ("paper_five", "paper_anchored", "iet_agc", "random_drop", "random_tokens", "ours_ratio",
                   "ours_magnitude"), (0,)),
        ("paper", ("base", "none", "oracle", "paper", "paper_reweight", "paper_anchored", "ours", "ours_sieve"), (0,)),
        ("nothing", ("none", "ours", "ours_sieve"), (0,)),
    ),
    3: (
        *((name, ("base", "none", "retire", "retire_last", "watched"), (0, 1, 2)) for name in SMALL),
        *((name, (*SMALL_STOPS[1:], "cap_25", "lora_4", "lora_16", "prior", "dropout_3", "retire_prior"), (0,))
          for name in SMALL),
        ("small 300 short", ("base", "none", "watched"), (0, 1, 2)),
    ),
}  # fmt: skip
"""What is published: (stream, methods, seeds)."""


def filter_of(method: Method) -> dict[str, Any]:
    """The filter's section of the method's config with its settings laid over it; without a filter nothing more."""
    given = dict(setting.split("=", 1) for setting in method.settings if setting.startswith("filter."))
    if not method.trained or given.get("filter.enabled") == "false":
        return {"enabled": False}
    shipped = yaml.safe_load((CONFIGS / method.config).read_text(encoding="utf-8"))["filter"]
    mine = {name.removeprefix("filter."): value for name, value in given.items() if name.startswith("filter.")}
    return {**shipped, **{name: yaml.safe_load(value) for name, value in mine.items()}}
