"""What to do when training is out of memory: the settings that would help, each with its peak."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from seg3d.common.choices import OF_BRICKS
from seg3d.common.device import compute_dtype
from seg3d.common.errors import RunFailed, UserError, is_out_of_memory
from seg3d.common.ranks import ALONE, Ranks
from seg3d.common.sizes import GIB, readable
from seg3d.config import Config, UNet3dConfig, config_from_tree, config_tree
from seg3d.memory import peak_gib
from seg3d.plan import Plan, predicted_peak, with_patch

# Of the sides of a patch, what is left in the smaller one that is proposed.
SMALLER = 0.75


@contextmanager
def out_of_memory_explained(
    config: Config, plan: Plan, device: torch.device, ranks: Ranks = ALONE
) -> Iterator[None]:
    """Turn the error of an allocation in a training step into `RunFailed` with advice."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        taken = readable(peak_gib(device) * GIB)
        raise RunFailed(_in_words(config, plan, device, taken, ranks.count > 1)) from error


def _in_words(config: Config, plan: Plan, device: torch.device, taken: str, shared: bool) -> str:
    dtype = compute_dtype(config.train.amp, device)
    predicted = readable(predicted_peak(config, plan, dtype, shared=shared).total)
    lines = [
        "out of memory in a training step",
        f"  predicted to take {predicted} at its peak; {taken} had been taken",
    ]
    found = list(_ways_out(config, plan, device, shared))
    for resumed, begin in (
        (True, "to do: --resume with one of these, each with its predicted peak"),
        (False, "or a new run with"),
    ):
        rows = sorted((peak, setting) for peak, setting, goes_on in found if goes_on == resumed)
        if rows:
            lines += [
                f"  {begin}:",
                *(f"    --set {name}  {readable(peak)}" for peak, name in rows),
            ]
    return "\n".join(lines)


def _ways_out(
    config: Config, plan: Plan, device: torch.device, shared: bool
) -> Iterator[tuple[int, str, bool]]:
    """Peaks, the settings that lead to them, and whether a run can go on with these."""
    factors = np.array(plan.divisors)
    smaller = np.maximum(np.array(plan.patch_size) * SMALLER // factors, 1).astype(int) * factors
    size = ",".join(map(str, smaller.tolist()))
    settings = [(f"patch.size=[{size}]", True)]
    if config.probing.sketch != "rotated":
        settings.append(("probing.sketch=rotated", True))
    elif config.probing.bits != 0.125:
        settings.append(("probing.bits=0.125", True))
    own = isinstance(config.network, UNet3dConfig)
    if (
        own
        and plan.blocks is None
        and config.probing.sketch in OF_BRICKS
        and not config.probing.streamed
    ):
        settings.append(("probing.streamed=true", True))
    if device.type == "cuda" and config.train.amp == "off":
        settings.append(("train.amp=auto", True))
    if plan.batch_size > 1:
        settings.append(("train.batch_size=1", False))
    for setting, goes_on in settings:
        changed = config_from_tree(config_tree(config), (setting,))
        try:
            dtype = compute_dtype(changed.train.amp, device)
            peak = predicted_peak(changed, with_patch(changed, plan), dtype, shared=shared)
            yield peak.total, setting, goes_on
        except UserError:
            # A network of MONAI's may not take the smaller patch.
            continue
