"""A plan is tried: there is memory for two steps, or there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
import torch

from seg3d.training.trial import steps_fit, trial_for
from tests.plans import small_config, small_plan

CPU = torch.device("cpu")
MIB = 2**20


@contextmanager
def addresses_left(size: int) -> Iterator[None]:
    """Let this process take only so many bytes more."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (taken + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_small_patches_fit_and_large_ones_do_not() -> None:
    config = small_config(train={"accumulate": 2})
    with addresses_left(400 * MIB):
        assert steps_fit(config, small_plan(), CPU)
        assert not steps_fit(config, small_plan(patch_size=(256, 256, 256)), CPU)
        assert steps_fit(config, small_plan(batch_size=1), CPU)


def test_other_failures_are_not_hidden() -> None:
    with pytest.raises(ValueError, match="spatial element"):
        steps_fit(small_config(), small_plan(patch_size=(2, 2, 2)), CPU)


def test_nothing_is_tried_on_a_cpu() -> None:
    assert trial_for(small_config(), CPU, 1e9) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_lends_no_more_than_is_planned_for() -> None:
    device = torch.device("cuda")
    fits = trial_for(small_config(), device, 64.0 * MIB)
    assert fits is not None
    assert fits(small_plan())
    assert not fits(small_plan(patch_size=(128, 128, 128)))
    # Of all of the GPU, the larger one has a part.
    assert steps_fit(small_config(), small_plan(patch_size=(128, 128, 128)), device)
    assert trial_for(small_config(), device, 1e15) is None
