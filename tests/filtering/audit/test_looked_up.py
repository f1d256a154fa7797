"""The model before fine-tuning, read from audits of it: which numbers are found, and which audits are refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memsieve.filtering.audit.looked_up import LookedUpReference
from memsieve.filtering.audit.records import content_of
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.draws import visit_draw
from memsieve.filtering.settings import SettingsError
from tests.filtering.audit.written import DECIDING, MODEL, row, sha256, write_audit


def scored(name: str, loss: list[float | None], magnitude: list[float | None] | None = None) -> dict[str, Any]:
    """A row of the image ``name`` with the caption ``a NAME``, as an audit knows captions."""
    known = hashlib.sha256(f"a {name}".encode()).hexdigest()[:32]
    return row(name, magnitude or loss, caption_hash=known, loss=loss)


def content(name: str) -> str:
    return content_of(sha256(name))


def opened(*folders: Path, seed: int = 3, model: dict[str, Any] | None = None, **data: Any) -> LookedUpReference:
    settings = DataConfig.model_validate({"path": "shards", "resolution": 16, **data})
    return LookedUpReference([str(folder) for folder in folders], model or MODEL, settings, seed)


def found(reference: LookedUpReference, name: str, caption: str | None = None, visit: int = 0) -> list[float]:
    """Loss and magnitude of one pair."""
    values = reference.look_up([content(name)], [caption or f"a {name}"], [visit])
    return [float(values[part][0]) for part in ("loss", "magnitude")]


# -- looking up --------------------------------------------------------------------------------------------------------


def test_a_pair_is_known_by_its_image_and_its_caption(tmp_path: Path) -> None:
    reference = opened(write_audit(tmp_path, [scored("cat", [1.0, 2.0], [10.0, 20.0]), scored("dog", [3.0, 4.0])]))
    assert len(reference) == 2 and reference.draws == 2
    assert found(reference, "cat") == [1.0, 10.0] and found(reference, "cat", visit=1) == [2.0, 20.0]
    assert found(reference, "dog", visit=1) == [4.0, 4.0]
    assert reference.knows(content("cat"), "a cat") and not reference.knows(content("cat"), "a dog")
    assert np.isnan(found(reference, "cat", "another caption")).all() and np.isnan(found(reference, "bird")).all()


def test_a_visit_that_was_not_drawn_is_nan_and_so_is_a_draw_without_a_score(tmp_path: Path) -> None:
    rows = [scored("cat", [1.0, 2.0]), scored("dog", [3.0, None])]
    reference = opened(write_audit(tmp_path, rows))
    for visit in (-1, 2):
        assert np.isnan(found(reference, "cat", visit=visit)).all(), visit
    assert np.isnan(found(reference, "dog", visit=1)).all() and found(reference, "dog")[0] == 3.0


def test_each_row_of_a_batch_gets_its_own_numbers_whatever_the_order(tmp_path: Path) -> None:
    names = [f"p{number:02}" for number in range(40)]
    reference = opened(write_audit(tmp_path, [scored(name, [float(i), i + 0.5]) for i, name in enumerate(names)]))
    asked = [*reversed(names), "nobody"]
    values = reference.look_up([content(name) for name in asked], [f"a {name}" for name in asked], [0, 1] * 20 + [0])
    expected = [39 - i + 0.5 * (i % 2) for i in range(40)]
    assert values["loss"][:-1].tolist() == expected and np.isnan(values["loss"][-1])
    assert {array.dtype for array in values.values()} == {np.dtype(np.float32)}
    assert sorted(values["place"][:-1].tolist()) == list(range(40)) and np.isnan(values["place"][-1])


def test_audits_are_joined_by_the_draws_that_all_have_and_the_first_says_what_both_hold(tmp_path: Path) -> None:
    one = write_audit(tmp_path / "one", [scored("cat", [1.0, 2.0])])
    longer = [scored("cat", [7.0, 8.0, 9.0]), scored("dog", [3.0, 4.0, 5.0])]
    for record in longer:
        record |= {"timesteps": [1, 2, 3], "loss_gap": [0.0] * 3}
    two = write_audit(tmp_path / "two", longer, DECIDING | {"draws": 3})
    reference = opened(one, two)
    assert len(reference) == 2 and reference.draws == 2
    assert found(reference, "cat", visit=1)[0] == 2.0 and found(reference, "dog", visit=1)[0] == 4.0
    assert np.isnan(found(reference, "dog", visit=2)).all()
    assert found(opened(two), "dog", visit=2)[0] == 5.0


def test_rows_without_an_image_are_nobodys(tmp_path: Path) -> None:
    rows = [row("broken", sha256=None, status="bad_image", caption_hash=None), scored("cat", [1.0, 2.0])]
    reference = opened(write_audit(tmp_path, rows))
    assert found(reference, "cat")[0] == 1.0 and np.isnan(found(reference, "broken")).all()


def test_a_visit_is_drawn_as_the_audit_drew_it(tmp_path: Path) -> None:
    reference = opened(write_audit(tmp_path, [scored("cat", [1.0, 2.0])]))
    for visit in (0, 1, 5):
        drawn = reference.draw(content("cat"), visit)
        expected = visit_draw(3, content("cat"), visit, shape=(4, 8, 8), num_train_timesteps=100, strata=2)
        assert drawn.timestep == expected.timestep and torch.equal(drawn.noise, expected.noise)
        assert torch.equal(drawn.vae_noise, expected.vae_noise)


# -- audits that are not of this run -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, r"made with seed 3, and this run has 4; set train\.seed: 3, or audit with --seed 4"),
        (
            {"model": MODEL | {"hash": "n" * 64}},
            r"made with model mmmmmmmmmmmm\.\.\., and this run has nnnnnnnnnnnn\.\.\.; audit the model that model",
        ),
        ({"model": MODEL | {"latent_shape": (4, 4, 4)}}, r"latent shape \[4, 8, 8\], and this run has \[4, 4, 4\]"),
        ({"resolution": 32}, r"made with resolution 16, and this run has 32; audit at data\.resolution"),
        ({"flip": True}, r"scored centre crops.*data\.crop: center and data\.flip: True; set center and false"),
        ({"crop": "random"}, r"scored centre crops.*data\.crop: random and data\.flip: False"),
        ({"group_by": "key"}, r"data\.group_by is key; set data\.group_by: content"),
        ({"groups": "table.parquet"}, r"data\.groups: 'table\.parquet' joins several; leave it out"),
    ],
)
def test_an_audit_of_something_else_is_refused_with_both_ways_out(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    audit = write_audit(tmp_path, [scored("cat", [1.0, 2.0])])
    with pytest.raises(SettingsError, match=rf"^filter\.reference: .*{message}.*filter\.reference: frozen$"):
        opened(audit, **changes)


def test_an_audit_of_the_data_alone_and_two_of_different_strata_are_refused(tmp_path: Path) -> None:
    plain = write_audit(tmp_path / "plain", [row("cat")], {"model": None, "data": {"resolution": 16}})
    with pytest.raises(SettingsError, match=r"'.*plain' looked at the data alone \(--data-only\); score it with the"):
        opened(plain)
    one = write_audit(tmp_path / "one", [scored("cat", [1.0, 2.0])])
    two = write_audit(tmp_path / "two", [scored("dog", [1.0, 2.0])], DECIDING | {"strata": 4})
    with pytest.raises(SettingsError, match=r"one', '.*two'\] have different strata \[2, 4\]"):
        opened(one, two)
