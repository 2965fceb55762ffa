"""Image and label folders with matching file names."""

from __future__ import annotations

from pathlib import Path

from seg3d.data.layouts.found import Found
from seg3d.data.layouts.pairs import (
    Pair,
    cases_for_testing,
    cases_for_training,
    unmatched,
)
from seg3d.data.layouts.volume_files import numbered


def image_and_label_folders(root: Path, pair: Pair) -> Found:
    """Labels and the images of their names, and what lies in ``imagesTs``.

    Args:
        root: holds the folders.
        pair: folders of the training images and labels.

    Raises:
        UserError: if no image belongs to a label.
    """
    cases = cases_for_training(root, pair)
    cases += cases_for_testing(root, numbered=numbered(cases))
    layout = f"folders {pair.images} and {pair.labels}"
    return Found(layout, root, cases, unmatched(root, pair, cases))
