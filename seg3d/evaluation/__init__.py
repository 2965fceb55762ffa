"""How well predictions agree with references, per case and class."""

from seg3d.evaluation.classes import Classes, find_classes
from seg3d.evaluation.compare import evaluate
from seg3d.evaluation.in_ram import compare_labels
from seg3d.evaluation.pairs import Pair, find_pairs
from seg3d.evaluation.results import Evaluation, Near, Overlap, Summary

__all__ = [
    "Classes",
    "Evaluation",
    "Near",
    "Overlap",
    "Pair",
    "Summary",
    "compare_labels",
    "evaluate",
    "find_classes",
    "find_pairs",
]
