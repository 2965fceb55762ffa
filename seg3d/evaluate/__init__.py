"""How well predictions agree with references, per case and class."""

from seg3d.evaluate.class_names import label_names_near
from seg3d.evaluate.compare import evaluate
from seg3d.evaluate.pairs import Pair, find_pairs
from seg3d.evaluate.results import Evaluation, Near, Overlap, Summary

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
