"""The line charts of a run's page."""

from __future__ import annotations

from memsieve.pages.run_plots import Series, line_chart, smooth, thin


def test_charts() -> None:
    assert line_chart([Series("none", [], [])], label="", y_label="") == ""
    chart = line_chart([Series("one", [3], [0.0])], label='"><script>', y_label="<y>")
    assert "<circle" in chart and "<script>" not in chart and "<y>" not in chart and "nan" not in chart
    assert "100k" in line_chart([Series("wide", [1, 2], [0.1, 1e5])], label="", y_label="")
    assert len(thin(range(1000), range(1000))[0]) == 300 and smooth([1.0, 1.0, 1.0]) == [1, 1, 1]
