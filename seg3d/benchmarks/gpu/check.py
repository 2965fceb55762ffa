"""Whether a user's GPU computes what it should, and what a training step takes there."""

from __future__ import annotations

import torch

from seg3d.benchmarks.gpu.agreement import agreement
from seg3d.benchmarks.gpu.scale import FULL, SHORT, Scale, Steps
from seg3d.benchmarks.gpu.steps import timed_steps
from seg3d.benchmarks.gpu.ways import AUTO, PLAIN


def check_gpu(
    device: torch.device, scale: Scale = FULL, steps: Steps = SHORT
) -> tuple[bool, list[str]]:
    """Compare the kernels with ordinary PyTorch, and time training steps.

    Args:
        device: where.
        scale: its shapes.
        steps: to be timed, plain ones and those of ``auto`` among them.

    Returns:
        Whether the kernels are right, and what to tell the user.
    """
    kernels = agreement(device, scale, short=True)
    if not kernels["kernels"]:
        words = ["This device takes the path without kernels: right, but slower."]
    elif kernels["right"]:
        words = ["The kernels compute what PyTorch does, and the same every time."]
    else:
        words = ["The kernels are WRONG here. Set SEG3D_KERNELS=0, and report the table above."]
    rows = {row["method"]: row for row in timed_steps(device, steps)["rows"]}
    for row in rows.values():
        if "failed" in row:
            words.append(f"{row['method']}: {row['failed']}")
    ours = rows[AUTO]
    if "times_plain" in ours:
        words.append(
            f"A training step of {steps.title} takes {ours['seconds']:.3f} s, "
            f"{ours['times_plain']:.2f} times as long as plainly"
        )
        if "peak_gib" in ours:
            words[-1] += (
                f", and {ours['peak_gib']:.2f} GiB instead of {rows[PLAIN]['peak_gib']:.2f}"
            )
        words[-1] += "."
    return kernels["right"], words
