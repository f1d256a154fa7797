"""Run files of version 0.1 come into today's words, and nothing else of them changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from memsieve.cli import app
from memsieve.filtering.settings import SettingsError, load_settings
from memsieve.train.config import RunConfig
from memsieve.train.upgrade import rewritten, upgrade_file

OLD = """# a run
output: runs/x
model: {path: assets/tiny-sd}
data:
  path: data/x
  horizon: 3  # not ours
filter:
  # what decides
  false_drop_rate: 0.02   # kept
  calibrator: robust      # median and MAD
  t_bins: 10
  decide: visit
  threshold: 4.0
  softness: 2.0           # steeper
  retest_every: 16
train: {steps: 5, batch_size: 4}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "old.yaml"
    path.write_text(text)
    return path


def test_what_is_gone_goes_and_comments_and_other_sections_stay() -> None:
    found = rewritten(OLD, "z_score")
    assert "  rule: z_score\n  threshold: 4.0\n" in found and "calibrator:" not in found and "decide:" not in found
    assert "t_bins" not in found and "softness" not in found and "retest_every" not in found
    assert "# what decides" in found and "horizon: 3  # not ours" in found and "# kept" in found


def test_a_file_is_rewritten_and_what_no_longer_holds_is_said(tmp_path: Path) -> None:
    text = OLD.replace("  horizon: 3  # not ours\n", "")
    path = written(tmp_path, text)
    with pytest.raises(
        SettingsError,
        match=r"filter\.calibrator is gone: .* Set filter\.rule: z_score in its place; .*memsieve config upgrade FILE",
    ):
        load_settings(RunConfig, path)
    done = CliRunner().invoke(app, ["config", "upgrade", str(path)])
    assert done.exit_code == 0, done.output
    assert "5 settings taken out (filter.calibrator, filter.t_bins, filter.decide," in done.output
    assert "filter.softness: 2.0 holds no more" in done.output
    section = load_settings(RunConfig, path).filter
    assert (section.false_drop_rate, section.rule, section.threshold) == (0.02, "z_score", 4.0)
    assert (tmp_path / "old.yaml.old").read_text() == text
    assert upgrade_file(path) == ([], [])


def test_a_section_of_which_nothing_is_left_is_an_empty_one(tmp_path: Path) -> None:
    plain = "output: runs/x\nmodel: {path: a}\ndata: {path: b}\ntrain: {steps: 5}\n"
    path = written(tmp_path, f"{plain}filter:  # ours\n  # how many bins\n  t_bins: 10\n")
    assert upgrade_file(path) == (["filter.t_bins"], [])
    assert path.read_text() == f"{plain}filter: {{}}  # ours\n  # how many bins\n"
    assert load_settings(RunConfig, path).filter == RunConfig.model_fields["filter"].default


@pytest.mark.parametrize(
    "section",
    [
        "filter: {t_bins: 10, record: []}",
        'filter:\n  "t_bins": 10',
        "filter: {\n  t_bins: 10, record: [],\n  signals: [loss]\n}",  # the line holds another setting too
        "filter:\n  t_bins:\n    10\n  record: []",
        "filter:\n  t_bins: &n 10\n  max_exposures: *n",
        "filter: &f\n  t_bins: 10",
        "filter:\n  never_drop:\n  - |\n    delay: 3\n  t_bins: 10",
    ],
)
def test_a_file_that_would_say_something_else_is_left_as_it_is(tmp_path: Path, section: str) -> None:
    text = f"output: runs/x\nmodel: {{path: a}}\ndata: {{path: b}}\ntrain: {{steps: 5}}\n{section}\n"
    path = written(tmp_path, text)
    with pytest.raises(SettingsError, match=r"stands on a line of its own.*by hand, take out filter\.t_bins"):
        upgrade_file(path)
    assert path.read_text() == text and [p.name for p in tmp_path.iterdir()] == ["old.yaml"]


def test_by_hand_the_rule_is_not_forgotten(tmp_path: Path) -> None:
    text = "output: runs/x\nmodel: {path: a}\ndata: {path: b}\ntrain: {steps: 5}\nfilter: {decide: visit}\n"
    with pytest.raises(SettingsError, match=r"by hand, set filter\.rule: rank, and take out filter\.decide"):
        upgrade_file(written(tmp_path, text))


@pytest.mark.parametrize("named", ["calibrator: robust", "calibrator: Robust\n  decide: visit"])
def test_what_named_no_rule_in_0_1_is_refused(tmp_path: Path, named: str) -> None:
    text = f"output: runs/x\nmodel: {{path: a}}\ndata: {{path: b}}\ntrain: {{steps: 5}}\nfilter:\n  {named}\n"
    path = written(tmp_path, text)
    with pytest.raises(SettingsError, match=r"filter\.calibrator: [rR]obust.* named no rule in 0\.1; set filter\.rule"):
        upgrade_file(path)
    assert path.read_text() == text


def test_line_endings_and_the_copy_are_what_they_were(tmp_path: Path) -> None:
    text = OLD.replace("  horizon: 3  # not ours\n", "").replace("\n", "\r\n").encode()
    path = tmp_path / "old.yaml"
    path.write_bytes(text)
    upgrade_file(path)
    assert (tmp_path / "old.yaml.old").read_bytes() == text
    assert b"  rule: z_score\r\n" in path.read_bytes() and path.read_bytes().count(b"\n") == text.count(b"\n") - 4


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link.yaml").symlink_to(written(tmp_path, OLD.replace("  horizon: 3  # not ours\n", "")))
    upgrade_file(tmp_path / "link.yaml")
    assert (tmp_path / "link.yaml").is_symlink() and "rule: z_score" in (tmp_path / "old.yaml").read_text()


def test_a_divisor_that_no_rule_has_is_said(tmp_path: Path) -> None:
    """0.1 divided by the eligible samples where nothing was set, also under the paper's rule."""
    paper = "output: runs/x\nmodel: {path: a}\ndata: {path: b}\ntrain: {steps: 5}\nfilter:\n  signals: [magnitude]\n"
    path = written(tmp_path, f"{paper}  calibrator: fixed\n  decide: visit\n  threshold: 2.0\n")
    taken, changed = upgrade_file(path)
    assert taken == ["filter.calibrator", "filter.decide"] and load_settings(RunConfig, path).filter.rule == "threshold"
    (said,) = changed
    assert said.startswith("filter.normalize: 'eligible' holds no more: rule threshold divides the loss by the kept")


def test_a_file_that_is_no_runs_is_left_alone(tmp_path: Path) -> None:
    path = written(tmp_path, OLD)  # data.horizon was never a setting
    with pytest.raises(SettingsError, match=r"unknown key 'data\.horizon'"):
        upgrade_file(path)
    assert path.read_text() == OLD and [p.name for p in tmp_path.iterdir()] == ["old.yaml"]


def test_what_stands_in_the_way_stays_and_nobody_else_may_read_what_nobody_could(tmp_path: Path) -> None:
    text = OLD.replace("  horizon: 3  # not ours\n", "")
    path = written(tmp_path, text)
    path.chmod(0o600)
    kept = tmp_path / "old.yaml.old"
    kept.write_text("mine")
    with pytest.raises(SettingsError, match=r"old\.yaml\.old' is there already, .* move it away first"):
        upgrade_file(path)
    assert kept.read_text() == "mine" and path.read_text() == text
    kept.unlink()
    upgrade_file(path)
    assert [file.stat().st_mode & 0o777 for file in (path, kept)] == [0o600, 0o600]
