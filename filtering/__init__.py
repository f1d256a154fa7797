"""The signal and the decision: what is measured for each training pair, and what is done about it."""

from filtering.config import FilterConfig
from filtering.decision import Decision, Measurement, finite_rows
from filtering.filter import MemorizationFilter
from filtering.ledger import Ledger, read_ledger
from filtering.signals import SIGNALS, Predictions
from filtering.verdict import Action, Reason, Verdict, Visit

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
