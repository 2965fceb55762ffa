"""Names of devices, and the number type that each computes in."""

from __future__ import annotations

import pytest
import torch

from seg3d.common.device import choose_device, compute_dtype
from seg3d.common.errors import UserError

CPU = torch.device("cpu")


def test_devices_that_are_there() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "CPU", "cpu:", "cpu:0", "cuda:", "cuda:x", "cuda:1:2", ""])
def test_names_that_mean_nothing(name: str) -> None:
    with pytest.raises(UserError, match="is not understood"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda:99"] + ["cuda"] * (not torch.cuda.is_available()))
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(UserError, match="no CUDA device|no such GPU"):
        choose_device(name)


def test_number_types_on_a_cpu() -> None:
    assert compute_dtype("auto", CPU) == compute_dtype("off", CPU) == torch.float32
    assert compute_dtype("bf16", CPU) == torch.bfloat16
    with pytest.raises(UserError, match="needs a GPU"):
        compute_dtype("fp16", CPU)
