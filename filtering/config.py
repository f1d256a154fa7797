"""Settings of the filter: what is measured, what it is compared with, what is done."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from memsieve.filtering.conformal import smallest_reference
from memsieve.filtering.gone import first_gone
from memsieve.filtering.settings import PathTexts, Settings
from memsieve.filtering.signals import COMBINED, OF_PREDICTIONS, measured_for

__all__ = ["BANK_SIZE", "DecidingName", "FilterConfig", "RuleName", "SignalName"]

SignalName = Literal[
    "magnitude", "loss_gap", "loss", "cosine", "reference_ratio", "magnitude_ratio", "anchored_magnitude", "drift"
]
DecidingName = Literal[SignalName, "reference_residual"]
RuleName = Literal["evidence", "recall", "threshold", "z_score", "rank"]

MEASURED_SHARE: Final = 0.75
BANK_SIZE: Final = 2048
"""Measurements that calibrate, the newest: enough for a rate of .0005 of single visits, and few enough to follow the
model."""


class FilterConfig(Settings):
    """Section ``filter`` of a training config; also the keyword arguments of ``MemorizationFilter``."""

    enabled: bool = True
    """Off: nothing is measured, every sample trains with weight 1."""
    rule: RuleName = "evidence"
    """Who fails the test. ``evidence``: a pair whose evidence, added up over its visits, goes beyond what held-out
    pairs come to (``false_drop_rate``). ``recall``, for small sets: a pair whose caption brings its own picture back
    oftener than ``copy_rate``, found by asking the model. The others test each visit for itself and condemn nobody:
    ``threshold``, the paper's rule, whose raw signal exceeds ``threshold``; ``z_score``, whose median / MAD z-score in
    its t-bin does; ``rank``, who ranks beyond held-out pairs' visits (``false_drop_rate``)."""
    signals: list[DecidingName] = Field(default=["reference_residual"], min_length=1)
    """What decides: one signal, or several whose calibrated z-scores are summed."""
    max_timestep: float | None = Field(default=None, gt=0.0, le=1.0)
    """Visits at a timestep beyond this share of the schedule's are trained on and are no evidence: there memorised
    and ordinary pairs read alike, and no forward is spent. None: 0.75, and 1 with ``rule: threshold``, since the
    paper tests at all timesteps."""
    record: list[SignalName] = ["magnitude"]
    """Signals that are measured and written down for every sample, whatever decides."""
    threshold: float | None = Field(default=None, ge=0.0)
    """tau for ``rule: threshold`` (in units of the signal), z for ``z_score``; the others take none. tau belongs to one
    model and one latent size: the magnitude is a norm over all latent elements, not divided by their number, and so
    about doubles where the side of the picture does; it also depends on t. z holds for all of them."""
    false_drop_rate: float | Literal["auto"] = 0.01
    """Share of clean pairs that may be dropped (``rule: evidence``), or of their visits (``rank``). ``auto``: 0.01, or
    the lowest that so many held-out pairs can tell."""
    policy: Literal["observe", "drop", "reweight", "cap", "caption", "retire"] = "drop"
    """What happens to a pair that fails the test; ``observe`` only writes it down, ``caption`` trains the image
    without its caption. ``retire``, with ``rule: recall``, which it brings with it: the pair is trained on no more
    until the model has forgotten it."""
    copy_rate: float = Field(default=0.01, gt=0.0, lt=0.5)
    """``rule: recall``: the share of drawings of its caption in which a pair may come back as its own picture."""
    recall_budget: float = Field(default=0.25, gt=0.0, le=1.0)
    """``rule: recall``: drawings as a share of what training computes, a forward and backward counting three."""
    retire_until: float = Field(default=0.1, ge=0.0, lt=1.0)
    """``policy: retire``: the run ends when a smaller share of the pairs than this is still trained on."""
    apply: Literal["batch", "sieve"] = "batch"
    """``batch``: every sample is measured in every batch, and a weight of 0 drops it there, as the paper does.
    ``sieve``: the loader skips condemned groups before decoding, and the next sample takes their place."""
    score_budget: float | None = Field(default=None, gt=0.0, le=1.0)
    """``sieve``: extra forwards (held-out pairs included) as a share of what training computes, a forward and backward
    counting three. None: 0.08, or 0.012 where measured visits take no forward (``reference`` looked up). In the batch
    everything is measured, whatever it costs."""
    reference: PathTexts = "frozen"
    """Where signals that compare with the model before fine-tuning take it from: ``frozen``, a copy of it; or audits
    of it (``memsieve audit score``), at no forward, which needs ``filter.apply: sieve``."""
    beyond: Literal["skip", "frozen"] = "skip"
    """Visits of a pair beyond the audited draws: not measured, or measured by a frozen copy."""
    held_out_per_window: int | None = Field(default=None, ge=1)
    """Held-out pairs scored in one go, in turn, to follow the model as it moves. None: in the batch so many, a whole
    batch of them every so many windows, that they take a quarter of a forward a window; at the loader 8, as often as
    ``score_budget`` allows."""
    spare_above: float | None = Field(default=0.5, ge=0.0)
    """With ``rule: evidence``, a look at a group does not count while its loss lies further than this above the
    held-out pairs' median (in robust standard deviations of a visit; discounted mean over its measured visits): what
    the model denoises worse than most of what it never saw was not learned by heart, however much better than the base
    it has become. Only where ``signals`` measure the loss (``reference_residual``, ``loss``). None: every look
    counts."""
    max_exposures: int = Field(default=50, ge=1)
    """Policy ``cap``: how often a group may be trained on."""
    max_drop_fraction: float = Field(default=0.5, gt=0.0, le=1.0)
    """Largest share of the groups seen that may be condemned; beyond it the run is overfitting as a whole."""
    never_drop: list[str] = []
    """Keys or groups that are always trained on."""
    always_drop: list[str] = []
    """Keys or groups that are never trained on."""
    ledger_kept: bool = False
    """Also write a ledger row for samples that were kept: the magnitude of every sample at every visit."""

    @field_validator("false_drop_rate")
    @classmethod
    def _a_share(cls, rate: float | Literal["auto"]) -> float | Literal["auto"]:
        if rate != "auto" and not 0.0 < rate < 1.0:
            raise ValueError("must be greater than 0 and less than 1, or auto")
        return rate

    @model_validator(mode="before")
    @classmethod
    def _none_gone(cls, section: Any) -> Any:
        if isinstance(section, dict) and (said := first_gone(section)) is not None:
            raise ValueError(said)
        return section

    @model_validator(mode="before")
    @classmethod
    def _asks_the_model(cls, section: Any) -> Any:
        """Retiring is by recall, and recall decides by drawings: what is measured of visits is for the record."""
        if not isinstance(section, dict):
            return section
        if section.get("policy") == "retire":
            section = {"rule": "recall", **section}
        if section.get("rule") == "recall":
            section = {"signals": ["loss"], "record": [], **section}
        return section

    @model_validator(mode="after")
    def _consistent(self) -> FilterConfig:
        self._refuse_what_the_rule_cannot()
        if self.policy == "caption" and self.rule not in ("evidence", "recall"):
            raise ValueError(
                "filter.policy: caption takes the caption away before a visit is measured, which needs filter.rule: "
                f"evidence or recall, not {self.rule}"
            )
        if self.policy == "retire" and self.rule != "recall":
            raise ValueError(
                "filter.policy: retire asks the model which pairs come back, which needs filter.rule: recall, not "
                f"{self.rule}; leave filter.rule out"
            )
        if self.rule == "recall" and self.policy in ("reweight", "cap"):
            raise ValueError(
                f"filter.policy: {self.policy} needs a number of each visit, and filter.rule: recall has one of each "
                "pair; set filter.policy: retire, or observe"
            )
        if self.apply == "sieve" and (self.policy != "drop" or self.rule != "evidence"):
            raise ValueError(
                "filter.apply: sieve skips condemned groups, which needs filter.policy: drop and filter.rule: "
                f"evidence, not {self.policy} and {self.rule}; set them, or filter.apply: batch"
            )
        if self.audits and self.apply != "sieve":
            raise ValueError(
                f"filter.reference: {self.reference} holds some draws of each pair, and filter.apply: batch measures "
                "every visit; set filter.apply: sieve, or filter.reference: frozen"
            )
        beside = [name for name in self.measured if name in OF_PREDICTIONS]
        if self.audits and beside:
            raise ValueError(
                f"filter.reference: {self.reference} holds numbers, and {beside[0]} compares the predictions themselves"
                f" with the base's; set filter.reference: frozen, or take {beside[0]} out of filter.signals and record"
            )
        both = set(self.never_drop) & set(self.always_drop)
        if both:
            raise ValueError(f"filter.never_drop and filter.always_drop both name '{sorted(both)[0]}'")
        return self

    def _refuse_what_the_rule_cannot(self) -> None:
        if self.rule in ("threshold", "z_score") and self.threshold is None:
            raise ValueError(
                f"filter.rule: {self.rule} needs filter.threshold "
                f"({'tau, for example 2.0' if self.rule == 'threshold' else 'a z-score, for example 4.0'})"
            )
        if self.rule in ("evidence", "rank", "recall") and self.threshold is not None:
            rate = "copy_rate" if self.rule == "recall" else "false_drop_rate"
            raise ValueError(
                f"filter.threshold: {self.threshold} is compared by filter.rule: threshold or z_score, not by "
                f"{self.rule}, which has filter.{rate}; set the rule, or leave the threshold out"
            )
        if self.rule == "threshold" and len(self.deciding) != 1:
            made = "".join(f"; {name} is known only beside held-out pairs" for name in self.signals if name in COMBINED)
            raise ValueError(
                f"filter.rule: threshold compares one raw signal, not {self.signals}{made}; set filter.signals to one "
                "such as [magnitude]"
            )
        if self.rule == "rank" and self.false_drop_rate == "auto":
            raise ValueError(
                "filter.false_drop_rate: auto goes by the number of held-out pairs, and filter.rule: rank by their "
                "measurements; set a rate"
            )
        if self.rule == "rank" and (needed := smallest_reference(_number(self.false_drop_rate))) > BANK_SIZE:
            raise ValueError(
                f"filter.false_drop_rate: {self.false_drop_rate} ranks a visit among at least {needed} "
                f"measurements (resolution 1/(n+1)), and {BANK_SIZE} are kept; raise the rate"
            )

    @property
    def measured_share(self) -> float:
        """Share of the timesteps, from 0 on, at which a visit is evidence."""
        if self.max_timestep is not None:
            return self.max_timestep
        # what is in a picture is decided where there is most noise, so that recall leaves none out
        return 1.0 if self.rule in ("threshold", "recall") else MEASURED_SHARE

    @property
    def spared_below(self) -> float:
        """Groups whose ``EvidenceTable.level`` lies below this are spared."""
        return float("-inf") if self.spare_above is None else -self.spare_above

    @property
    def audits(self) -> list[str]:
        """Folders that the reference is looked up in; none where it is a frozen copy."""
        named = [self.reference] if isinstance(self.reference, str) else self.reference
        return [] if named == ["frozen"] else named

    @property
    def deciding(self) -> tuple[str, ...]:
        """What is measured to decide: the signals, or what they are made of."""
        return measured_for(self.signals)

    @property
    def measured(self) -> tuple[str, ...]:
        """Every signal to measure, those for deciding first."""
        return measured_for([*self.signals, *self.record])


def _number(rate: float | str) -> float:
    return float(rate)
