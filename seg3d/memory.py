"""How much memory the work has taken at its peak."""

from __future__ import annotations

import resource
import sys

import torch

GIB = 2**30


def peak_gib(device: torch.device) -> float:
    """Peak memory in GiB: tensors allocated on a GPU, or the resident size of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
