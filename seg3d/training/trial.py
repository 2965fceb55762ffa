"""Whether training by a plan fits into a GPU: steps on random data say it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import repeat
from pathlib import Path

import torch

from seg3d.common.errors import is_out_of_memory
from seg3d.config import Config
from seg3d.data.transforms import IMAGE, LABEL
from seg3d.plan import Plan
from seg3d.runs.run_folder import Run
from seg3d.training.trainer import Trainer, chooses_bits


def trial_for(
    config: Config, device: torch.device, memory: float, shared: bool = False
) -> Callable[[Plan], bool] | None:
    """What tries plans for a memory of a device, or None where no trial can be made.

    That is on a CPU, where the system lends more memory than there is, and if the memory is that
    of a larger GPU.
    """
    if device.type != "cuda" or memory > torch.cuda.mem_get_info(device)[0]:
        return None

    def fits(plan: Plan) -> bool:
        with _no_more_than(memory, device):
            return steps_fit(config, plan, device, shared)

    return fits


def steps_fit(config: Config, plan: Plan, device: torch.device, shared: bool = False) -> bool:
    """Whether there is memory for training by a plan, as it begins.

    Two steps are done: the first one makes the optimiser's state.
    """
    try:
        _two_steps(config, plan, device, shared)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        # What a step has left in circles would be in the way of the next trial.
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def _two_steps(config: Config, plan: Plan, device: torch.device, shared: bool) -> None:
    trainer = Trainer(config, plan, Run(Path()), device)
    # Whoever tries has no use for advice, which takes seconds.
    trainer.room_explained = nullcontext
    size, shape = plan.batch_size, plan.patch_size
    image = torch.randn(size, len(plan.channels), *shape)
    label = torch.randint(len(plan.parts), (size, 1, *shape), dtype=torch.int16)
    if chooses_bits(config):
        trainer.choose_bits(lambda: [{IMAGE: image[0], LABEL: label[0]}])
    batches = repeat({IMAGE: image, LABEL: label, "name": ["random numbers"]})
    # What several processes have besides: the gradients that are sent.
    buckets = [torch.empty_like(one) for one in trainer.network.parameters() if shared]
    for _ in range(2):
        trainer.step(batches)
    del buckets


@contextmanager
def _no_more_than(memory: float, device: torch.device) -> Iterator[None]:
    """Let PyTorch take so many bytes of a GPU while the block runs."""
    before = torch.cuda.get_per_process_memory_fraction(device)
    total = torch.cuda.mem_get_info(device)[1]
    torch.cuda.set_per_process_memory_fraction(min(before, memory / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device)
