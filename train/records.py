"""What a run leaves behind about its samples: accounting, groups, evidence, thumbnails."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from memsieve.filtering.data.decode import to_picture
from memsieve.filtering.data.rows import FailedRow, Row, SkippedRow
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.ledger import Ledger
from memsieve.filtering.types import Action, Reason, Verdict, Visit, group_name
from memsieve.train.accounting import Accounting
from memsieve.train.group_tables import join_shares, write_evidence, write_share
from memsieve.train.seen import GroupCounts, SeenSamples

__all__ = ["Records"]

THUMBNAILS: Final = 500
THUMBNAIL_SIDE: Final = 96
SUSPECTS: Final = 12
_SAFE: Final = re.compile(r"[^0-9A-Za-z_-]")


class Records:
    """Writes the ledger, thumbnails of what was not kept, and the tables of groups and evidence."""

    def __init__(self, run: Path, rank: int, ranks: int, resume_step: int | None, keep_rows: bool) -> None:
        self.run, self.rank, self.keep_rows = run, rank, keep_rows
        self.ledger = Ledger(run / "ledger", rank, resume_step, ranks)
        self.accounting = Accounting()
        self.unusable: set[str] = set()
        """Distinct samples that failed, of all ranks: one that comes round again, on another rank, is not one more."""
        self.seen = SeenSamples(run / "seen" / f"rank{rank}", resumed=resume_step is not None)
        self.left: dict[int, SeenSamples] = {}
        """What ranks have seen that there are no more, since the run went on with fewer; the first rank keeps it."""
        self.skips = GroupCounts()
        """Rows of each group that this rank's sieve took out."""
        self.evidence: list[list[Any]] = []
        self._open_skips: list[str] = []
        self._closed()
        self._pictures = len(list((run / "thumbnails").glob("*.png"))) if (run / "thumbnails").is_dir() else 0

    def _closed(self) -> None:
        """All that was noted so far belongs to windows that were trained; what follows, to one that is open."""
        self._standing = self.accounting.as_dict()
        self._open_unusable: set[str] = set()
        self._count_skips()

    def _count_skips(self) -> None:
        self.skips.add(self._open_skips)
        self._open_skips = []

    def _note_unusable(self, samples: set[str]) -> None:
        self._open_unusable |= samples - self.unusable
        self.unusable |= samples

    @property
    def newly_unusable(self) -> int:
        """Distinct samples that failed in the open window, of this rank until ``share_unusable``."""
        return len(self._open_unusable)

    def share_unusable(self, exchange: Exchange) -> None:
        """Let all ranks know what failed in the open window; a collective."""
        for theirs in exchange.gather_objects(sorted(self._open_unusable)):
            self._note_unusable(set(theirs))

    def note_unused(
        self, step: int, failed: list[FailedRow], held_out: list[str], not_kept: dict[str, int] | None = None
    ) -> None:
        """Samples read on the way to a window that cannot, or must not, be trained on."""
        accounting = self.accounting
        accounting.read += len(failed) + len(held_out) + sum((not_kept or {}).values())
        accounting.not_kept.update(not_kept or {})
        accounting.held_out += len(held_out)
        accounting.failed.update(_kind(row.error) for row in failed)
        self._note_unusable({f"{row.shard}:{row.index}:{row.key}" for row in failed})
        verdicts = [
            Verdict(Visit(row.key, row.shard, row.index), 0.0, Action.FAILED, Reason.UNREADABLE, error=row.error)
            for row in failed
        ]
        verdicts += [Verdict(Visit(key), 0.0, Action.HELD_OUT, Reason.HELD_OUT) for key in held_out]
        self.ledger.add(step, verdicts)

    def note_skipped(self, step: int, skipped: list[SkippedRow]) -> None:
        """Samples that the sieve took out on the way to a window."""
        verdicts = [_of_skipped(row) for row in skipped]
        self.accounting.read += len(verdicts)
        self.accounting.dropped.update(str(verdict.reason) for verdict in verdicts)
        self._open_skips += [row.group for row in skipped]
        self.ledger.add(step, verdicts)

    def note_bad(self, bad: list[Visit]) -> None:
        """Samples whose input is not finite."""
        self._note_unusable({f"{visit.shard}:{visit.index}:{visit.key}" for visit in bad})

    def note_window(self, step: int, rows: list[Row | None], bad: list[Visit], verdicts: list[Verdict]) -> None:
        """Samples of a window and what became of them; without verdicts everything valid was trained."""
        accounting = self.accounting
        present = [row for row in rows if row is not None]
        accounting.read += len(present)
        for row in present:
            self.seen.note(row.group, row.key, row.shard, row.caption)
        dropped = [v for v in verdicts if v.weight == 0.0 and v.action is not Action.FAILED]
        accounting.dropped.update(str(verdict.reason) for verdict in dropped)
        accounting.failed.update(["input is not finite"] * len(bad))
        accounting.trained += len(present) - len(dropped) - len(bad)
        noted = verdicts if self.keep_rows else [v for v in verdicts if v.action is not Action.KEEP]
        if not verdicts:
            noted = [Verdict(visit, 0.0, Action.FAILED, Reason.BAD_INPUT) for visit in bad]
        self.ledger.add(step, noted)
        pictures = {row.group: row for row in present}
        for verdict in noted:
            if verdict.action is not Action.KEEP and verdict.visit.group in pictures:
                self._thumbnail(pictures[verdict.visit.group])
        self._closed()

    def picture(self, row: Row, folder: str = "thumbnails") -> None:
        """Write the small picture of a row, or in another folder what was drawn for it."""
        self._thumbnail(row, folder)

    def _thumbnail(self, row: Row, folder: str = "thumbnails") -> None:
        path = self.run / folder / f"{_SAFE.sub('_', group_name(row.group))[:80]}.png"
        if folder == "thumbnails" and (path.exists() or self._pictures >= THUMBNAILS):
            return
        path.parent.mkdir(exist_ok=True)
        image = to_picture(row.pixels)
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        temporary = path.with_suffix(f".tmp{self.rank}")  # ranks may meet one group at a time
        image.save(temporary, "PNG")
        temporary.rename(path)
        self._pictures += 1

    def known(self, groups: Sequence[str]) -> dict[str, list[str]]:
        """Those of ``groups`` of which a sample is known here: group -> key, shard, caption."""
        found: dict[str, list[str]] = {}
        for seen in (*self.left.values(), self.seen):
            found |= seen.find(groups)
        return found

    def note_evidence(self, step: int, pair_filter: MemorizationFilter) -> None:
        """The evidence of the most suspected groups, for the report's curves; a collective."""
        bar = pair_filter.evidence_bar
        for standing in pair_filter.suspects(SUSPECTS):
            if np.isfinite(standing.evidence_max):
                self.evidence.append([step, standing.group, standing.evidence, bar])

    def write_tables(self, pair_filter: MemorizationFilter | None, exchange: Exchange) -> None:
        """``groups.parquet`` and ``evidence.parquet``, as of now: every rank writes its share, the first joins them."""
        if pair_filter is None:
            return
        self._count_skips()
        self.seen.flush()
        write_share(self.run, self.rank, pair_filter, self.skips)
        exchange.sum([0.0])  # all shares are written
        if self.rank == 0:
            join_shares(self.run, exchange.world_size, sorted(self.left))
            write_evidence(self.run, self.evidence)

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint, as of the last window that was trained: one that failed is read again."""
        return {
            "accounting": self._standing,
            "unusable": sorted(self.unusable - self._open_unusable),
            "seen": self.seen.state_dict(),
            "left": {str(rank): seen.state_dict()["samples"] for rank, seen in self.left.items()},
            "skips": self.skips.state_dict(),
            "evidence": self.evidence,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly."""
        self.accounting.load(state["accounting"])
        self.unusable = set(state["unusable"])
        self.seen.load_state_dict(state["seen"])
        for name, samples in state.get("left", {}).items():
            self.left[int(name)] = SeenSamples(self.run / "seen" / f"rank{name}", resumed=True)
            self.left[int(name)].load_state_dict({"samples": samples})
        self.skips.load_state_dict(state["skips"])
        self.evidence = [list(row) for row in state["evidence"]]
        self._closed()


def _of_skipped(row: SkippedRow) -> Verdict:
    visit = Visit(row.key, row.shard, row.index, row.group, "", row.stream, row.epoch, row.offset)
    return Verdict(visit, 0.0, Action.DROP, Reason.ALWAYS_DROP if row.banned else Reason.SKIPPED)


def _kind(error: str) -> str:
    """An error message without what is special to the sample: counts stay few."""
    return re.sub(r"'[^']*'|\d[\d,.]*", "...", error)[:80]
