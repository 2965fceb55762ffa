"""Names of devices, and the number type that each computes in."""

from __future__ import annotations

import pytest
import torch

from seg3d.common.device import Amp, choose_device, compute_dtype, home_of_float64
from seg3d.common.errors import UserError

CPU, APPLE = torch.device("cpu"), torch.device("mps")


def test_devices_that_are_there() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    "name", ["gpu", "CPU", "cpu:", "cpu:0", "cuda:", "cuda:x", "cuda:1:2", "mps:0", ""]
)
def test_names_that_mean_nothing(name: str) -> None:
    with pytest.raises(UserError, match="is not understood"):
        choose_device(name)


@pytest.mark.parametrize(
    "name",
    [
        "cuda:99",
        *["cuda"] * (not torch.cuda.is_available()),
        *["mps"] * (not torch.backends.mps.is_available()),
    ],
)
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(UserError, match="no CUDA device|no such GPU|no Apple GPU"):
        choose_device(name)


def test_number_types_on_a_cpu() -> None:
    assert compute_dtype("auto", CPU) == compute_dtype("off", CPU) == torch.float32
    assert compute_dtype("bf16", CPU) == torch.bfloat16
    with pytest.raises(UserError, match="needs a GPU"):
        compute_dtype("fp16", CPU)


def test_an_apple_gpu_has_to_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps") == APPLE
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_number_types_on_an_apple_gpu() -> None:
    assert compute_dtype("auto", APPLE) == compute_dtype("off", APPLE) == torch.float32
    half: tuple[Amp, ...] = ("bf16", "fp16")
    for amp in half:
        with pytest.raises(UserError, match="not on an Apple GPU"):
            compute_dtype(amp, APPLE)
    # It has no float64.
    assert home_of_float64(APPLE) == home_of_float64(CPU) == CPU
    assert home_of_float64(torch.device("cuda", 1)) == torch.device("cuda", 1)
