"""One self-contained HTML page and a summary.json of an audit: scores, duplicates, the ranking, data errors."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.pair_scores import WITH_REFERENCE
from memsieve.filtering.audit.summary import Summary, summarise
from memsieve.filtering.files import write_json, write_whole
from memsieve.filtering.folder_kind import AUDIT, refuse_other_kind
from memsieve.pages.pictures import Place, small_pictures
from memsieve.pages.rendering import render
from memsieve.pages.run_plots import Series, line_chart

__all__ = ["build_audit_report"]

THUMBNAIL = 112
COLOURS = ("c0", "c2", "c3", "c1")
NAMES = {
    "magnitude": ("Magnitude", "How much the caption changes the prediction: ‖ε(caption) − ε(∅)‖."),
    "loss": ("Loss", "Mean squared error of ε; a memorised pair has less of it."),
    "loss_gap": ("Loss gap", "Loss without the caption minus loss with it."),
}
HIGHER = {
    "magnitude": "the caption changes the prediction more",
    "loss_gap": "the caption helps more",
    "loss": "the loss is lower, as it also is of plain pictures",
    "reference_ratio": "the model denoises a pair better than the base does, as it does what it has memorised",
    "magnitude_ratio": "the caption changes the prediction more than it changes the base's",
}
"""What a higher score means, signal by signal."""
WITHOUT_REFERENCE = (
    "This compares with no other model and says little of what a fine-tune has memorised: where captions were dropped "
    "in training both branches learn a repeated pair. Audit the base too, and name it with --reference."
)


def build_audit_report(
    run: Path, out: Path | None = None, *, samples: bool = True, **options: Any
) -> tuple[Path, Summary]:
    """Write the page of the audit in ``run`` to ``out`` (default: report.html in its folder), ``summary.json`` beside
    it; the page's path and what it says.

    Args:
        samples: show captions and pictures.
        options: of ``summarise``.

    Raises:
        ValueError: ``run`` is no audit, nothing of it is done, or ``out`` lies in the folder of another command.
    """
    summary = summarise(run, **options)
    target = run / "report.html" if out is None else Path(out)
    refuse_other_kind(target.parent, AUDIT, "--out")  # a summary.json goes beside the page
    target.parent.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(summary) if samples else {}
    context = {
        "title": run.resolve().name,
        "written": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "numbers": summary.values,
        "headline": _headline(summary),
        "warnings": _warnings(summary),
        "charts": _charts(summary),
        "top": summary.top,
        "duplicates": summary.duplicates,
        "captions": summary.captions,
        "looks": summary.looks,
        "standing": _standing(summary),
        "errors": summary.errors,
        "meaning": _meaning(summary.values.get("signal")),
        "pictures": pictures,
        "samples": samples,
        "config": json.dumps(summary.about["deciding"], indent=2),
        "paths": summary.about["config"]["data"]["path"],
        "versions": summary.about["versions"],
    }
    write_whole(target, render("audit.html", context))
    write_json(target.with_name("summary.json"), summary.values)
    return target, summary


def _meaning(signal: str | None) -> str:
    """What a higher score means, and what it does not."""
    if signal is None:
        return ""
    names = signal.split("+")
    told = "; ".join(HIGHER[name] for name in names)
    beside = "" if any(name in WITH_REFERENCE for name in names) else f" {WITHOUT_REFERENCE}"
    return f"Higher where {told}.{beside}"


def _headline(summary: Summary) -> str:
    n = summary.values
    text = f"{n['rows']:,} samples in {n['done']:,} shards hold {n['pairs']:,} distinct images"
    if n["duplicate_samples"]:
        text += f"; {n['duplicate_samples']:,} samples repeat one of {n['duplicate_groups']:,} of them"
    if n["failed"]:
        text += f"; {n['failed']:,} samples cannot be used"
    text += "."
    if "truth" in n:
        truth = n["truth"]
        text += (
            f" The {truth['planted_pairs']:,} pairs planted {truth['planted_from']} times or more are ranked above the "
            f"others with an AUC of {truth['auc']:.3f} by {n['signal'].replace('+', ' + ')}."
        )
    return text


def _standing(summary: Summary) -> str:
    """How many pairs stand out, and where the gap is; empty where nothing was scored."""
    found, scored = summary.values["standing_out"], summary.values["scored_pairs"]
    if not scored:
        return ""
    if found is None:
        return (
            f"No pair stands out: the scores of {scored:,} pairs have no gap above which a few would lie. A "
            "cut-off is a choice here, not a finding."
        )
    number, low, high = found["pairs"], found["next"], found["lowest"]
    stand = "1 pair stands" if number == 1 else f"{number:,} pairs stand"
    return (
        f"{stand} out: {'its score is' if number == 1 else 'their scores are'} {high:.4g} or more, the next is "
        f"{low:.4g}, and nobody lies between. memsieve audit select --max-score {(low + high) / 2:.4g} takes "
        f"{'it' if number == 1 else 'them'} out."
    )


def _warnings(summary: Summary) -> list[str]:
    n = summary.values
    found = []
    if not n["complete"]:
        found.append(
            f"This audit is not complete: {n['missing']:,} shards are missing, {n['stale']:,} stale and {n['gone']:,} "
            f"gone, of {n['tasks']:,}. What follows is of the others."
        )
    if summary.status.useless:
        found.append(f"No sample of {n['rows']:,} can be used; the reasons are below.")
    if n["truncated"]:
        shards = "1 shard is" if n["truncated"] == 1 else f"{n['truncated']:,} shards are"
        found.append(f"{shards} truncated or damaged: samples behind the damage were never seen.")
    return found


def _charts(summary: Summary) -> list[dict[str, Any]]:
    charts = []
    for name in ("magnitude", "loss", "loss_gap"):
        title, remark = NAMES[name]
        series, legend = [], []
        for style, (label, edges, counts) in zip(COLOURS, summary.histograms.get(name, []), strict=False):
            middles = ((edges[:-1] + edges[1:]) / 2).tolist()
            shares = (100 * counts / max(int(counts.sum()), 1)).tolist()
            series.append(Series(label, middles, shares, style))
            legend.append((style, label))
        svg = line_chart(series, label=f"{title} by t. {remark}", y_label="% of draws", x_label=title.lower())
        charts.append({"title": f"{title} by t", "svg": svg, "legend": legend, "remark": remark})
    cuts, shares = summary.curve
    shown = np.array(shares) <= 0.5
    series = [Series("share", np.array(cuts)[shown].tolist(), (100 * np.array(shares)[shown]).tolist(), "c1")]
    remark = "Share of pairs that --max-score would take out, by the cut-off."
    told = len(set(cuts)) > 1  # of scores that are all alike there is nothing to choose
    svg = line_chart(series if told else [], label=remark, y_label="% of pairs", x_label="cut-off")
    charts.append({"title": "Dropped against cut-off", "svg": svg, "legend": [], "remark": remark})
    return charts


def _pictures(summary: Summary) -> dict[str, Markup]:
    """Of the top pairs, and of what looks alike or shares a caption."""
    config = AuditConfig.model_validate(summary.about["config"]).data
    places = [Place(pair.content, pair.shard, pair.index, pair.part) for pair in summary.top]
    places += [Place(**place) for shared in (*summary.looks, *summary.captions) for place in shared["pictures"]]
    return small_pictures(places, config, (task["name"] for task in summary.about["tasks"]), THUMBNAIL)
