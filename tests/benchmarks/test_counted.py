"""What a step asks of a GPU, by counting."""

from __future__ import annotations

import pytest
import torch

from seg3d.benchmarks.counted import Work, count_step
from seg3d.benchmarks.gpu.scale import UNET
from seg3d.benchmarks.gpu.ways import OURS, PLAIN, way
from seg3d.networks import UNet3d


def counted(name: str, size: int, batch: int, *, fused: bool = True) -> Work:
    shape = (batch, 1, size, size, size)
    return count_step(way(name, UNET, []).make(), shape, torch.bfloat16, fused=fused)


def convolutions(work: Work) -> int:
    return work.launches["convolution"] + work.launches["convolution_backward"]


def test_operations_are_those_of_the_convolutions() -> None:
    """Of a small network, by hand: every weight once a voxel, and twice backwards."""
    network = UNet3d(1, 2, (4, 8), "exact")
    work = count_step(network, (1, 1, 8, 8, 8), torch.bfloat16)
    fine, coarse = 8**3, 4**3
    forwards = 2 * (
        fine * 27 * (1 * 4 + 4 * 4)  # the encoder's first level
        + coarse * 27 * (4 * 8 + 8 * 8)  # and the second
        + coarse * 8 * (8 * 4)  # upwards
        + fine * 27 * (8 * 4 + 4 * 4)  # the decoder
        + fine * (4 * 2)  # the scores
    )
    # The image needs no gradient.
    assert work.operations == 3 * forwards - 2 * fine * 27 * 4


def test_a_step_with_kernels_at_the_size_that_most_use() -> None:
    """Slabs neither become many small launches there, nor do halos cost much work."""
    plain, ours = counted(PLAIN, 128, 2), counted(OURS, 128, 2)
    assert convolutions(plain) == 56
    assert convolutions(ours) < 3.5 * convolutions(plain)
    assert ours.launches.total() < 3 * plain.launches.total()
    assert ours.bytes < 1.25 * plain.bytes
    assert ours.operations == pytest.approx(plain.operations, rel=0.02)


def test_without_kernels_there_is_more_to_do() -> None:
    network = UNet3d(1, 2, (8, 16))
    fused, plain = (
        count_step(network, (1, 1, 32, 32, 32), torch.bfloat16, fused=fused)
        for fused in (True, False)
    )
    assert fused.launches["pass: normalise"] == 6 and not plain.launches["pass: normalise"]
    assert plain.launches.total() > 3 * fused.launches.total()
    assert plain.bytes > 2 * fused.bytes
