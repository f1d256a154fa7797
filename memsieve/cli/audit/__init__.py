"""``memsieve audit``: score a dataset offline, look at it, and get a keep-list and clean shards."""

from memsieve.cli.audit.apply import apply
from memsieve.cli.audit.groups import groups
from memsieve.cli.audit.report import report
from memsieve.cli.audit.review import review
from memsieve.cli.audit.score import score
from memsieve.cli.audit.select import select
from memsieve.cli.audit.status import status
from memsieve.cli.paths import PathTyper, renamed

__all__ = ["audit"]

_OLD = {
    score: renamed(shards="data", batch_size="batch"),
    report: renamed(wandb_project="wandb", log_samples="wandb_samples"),
}
"""By the names that options of the same kind have in other commands."""
audit = PathTyper(no_args_is_help=True, help="Score a dataset offline, look at it, get a keep-list and clean shards.")
for _command in (score, status, select, apply, groups, review, report):
    audit.command(cls=_OLD.get(_command))(_command)
