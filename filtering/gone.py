"""Settings of section ``filter`` that version 0.1 had and that are constants now, or are gone with what they set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["GONE", "Gone", "changed_since", "first_gone"]


@dataclass(frozen=True, slots=True)
class Gone:
    """What holds in place of a setting.

    Attributes:
        value: the value that now holds for everybody; None where no value of it means anything any more.
        why: in words.
    """

    value: Any
    why: str


GONE: Final[dict[str, Gone]] = {
    "t_bins": Gone(10, "signals are calibrated in 10 bins of timesteps"),
    "bank_size": Gone(2048, "the 2048 newest measurements of held-out pairs calibrate"),
    "horizon": Gone(64, "the rate holds for 64 sweeps over the held-out pairs, doubled where a run goes on for longer"),
    "softness": Gone(1.0, "policy reweight falls as exp(-excess)"),
    "retest_every": Gone(None, "who is condemned is measured no more"),
    "pardon_looks": Gone(0, "who is condemned stays condemned"),
    "pardon_p": Gone(None, "who is condemned stays condemned"),
}


def first_gone(section: Mapping[str, Any]) -> str | None:
    """A sentence about the first setting in ``section`` that is gone; None where there is none."""
    for name in section:
        if name in GONE:
            return (
                f"filter.{name} is gone: {GONE[name].why}. Leave it out; 'memsieve config upgrade FILE' takes all such "
                "settings out of a file"
            )
    return None


def changed_since(section: Mapping[str, Any]) -> list[str]:
    """Those of the settings that are gone whose value in ``section``, of a run of 0.1, is not what holds now."""
    return [
        name for name, gone in GONE.items()
        if gone.value is not None and section.get(name, gone.value) != gone.value
    ]  # fmt: skip
