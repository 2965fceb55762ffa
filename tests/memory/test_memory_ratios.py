"""What the default network promises: a training step in less memory than plain inference.

Widths of nnU-Net, two cubes of 128³ voxels, a bit per voxel in every layer, which is the most
that is commonly kept. All bytes are counted under fake tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from seg3d.benchmarks.baselines import CHANNELS, PlainUNet3d, blocks, checkpointed, stages
from seg3d.common.sizes import GIB
from seg3d.memory import TrainingMemory, inference_memory, step_memory, training_memory
from seg3d.networks import UNet3d
from seg3d.probing import first_bits, set_bits
from seg3d.probing.probed_layer import ProbedLayer

SHAPE = (2, 1, 128, 128, 128)
CLASSES = 3
# The part of each limit by which a figure may be above it.
TOLERANCE = 0.05


@dataclass(frozen=True)
class Precision:
    name: str
    dtype: torch.dtype
    amp: bool
    # Saved bytes are at most this part of the plain ones.
    saved: float


PRECISIONS = [
    Precision("float32", torch.float32, False, 1 / 16),
    Precision("bfloat16 by autocast", torch.bfloat16, True, 1 / 10),
    Precision("bfloat16", torch.bfloat16, False, 1 / 10),
]


@dataclass(frozen=True)
class Steps:
    precision: Precision
    plain: TrainingMemory
    per_block: TrainingMemory
    per_stage: TrainingMemory
    probed: TrainingMemory
    plain_inference: int


def probed() -> UNet3d:
    network = UNet3d(1, CLASSES, CHANNELS)
    for layer in network.modules():
        if isinstance(layer, ProbedLayer) and layer.sketch != "exact":
            layer.set_sketch("rotated", layer.rank, bits=1)
    return network


@pytest.fixture(scope="module", params=PRECISIONS, ids=lambda precision: precision.name)
def steps(request: pytest.FixtureRequest) -> Steps:
    precision: Precision = request.param

    def step(make: Callable[[], nn.Module]) -> TrainingMemory:
        with torch.device("meta"):
            network = make()
        return training_memory(network, SHAPE, precision.dtype, amp=precision.amp)

    return Steps(
        precision,
        plain=step(lambda: UNet3d(1, CLASSES, CHANNELS, "exact")),
        per_block=step(lambda: checkpointed(PlainUNet3d(1, CLASSES, CHANNELS), blocks)),
        per_stage=step(lambda: checkpointed(PlainUNet3d(1, CLASSES, CHANNELS), stages)),
        probed=step(probed),
        plain_inference=_inference(lambda: PlainUNet3d(1, CLASSES, CHANNELS), precision, SHAPE),
    )


def _inference(make: Callable[[], nn.Module], precision: Precision, shape: tuple[int, ...]) -> int:
    with torch.device("meta"):
        network = make()
    return inference_memory(network, shape, precision.dtype, amp=precision.amp)


def assert_at_most(limit: float, measured: int, reference: int) -> None:
    ratio = measured / reference
    assert ratio <= limit * (1 + TOLERANCE), f"{ratio:.4f} instead of at most {limit:.4f}"


def test_peak_is_a_fifth_of_plain_training(steps: Steps) -> None:
    assert_at_most(0.20, steps.probed.peak, steps.plain.peak)


def test_peak_is_below_plain_inference(steps: Steps) -> None:
    assert_at_most(0.65, steps.probed.peak, steps.plain_inference)


def test_inference_takes_no_more_than_training(steps: Steps) -> None:
    assert_at_most(0.8, steps.probed.inference_peak, steps.probed.peak)


def test_peak_is_less_than_a_third_of_the_best_checkpointing(steps: Steps) -> None:
    checkpointing = min(steps.per_block.peak, steps.per_stage.peak)
    assert_at_most(0.30, steps.probed.peak, checkpointing)


def test_saved_bytes_are_a_small_part_of_the_plain_ones(steps: Steps) -> None:
    assert_at_most(steps.precision.saved, steps.probed.saved, steps.plain.saved)


def test_checkpointing_is_measured_as_such(steps: Steps) -> None:
    best = min(steps.per_block.peak, steps.per_stage.peak)
    assert 0.5 * steps.plain.peak < best < 0.8 * steps.plain.peak


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda precision: precision.name)
def test_inference_takes_a_third_of_plain_inference(precision: Precision) -> None:
    shape = (1, 1, 256, 256, 256)
    ours = _inference(lambda: UNet3d(1, CLASSES, CHANNELS), precision, shape)
    plain = _inference(lambda: PlainUNet3d(1, CLASSES, CHANNELS), precision, shape)
    assert_at_most(0.345, ours, plain)


def test_auto_begins_with_no_more_than_one_bit_in_every_layer() -> None:
    """And never keeps more than that: see tests/probing/test_bits.py."""
    with FakeTensorMode():
        fake = UNet3d(1, CLASSES, CHANNELS)
        bits = first_bits(fake, lambda: fake(torch.empty(1, *SHAPE[1:])))
    peaks = []
    for choice in (bits, 1):
        with torch.device("meta"):
            network = UNet3d(1, CLASSES, CHANNELS)
        set_bits(network, choice)
        peaks.append(training_memory(network, SHAPE, torch.bfloat16, amp=True).peak)
    # What is kept of other things than bits is not shared out: auto keeps 1.5 % more in all.
    assert_at_most(1.0, peaks[0], peaks[1])
    assert 0.8 * peaks[1] < peaks[0]


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda precision: precision.name)
def test_training_takes_hardly_more_for_many_classes(
    precision: Precision, deep_supervision: bool
) -> None:
    peaks = []
    for classes in (2, 120):
        with torch.device("meta"):
            network = UNet3d(1, classes, CHANNELS, deep_supervision=deep_supervision)
        set_bits(network, 1)
        peaks.append(step_memory(network, SHAPE, precision.dtype, amp=precision.amp).peak)
    # The coarser levels keep their features for it, a third of those of the finest.
    assert peaks[1] <= (1.12 if deep_supervision else 1.01) * peaks[0]


def peak_of(streamed: bool, size: int, classes: int, bits: float) -> int:
    with torch.device("meta"):
        network = UNet3d(1, classes, CHANNELS, streamed=streamed)
    set_bits(network, bits)
    return step_memory(network, (1, 1, size, size, size), torch.bfloat16, amp=True).peak


@pytest.mark.parametrize(("bits", "gib"), [(1, 1.30), (0.125, 1.12)])
def test_a_streamed_level_has_no_tensor_of_full_size(bits: float, gib: float) -> None:
    """One would take 1 GiB, with 32 channels at 256³ in bf16."""
    whole, streamed = (peak_of(one, 256, CLASSES, bits) for one in (False, True))
    assert_at_most(gib * GIB, streamed, 1)
    assert whole - streamed > 0.9 * GIB


def test_half_a_thousand_cubed_is_trained_in_eight_gib_and_a_half() -> None:
    assert_at_most(8.4 * GIB, peak_of(True, 512, 4, bits=1), 1)
    assert_at_most(6.75 * GIB, peak_of(True, 512, 4, bits=0.125), 1)


def test_streamed_inference_takes_less_than_half() -> None:
    def peak(streamed: bool) -> int:
        make = partial(UNet3d, 1, CLASSES, CHANNELS, streamed=streamed)
        return _inference(make, PRECISIONS[1], (1, 1, 256, 256, 256))

    assert_at_most(0.38, peak(True), peak(False))
