"""Waiting for a GPU, forgetting what it holds, and what is said of it."""

from __future__ import annotations

import gc
from typing import Any

import torch

from seg3d.common.sizes import GIB


def wait(device: torch.device) -> None:
    """Until all that was asked for is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget(device: torch.device) -> None:
    """Give back all memory that no tensor needs."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def allocated(device: torch.device) -> int:
    """Bytes of all tensors on a GPU; nothing is known of a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def measure_peak(device: torch.device) -> None:
    """From now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peaks(device: torch.device) -> dict[str, float]:
    """In GiB, what tensors have taken at most, and what PyTorch has taken for them."""
    if device.type != "cuda":
        return {}
    return {
        "peak_gib": torch.cuda.max_memory_allocated(device) / GIB,
        "reserved_gib": torch.cuda.max_memory_reserved(device) / GIB,
    }


def in_a_cell(value: Any) -> str:
    """For a cell of a table."""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def first_line(error: BaseException) -> str:
    """What went wrong, in a line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
