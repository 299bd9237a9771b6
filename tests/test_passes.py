"""The precision of the passes; what they compute is in test_adapt.py."""

import pytest
import torch

from maskmend.passes import resolve_precision


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_given_precision_stays(precision):
    assert resolve_precision(precision, torch.device("cpu")) == precision


@pytest.mark.parametrize(("units", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_an_automatic_precision_is_what_the_hardware_has(monkeypatch, units, precision):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: units)
    assert resolve_precision("auto", torch.device("cpu")) == precision
