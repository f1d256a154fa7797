"""A plan that works on a tiny stream, and cells written by hand as a finished one is written down."""

from __future__ import annotations

from typing import Any

from benchmarks.copying.drawings import JUDGES, Drawing
from benchmarks.copying.plan import Cell, Plan, Protocol

__all__ = ["TINY_PROTOCOL", "fixture_cell"]

TINY_PROTOCOL = Protocol(
    "assets/tiny-sd", resolution=32, batch_size=4, steps=4, streams=2, held_out_draws=1,
    drawing=Drawing(images=1, ordinary=2, held_out=60, steps=2),
)  # fmt: skip


def fixture_cell(plan: Plan, cell: Cell, own: float, finds: bool = False, **more: Any) -> dict[str, Any]:
    """Of six pairs at 400 exposures, three families, 40 ordinary pairs of which one is dropped, and 50 held out.

    ``own``: the rate at which planted pairs' own picture is nearest; .2 of the others.
    """
    scored = {"score": 5.0 if finds else 0.5}
    pairs = [{"pair": f"p{i}", "case": "exact 400" if i < 6 else "family 400", "repeats": 80, "visits": 400,
              "trained": 200 if finds else 400, "late": float(finds), "first": 40 if finds else None,
              "condemned": float(finds), "dropped": finds, **scored} for i in range(9)]  # fmt: skip
    drawn: dict[str, Any] = {}
    for pair in pairs:
        drawn[pair["pair"]] = {"case": pair["case"]}
        for judge in JUDGES:
            drawn[pair["pair"]] |= {f"own {judge}": own, f"copies {judge}": [int(own >= 0.5)]}
    for name, count, case in (("o", 40, "ordinary"), ("h", 50, "held_out")):
        for i in range(count):
            drawn[f"{name}{i}"] = {"case": case, **{f"own {judge}": float(i % 5 == 0) for judge in JUDGES}}
            if case == "ordinary":
                drawn[f"{name}{i}"] |= {f"copies {judge}": [0] for judge in JUDGES}
            else:
                drawn[f"{name}{i}"]["recognised"] = 0.5
    singles = {"ordinary": {"count": 40, "score": [i / 40 for i in range(40)], "visits": [5] * 40, "dropped": [3]},
               "rare": {"count": 10, "score": [0.1] * 10, "visits": [5] * 10, "dropped": []}}  # fmt: skip
    return {
        "hash": plan.hash(cell), "method": cell.method, "stream": cell.stream, "seed": cell.seed,
        "settings": plan.settings(cell), "tuned": None, "rows": {"stream": 1000, "oracle": 200},
        "machine": {"processor": "a processor", "cores": 2, "torch": "2"}, "cpu_seconds_per_step": 0.2,
        "steps": 600, "updates": 600, "pairs": pairs, "singles": singles, "drawn": drawn,
        "held_out": [0.1, 0.2, 0.3] if cell.method == "oracle" else [0.11, 0.22, 0.33], **more,
    }  # fmt: skip
