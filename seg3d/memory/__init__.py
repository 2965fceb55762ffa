"""How much memory a training step takes: predicted without allocating it, or measured."""

from seg3d.memory.measured import MeasuredMemory, measured_training_memory, peak_gib
from seg3d.memory.predicted import (
    StepMemory,
    TrainingMemory,
    fake_copy,
    inference_memory,
    step_memory,
    training_memory,
)

__all__ = [
    "MeasuredMemory",
    "StepMemory",
    "TrainingMemory",
    "fake_copy",
    "inference_memory",
    "measured_training_memory",
    "peak_gib",
    "step_memory",
    "training_memory",
]
