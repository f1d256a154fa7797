"""One rank of test_ranks.py, which says what is shown.

    torchrun --nproc_per_node=2 tests/filtering/in_loop/rank_worker.py FOLDER

Writes FOLDER/found-RANK.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from memsieve import LoopFilter
from tests.filtering.in_loop.loops import Script

__all__ = ["SAVED_AT", "STEPS", "Run"]

STEPS, SAVED_AT, GLOBAL = 17, 10, 8
HELD_OUT = [f"held {i}" for i in range(6)]
TRAINED = [f"pair {i}" for i in range(12)]


class Run:
    """A script with the filter in it: eight pairs a step, whichever ranks they lie on, two of them held out."""

    def __init__(self) -> None:
        AcceleratorState._reset_state(reset_partial_state=False)
        GradientState._reset_state()
        self.accelerator, self.script = Accelerator(cpu=True), Script("sd")
        optimizer = torch.optim.Adam(self.script.network.parameters(), lr=3e-3)
        self.script.network, self.optimizer = self.accelerator.prepare(self.script.network, optimizer)
        self.sieve = LoopFilter(
            self.script.network, self.script.noise_scheduler, self.accelerator, held_out=HELD_OUT, false_drop_rate=0.2,
            always_drop=["pair 3"],
        )  # fmt: skip

    def train(self, first: int, last: int) -> None:
        """Steps ``first`` to ``last``, of which each draws what one process would."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        mine = slice(rank * GLOBAL // ranks, (rank + 1) * GLOBAL // ranks)
        for step in range(first, last):
            keys = [
                *(HELD_OUT[(2 * step + i) % 6] for i in range(2)),
                *(TRAINED[(6 * step + i) % 12] for i in range(6)),
            ]
            drawn = self.script.draw(keys, torch.Generator().manual_seed(step))
            part = type(drawn)(*(getattr(drawn, name)[mine] for name in vars(drawn)))
            model_pred = self.script.predict(keys[mine], part)
            loss = self.sieve.loss(model_pred, part.target, part.timesteps, keys[mine])
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def found(self) -> dict[str, Any]:
        """What is known and where the weights are."""
        groups, held_out = self.sieve.filter.groups, self.sieve.filter.held_out
        columns = ("evidence", "exposures", "trained", "dropped")
        network = self.accelerator.unwrap_model(self.script.network)
        return {
            "pairs": {name: [float(groups[c][groups.row(name)]) for c in columns] for name in sorted(groups.names)},
            "held out": {name: held_out.table["exposures"].tolist()[i] for i, name in enumerate(held_out.table.names)},
            "bar": self.sieve.filter.evidence_bar,
            "scalars": self.sieve.scalars(),
            "weights": [float(parameter.detach().double().sum()) for parameter in network.parameters()],
        }


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    run = Run()
    run.train(0, SAVED_AT)
    if run.accelerator.is_main_process:  # as diffusers' scripts save
        run.accelerator.save_state(str(folder / "two"))
    run.accelerator.wait_for_everyone()
    run.train(SAVED_AT, STEPS)
    found = {"whole": run.found()}
    for saved in ("two", "one"):
        again = Run()
        again.accelerator.load_state(str(folder / saved))
        again.train(SAVED_AT, STEPS)
        found[saved] = again.found()
    (folder / f"found-{run.accelerator.process_index}.json").write_text(json.dumps(found))
    run.accelerator.end_training()


if __name__ == "__main__":
    main()
