"""How much memory a training step takes: predicted without allocating it, or measured."""

from seg3d.memory.measured import MeasuredMemory, measured_training_memory, peak_gib
from seg3d.memory.predicted import TrainingMemory, inference_memory, training_memory

__all__ = [
    "MeasuredMemory",
    "TrainingMemory",
    "inference_memory",
    "measured_training_memory",
    "peak_gib",
    "training_memory",
]
