"""Which charts a run has: the same six in the same order, and each says what it shows of what was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from memsieve.pages.run_charts import MOST_LINES, _evidence, _magnitude_by_timestep, run_charts
from memsieve.pages.run_data import EVIDENCE, LEDGER, RunData

TITLES = [
    "Training loss", "Held-out loss", "Dropped share of each batch", "Text-conditional magnitude",
    "Magnitude by timestep", "Evidence of top suspects",
]  # fmt: skip


def run_of(
    ledger: list[dict[str, Any]] | None = None, evidence: list[dict[str, Any]] | None = None, **metrics: Any
) -> RunData:
    tables = [
        pa.Table.from_pylist(rows or [], pa.schema(list(columns.items())))
        for rows, columns in ((ledger, LEDGER), (evidence, EVIDENCE))
    ]
    named = {name.replace("__", "/"): values for name, values in metrics.items()}
    return RunData(Path("run"), None, named, None, tables[0], pa.table({}), tables[1], [], [])


def measured(action: str, timestep: int | None, magnitude: float | None) -> dict[str, Any]:
    return {"action": action, "timestep": timestep, "magnitude": magnitude}


def test_what_was_not_recorded_is_an_empty_chart_without_a_legend() -> None:
    charts = run_charts(run_of(), set())
    assert [chart["title"] for chart in charts] == TITLES
    assert all(chart["svg"] == "" and chart["legend"] == [] and chart["remark"] for chart in charts)


def test_what_was_recorded_is_drawn_each_for_itself() -> None:
    steps = [1.0, 2.0, 3.0]
    for name, title in (
        ("train__loss", TITLES[0]), ("val__heldout_loss", TITLES[1]), ("mem__dropped_frac", TITLES[2]),
        ("mem__magnitude_mean", TITLES[3]), ("mem__magnitude_p95", TITLES[3]),
    ):  # fmt: skip
        charts = run_charts(run_of(**{name: (steps, [0.1, 0.2, 0.3])}), set())
        assert [chart["title"] for chart in charts if chart["svg"]] == [title]


def test_the_signal_that_decides_and_drawings_that_come_back_have_charts_where_they_were_recorded() -> None:
    steps, values = [1.0, 2.0, 3.0], [0.1, 0.2, 0.3]
    recorded = {"mem__reference_residual_mean": (steps, values), "val__suspects_copy_rate": (steps, values)}
    for config, title in (("reference_residual", "Reference residual, which decides"), ("magnitude", None)):
        data = run_of(**recorded)
        data.config = f"filter:\n  signals: [{config}]\n"
        drawn = [chart["title"] for chart in run_charts(data, set()) if chart["svg"]]
        assert drawn == [*([title] if title else []), "Drawings that come back"]


def test_a_share_is_drawn_in_percent() -> None:
    (chart,) = [c for c in run_charts(run_of(mem__dropped_frac=([1.0, 2.0], [0.0, 0.4])), set()) if c["svg"]]
    assert ">40<" in chart["svg"] and ">0.4<" not in chart["svg"]


def test_magnitudes_are_quartiles_of_the_visits_of_a_tenth_of_the_schedule() -> None:
    rows = [measured("drop", 950, value) for value in (1.0, 2.0, 3.0, 4.0, 5.0)]
    rows += [measured("drop", 150, value) for value in (1.0, 2.0)]  # too few to say anything
    rows += [measured("drop", 250, value) for value in (1.0, 2.0, float("nan"))]
    rows += [measured("held_out", 0, value) for value in (7.0, 8.0, 9.0)]
    rows += [measured("keep", 500, value) for value in (7.0, 8.0, 9.0)]
    rows += [measured("drop", None, 1.0), measured("drop", 500, None)]
    series, bands, legend = _magnitude_by_timestep(run_of(rows))
    assert (
        [line.name for line in series] == ["held out", "dropped"] and series[0].x == [50.0] and series[1].x == [950.0]
    )
    assert (list(bands[1].low), list(series[1].y), list(bands[1].high)) == ([2.0], [3.0], [4.0])
    assert legend == [("c2", "held out (3)"), ("c1", "dropped (10)")]


def test_a_schedule_of_more_steps_is_cut_into_ten_too() -> None:
    rows = [measured("drop", 3999, value) for value in (1.0, 2.0, 3.0)]
    (line,), _, _ = _magnitude_by_timestep(run_of(rows))
    assert line.x == [3800.0]


def suspects(name: str, *values: float, bar: float = float("nan")) -> list[dict[str, Any]]:
    return [{"step": 10 * (i + 1), "group": name, "evidence": v, "threshold": bar} for i, v in enumerate(values)]


def test_removed_groups_are_drawn_over_the_others_and_the_bar_is_dashed() -> None:
    rows = [*suspects("kept", 1.0, 2.0, bar=7.5), *suspects("gone", 3.0, 9.0, bar=7.5)[::-1]]
    rows += suspects("unknown", float("nan"))
    series, legend = _evidence(run_of(evidence=rows), {"gone"})
    assert [(line.name, line.style) for line in series] == [
        ("kept", "c4"), ("gone", "c1"), ("threshold", "c5 dashed"),
    ]  # fmt: skip
    assert (list(series[1].x), list(series[1].y)) == ([10, 20], [3.0, 9.0]), "in the order of the steps"
    assert (list(series[2].x), list(series[2].y)) == ([10, 20], [7.5, 7.5])
    assert legend == [("c1", "removed (1)"), ("c4", "not removed (1)"), ("c5 dashed", "threshold")]


def test_a_run_without_a_bar_has_no_line_of_it() -> None:
    series, legend = _evidence(run_of(evidence=suspects("kept", 1.0, 2.0)), set())
    assert [line.name for line in series] == ["kept"] and legend[-1] == ("c4", "not removed (1)")


def test_the_groups_with_the_highest_evidence_are_drawn_and_no_more_than_can_be_told_apart() -> None:
    names = [f"g{i:02d}" for i in np.random.default_rng(0).permutation(MOST_LINES + 6)]
    rows = [row for name in names for row in suspects(name, float(name[1:]), 0.5)]
    series, legend = _evidence(run_of(evidence=rows), set())
    assert sorted(line.name for line in series) == [f"g{i:02d}" for i in range(6, MOST_LINES + 6)]
    assert legend[1] == ("c4", f"not removed ({MOST_LINES})")
