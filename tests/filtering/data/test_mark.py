"""Positions that a run goes on from, and those that it must not go on from."""

from __future__ import annotations

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
        WindowLoader(data, ROWS, seed=3, state={name: value for name, value in state.items() if name != "used"})
    with pytest.raises(ValueError, match="no state"):
        merge_states([])
    with pytest.raises(ValueError, match="different runs"):
        merge_states([state, {**state, "seed": 9}])
