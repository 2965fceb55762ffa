"""Synthetic seismic surveys as a problem for benchmarks: faults, a few voxels in a hundred."""

from __future__ import annotations

from seg3d.benchmarks.training import Subject, Task
from seg3d.synth.dataset import make_volume

SHAPE = (64, 64, 64)
SEED = 11


def subject(number: int) -> Subject:
    """A survey `(inline, crossline, time)` by its number; the same number gives the same one."""
    survey = make_volume("faults", SHAPE, [SEED, number])
    return Subject.of_arrays(survey.image, survey.faults)


FAULTS = Task(("fault",), subject)
