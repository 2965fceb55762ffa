"""How people lay out datasets, and the one way from a folder or list to a `Dataset`.

    source ─► `find.recognise` ─► the layout's own file ─► `Found` ─► `assemble` ─► `Dataset`

============  =====================================================================
`folders`     image and label folders with matching file names
`nnunet`      nnU-Net: a ``dataset.json`` about folders, or with the files of cases
`msd`         the Decathlon and MONAI: a ``dataset.json`` that lists the files
`lists`       tables of seg3d's own: ``dataset.csv``, or JSON with the same keys
`beside`      segmentations beside their images, as 3D Slicer saves them
`patterns`    folders within folders, whose files the config describes
`horizons`    SEG-Y surveys beside their horizons
============  =====================================================================

A layout is one function in one of these files; all of them return a `Found`. What several need is
in `pairs` (folders of images beside folders of labels), `entries` (lines of lists), `json_files`
and `volume_files`. To add a layout, write its function, and say in `find.recognise` what it is
recognised by.
"""

from seg3d.data.layouts.describe import describe
from seg3d.data.layouts.find import find_dataset
from seg3d.data.layouts.json_files import label_values, read_json, regions_class_order

__all__ = ["describe", "find_dataset", "label_values", "read_json", "regions_class_order"]
