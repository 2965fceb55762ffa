"""Training on several processes: each has the whole network, and a part of every batch.

All of them begin with the same weights and make the same steps, with the mean of their gradients.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


def data_parallel(network: nn.Module, group: distributed.ProcessGroup | None) -> nn.Module:
    """What forward passes are to go through; the network itself if there is no group."""
    if group is None:
        return network
    # Gradients lie in what is sent, so that there is no second copy of them.
    return DistributedDataParallel(network, process_group=group, gradient_as_bucket_view=True)


def each_for_itself(network: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """In the block, if that is wanted, gradients stay with the process that has made them."""
    if wanted and isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return nullcontext()


def take_buffers_of_first(network: nn.Module, group: distributed.ProcessGroup | None) -> None:
    """Have all processes validate one network: running statistics differ between forward passes."""
    if group is not None:
        for buffer in network.buffers():
            distributed.broadcast(buffer, 0, group)


def seed_of(seed: int, step: int, rank: int) -> int:
    """Of PyTorch's generator in a step of a process."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])


def changes_in_words(before: int, now: int, patches: int) -> str:
    """What it means for a run that another number of processes goes on with it.

    Args:
        before: processes.
        now: processes.
        patches: of a step of one process.
    """
    noise = "less" if now > before else "more"
    return (
        f"the run goes on with {in_words(now)} after {before}: a step takes {now * patches} "
        f"patches instead of {before * patches}, so gradients are {noise} noisy. The "
        "number of steps and the learning rate stay, no patch is drawn twice, and the "
        f"weights will be others than with {before} to the end."
    )


def shares_in_words(processes: int, patches: int) -> str:
    """What is said of the processes at the start; nothing if there is but one.

    Args:
        processes: that train together.
        patches: of a step of all of them.
    """
    if processes == 1:
        return ""
    return f", {processes} processes with {patches // processes} patches each, {patches} a step"


def in_words(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"
