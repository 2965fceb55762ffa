"""How well predictions agree with references, per case and class."""

from seg3d.evaluate.compare import (
    Evaluation,
    Near,
    Overlap,
    Pair,
    Summary,
    evaluate,
    find_pairs,
    label_names_near,
)

__all__ = [
    "Evaluation",
    "Near",
    "Overlap",
    "Pair",
    "Summary",
    "evaluate",
    "find_pairs",
    "label_names_near",
]
