"""How much memory a training step takes: predicted without allocating it, or measured."""

from seg3d.memory.predicted import (
    GIB,
    MeasuredMemory,
    TrainingMemory,
    inference_memory,
    measured_training_memory,
    peak_gib,
    readable,
    training_memory,
)

__all__ = [
    "GIB",
    "MeasuredMemory",
    "TrainingMemory",
    "inference_memory",
    "measured_training_memory",
    "peak_gib",
    "readable",
    "training_memory",
]
