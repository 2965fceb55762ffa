"""How well predictions agree with references, per case and class."""

from seg3d.evaluation.class_names import label_names_near
from seg3d.evaluation.compare import evaluate
from seg3d.evaluation.pairs import Pair, find_pairs
from seg3d.evaluation.results import Evaluation, Near, Overlap, Summary

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
