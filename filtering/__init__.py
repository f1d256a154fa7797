"""The signal and the decision: what is measured for each training pair, and what is done about it."""

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.ledger import Ledger, read_ledger
from memsieve.filtering.signals import SIGNALS, Predictions
from memsieve.filtering.types import Action, Decision, Measurement, Reason, Verdict, Visit, finite_rows

__all__ = [
    "SIGNALS",
    "Action",
    "Decision",
    "FilterConfig",
    "Ledger",
    "Measurement",
    "MemorizationFilter",
    "Predictions",
    "Reason",
    "Verdict",
    "Visit",
    "finite_rows",
    "read_ledger",
]
