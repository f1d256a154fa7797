"""What a filter saves and restores: whole, or a rank's share of the groups, on the same or another number of ranks."""

from __future__ import annotations

import io
from typing import Any, Final, Protocol

import torch

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.calibration import Calibrator
from memsieve.filtering.evidence.held_out import HeldOutPairs
from memsieve.filtering.evidence.sharing import join_shares, share_of
from memsieve.filtering.evidence.table import EvidenceTable
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.gone import GONE, changed_since, in_todays_words

__all__ = ["local_state", "restore", "whole_state"]

FREE: Final = frozenset({"never_drop", "always_drop", "record", "ledger_kept", "enabled", "retire_until"})
"""Settings that may differ from the saved ones: what was decided before does not depend on them."""


class Saved(Protocol):
    """A part that saves and restores itself; ``name``: whose state it is."""

    name: str

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly."""
        ...


class Stateful(Protocol):
    """The parts of a filter that later decisions depend on; ``MemorizationFilter`` has them."""

    config: FilterConfig
    calibrator: Calibrator
    groups: EvidenceTable
    held_out: HeldOutPairs
    exchange: Exchange
    n_groups: int
    step: int

    @property
    def rule(self) -> Saved:
        """Who is condemned."""
        ...


def local_state(pair_filter: Stateful) -> dict[str, Any]:
    """The state with this rank's share of the groups, as tensors and plain values.

    Raises:
        ValueError: the rule's state has a name that is the filter's own.
    """
    of_the_rule = pair_filter.rule.state_dict()
    own = {
        "config": pair_filter.config.model_dump(mode="json"),
        "calibrator": pair_filter.calibrator.state_dict(),
        "groups": pair_filter.groups.state_dict(),
        "rank": pair_filter.exchange.rank,
        "ranks": pair_filter.exchange.world_size,
        "n_groups": pair_filter.n_groups,
        "panel": pair_filter.held_out.state_dict(),  # its name in checkpoints of 0.1
        "step": pair_filter.step,
        "decided_by": pair_filter.rule.name,
    }
    if both := own.keys() & of_the_rule.keys():
        raise ValueError(f"the rule's state_dict has '{sorted(both)[0]}', which is the filter's own: rename it")
    return own | of_the_rule


def whole_state(pair_filter: Stateful) -> dict[str, Any]:
    """The state as one process would save it, the same on all ranks; a collective.

    Libraries that checkpoint objects (accelerate's ``register_for_checkpointing``) ask every rank for its state, keep
    the first rank's, and hand that to every rank.

    Raises:
        RuntimeError: rank 0 calls it alone.
    """
    local = local_state(pair_filter)
    if pair_filter.exchange.world_size == 1:
        return local
    pair_filter.exchange.meet("MemorizationFilter.state_dict")
    written = io.BytesIO()
    torch.save(local["groups"], written)
    shares = pair_filter.exchange.gather_bytes(written.getvalue())
    groups = join_shares([torch.load(io.BytesIO(share), weights_only=True) for share in shares])
    return {**local, "groups": groups, "rank": 0, "ranks": 1}


def restore(pair_filter: Stateful, states: list[dict[str, Any]]) -> None:
    """Restore from a whole state, from this rank's own share, or from the shares of all ranks that saved.

    Raises:
        ValueError: other settings that decide, another rank's share, or the shares of some ranks only.
    """
    state = states[0]
    saved, mine = state["config"], pair_filter.config.model_dump(mode="json")
    for name in changed_since(saved):
        raise ValueError(
            f"the checkpoint was written by memsieve 0.1 with filter.{name}: {saved[name]!r}, which is no setting any "
            f"more ({GONE[name].why}): go on with it in 0.1, or begin anew"
        )
    saved = in_todays_words(saved)
    fresh = {name: field.default for name, field in FilterConfig.model_fields.items()}  # as before a setting came to be
    changed = [name for name in mine if name not in FREE and saved.get(name, fresh[name]) != mine[name]]
    if changed:
        first = changed[0]
        raise ValueError(
            f"filter.{first} is {mine[first]!r} but the checkpoint was written with {saved.get(first)!r}; resume "
            "with the saved value, or start a new run folder"
        )
    rule = pair_filter.rule.name
    if state.get("decided_by", rule) != rule:  # 0.1 did not say
        raise ValueError(
            f"the checkpoint was written with the rule '{state['decided_by']}', and this filter's is '{rule}': give it "
            "that rule first (MemorizationFilter(rule=...), in a run set_up(config, rule))"
        )
    _restore_groups(pair_filter, states)
    pair_filter.calibrator.load_state_dict(state["calibrator"])
    pair_filter.n_groups, pair_filter.step = int(state["n_groups"]), int(state["step"])
    pair_filter.held_out.load_state_dict(state["panel"])
    pair_filter.rule.load_state_dict(state)


def _restore_groups(pair_filter: Stateful, states: list[dict[str, Any]]) -> None:
    saved, ranks, rank = int(states[0]["ranks"]), pair_filter.exchange.world_size, pair_filter.exchange.rank
    # Version 0.1 did not say whose share it was: all of them, or each rank its own.
    whose_else = range(saved) if len(states) == saved else [rank]
    held = sorted(int(state.get("rank", other)) for state, other in zip(states, whose_else, strict=False))
    if saved == ranks and held == [rank]:
        pair_filter.groups.load_state_dict(states[0]["groups"])
    elif held == list(range(saved)):
        first = pair_filter.groups.first
        pair_filter.groups = share_of([state["groups"] for state in states], rank, ranks, pair_filter.groups.half_life)
        pair_filter.groups.first = first
    else:
        whose = f"rank{'s' if len(held) > 1 else ''} {', '.join(map(str, held))} of {saved}"
        raise ValueError(
            f"the history is that of {whose}, and this is rank {rank} of {ranks}: give load_state_dict the states of "
            f"all {saved}, or what state_dict returned on any of them, which holds all groups"
        )
