"""``memsieve audit``: score a dataset offline, look at it, and get a keep-list and clean shards."""

from memsieve.cli.audit.apply import apply
from memsieve.cli.audit.groups import groups
from memsieve.cli.audit.report import report
from memsieve.cli.audit.review import review
from memsieve.cli.audit.score import score
from memsieve.cli.audit.select import select
from memsieve.cli.audit.status import status
from memsieve.cli.paths import PathTyper

__all__ = ["audit"]

audit = PathTyper(no_args_is_help=True, help=__doc__)
for _command in (score, status, select, apply, groups, review, report):
    audit.command()(_command)
