"""Images beside their segmentations in one folder, as 3D Slicer saves them."""

from __future__ import annotations

from pathlib import Path

from seg3d.data.cases import Case
from seg3d.data.layouts.found import Found
from seg3d.data.layouts.volume_files import by_stem, files_of, left_out
from seg3d.io import images_in, is_segmentation, volumes_in


def images_beside_segmentations(root: Path) -> Found:
    """``X.nrrd`` with ``X.seg.nrrd``; an image without one is for testing.

    Raises:
        UserError: if two images have the same name but for the ending.
    """
    labels = by_stem(root, filter(is_segmentation, volumes_in(root)))
    images = by_stem(root, images_in(root))
    cases = [Case(name, (path,), labels.get(name)) for name, path in images.items()]
    unused = left_out(root, ".", files_of(cases), "no image of this name")
    return Found("images and segmentations in one folder", root, cases, unused)
