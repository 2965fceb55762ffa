"""The losses of training, in slabs."""

from seg3d.losses.dice_cross_entropy import DiceCrossEntropy
from seg3d.losses.heads import Scores, Unscored, heads, unscored_heads
from seg3d.losses.of_voxels import IGNORE

__all__ = ["IGNORE", "DiceCrossEntropy", "Scores", "Unscored", "heads", "unscored_heads"]
