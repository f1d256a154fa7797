"""What scores are a function of, and what an audit does not do to images."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from memsieve.filtering.audit.config import AuditConfig, AuditRun, config_hash, deciding


def hash_of(model: dict[str, Any] | None = {"hash": "m"}, **more: Any) -> str:  # noqa: B006
    data = {"path": "s", **more.pop("data", {})}
    return config_hash(deciding(AuditConfig.model_validate({"data": data, **more}), model))


def test_what_a_score_depends_on_changes_the_hash_and_nothing_else_does() -> None:
    same = [hash_of(), hash_of(batch_size=3, prefetch=0), hash_of(data={"path": "elsewhere", "workers": 2})]
    assert len(set(same)) == 1
    other = [hash_of(seed=1), hash_of(draws=2), hash_of(strata=2), hash_of(model={"hash": "n"}), hash_of(model=None)]
    limits = {"max_image_bytes": 9999, "max_image_pixels": 9999, "max_caption_bytes": 99, "allow_empty_caption": True}
    named = {"resolution": 64, "caption_key": "text", "image_key": "png", "split": "test", "format": "folder"}
    other += [hash_of(data={name: value}) for name, value in (limits | named).items()]
    assert len({*same, *other}) == 1 + len(other)
    assert hash_of(model=None) == hash_of(model=None, seed=1), "without a model nothing is drawn"


@pytest.mark.parametrize("data", [{"crop": "random"}, {"flip": True}])
def test_crops_and_flips_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="leave data.crop and data.flip alone"):
        AuditConfig.model_validate({"data": {"path": "s", **data}})


def test_an_audit_keeps_its_own_part_of_a_run_and_what_was_not_set_stays_unset() -> None:
    run = AuditRun.model_validate({"output": "out", "data": {"path": "s"}, "engine": "ray", "seed": 5})
    audit = run.audit()
    assert type(audit) is AuditConfig and audit.seed == 5
    assert "resolution" not in audit.data.model_fields_set and "draws" not in audit.model_fields_set
