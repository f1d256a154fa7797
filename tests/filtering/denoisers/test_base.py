"""What training, inference and audits ask of a model family, each family answers."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest

from memsieve.filtering.denoisers.base import Denoiser
from memsieve.filtering.denoisers.registry import FAMILIES, denoiser_of
from tests.tiny_models import recent_slow, tiny_family

ASKED = {name: value for name, value in vars(Denoiser).items() if not name.startswith("_")}


@pytest.mark.parametrize("name", recent_slow())
def test_a_familys_adapter_has_all_that_is_asked_for(name: str) -> None:
    denoiser = denoiser_of(tiny_family(name))
    wanted = {*ASKED, *Denoiser.__annotations__}
    assert len(wanted) > 25 and not [one for one in wanted if not hasattr(denoiser, one)]
    assert denoiser.prediction_type in ("epsilon", "v_prediction", "sample", "flow")
    assert denoiser.guidance_name in inspect.signature(type(denoiser).pipeline_class.__call__).parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_methods_are_called_as_the_interface_says(family: str) -> None:
    """By the same names in the same order, so that a caller need not know which family it has."""
    module, kind = FAMILIES[family]
    adapter: Any = getattr(import_module(module), kind)
    for name, method in ASKED.items():
        if inspect.isfunction(method):
            asked, has = (list(inspect.signature(one).parameters) for one in (method, getattr(adapter, name)))
            assert [one for one in has if one in asked] == asked == has[: len(asked)], name
            rest = list(inspect.signature(getattr(adapter, name)).parameters.values())[len(asked) :]
            assert all(one.default is not inspect.Parameter.empty for one in rest), name
        else:
            assert isinstance(method, property) and isinstance(inspect.getattr_static(adapter, name), property), name
