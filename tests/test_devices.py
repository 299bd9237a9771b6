"""The precision of passes; what they compute is in test_adapt.py."""

import pytest
import torch

from maskmend.devices import autocast, resolve_precision, weights_dtype


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_given_precision_stays(precision):
    assert resolve_precision(precision, torch.device("cpu")) == precision


@pytest.mark.parametrize(
    ("tiles", "vectors", "precision"),
    [
        (True, False, "bf16-mixed"),
        (False, True, "bf16-mixed"),
        (False, False, "32-true"),
    ],
)
def test_an_automatic_precision_is_what_the_hardware_has(monkeypatch, tiles, vectors, precision):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors)
    assert resolve_precision("auto", torch.device("cpu")) == precision


@pytest.mark.parametrize(("vectors", "kind"), [(True, torch.bfloat16), (False, torch.float32)])
def test_passes_and_weights_have_that_precision(monkeypatch, vectors, kind):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors)
    with autocast("auto", torch.device("cpu")):
        assert (torch.eye(2) @ torch.eye(2)).dtype == kind
    assert weights_dtype("auto", torch.device("cpu")) == kind
