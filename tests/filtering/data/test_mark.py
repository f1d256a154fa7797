"""Positions that a run goes on from, and those that it must not go on from."""

from __future__ import annotations

import itertools

import pytest

from memsieve.filtering.data.loader import WindowLoader
from memsieve.filtering.data.mark import merge_states
from tests.filtering.data.uneven import ROWS, config, write_uneven


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_uneven(tmp_path_factory.mktemp("shards"))


def test_states_of_other_runs_are_refused(shards: str) -> None:
    data = config(shards)
    state = WindowLoader(data, ROWS, seed=3).state_dict()
    with pytest.raises(ValueError, match="n_streams = 8, this run has 4; set data.streams = 8"):
        WindowLoader(config(shards, streams=4), ROWS, seed=3, state=state)
    paths = [f"{shards}/{n}.tar" for n in reversed(range(8))]
    with pytest.raises(ValueError, match="has paths = .*resume on the same shards"):
        WindowLoader(data.model_copy(update={"path": paths}), ROWS, seed=3, state=state)
    with pytest.raises(ValueError, match="seed = 3, this run has 4"):
        WindowLoader(data, ROWS, seed=4, state=state)
    with pytest.raises(ValueError, match="shuffle_buffer"):
        WindowLoader(config(shards, shuffle_buffer=7), ROWS, seed=3, state=state)
    with pytest.raises(ValueError, match="rows_per_window = 8, this run has 16; keep batch x accumulation x ranks = 8"):
        WindowLoader(data, 16, seed=3, state=state)
    with pytest.raises(ValueError, match="written by memsieve 0.1.0"):
        WindowLoader(data, ROWS, seed=3, state={name: value for name, value in state.items() if name != "order"})
    buckets = data.model_copy(update={"buckets": ["8x8", "4x16"]})
    with pytest.raises(ValueError, match="buckets = None, this run has .*set data.buckets as the run"):
        WindowLoader(buckets, ROWS, seed=3, state=state)
    with pytest.raises(ValueError, match="no state"):
        merge_states([])
    with pytest.raises(ValueError, match="different runs"):
        merge_states([state, {**state, "seed": 9}])


def test_a_position_at_which_no_row_waited_is_one_in_its_older_form_too(shards: str) -> None:
    data = config(shards, held_out_fraction=0.0, image_key="png")
    loader = WindowLoader(data, ROWS, seed=3)
    whole = list(itertools.islice(loader, 4))
    again = WindowLoader(data, ROWS, seed=3)
    list(itertools.islice(again, 1))
    state = again.state_dict()
    assert state["order"] == []
    older = {name: value for name, value in state.items() if name not in ("order", "ended")} | {"read": 0, "used": 0}
    older["positions"] = [position[:3] for position in state["positions"]]
    rest = list(itertools.islice(WindowLoader(data, ROWS, seed=3, state=older), 3))
    assert [[row.key for row in window.rows if row] for window in rest] == [
        [row.key for row in window.rows if row] for window in whole[1:]
    ]
    with pytest.raises(ValueError, match="or soon after, which dealt the data otherwise"):
        WindowLoader(data, ROWS, seed=3, state=older | {"read": 1, "used": 3})
