"""Reading and writing volumes; the format follows from the file name's ending.

Parts of volumes, here and wherever volumes are streamed:

======  ======================================================================================
region  a box of a volume, as three slices: where
block   the voxels of a region, as an array: what is there
slab    a region of a few slices along one axis, and all of the other two
column  a region that is long along the first axis, and part of the other two
chunk   voxels that a file can only read together (Zarr's word)
window  a region of the size of a patch, which the network sees at once (`seg3d.prediction`)
tile    the columns that prediction does one after the other, where memory is short
======  ======================================================================================
"""

from seg3d.io.formats import (
    DICOM,
    SEGY,
    SUFFIXES,
    WRITTEN,
    header_of,
    images_in,
    is_plain_folder,
    is_segmentation,
    is_volume,
    labels_in,
    stem,
    suffix,
    target_suffix,
    volumes_in,
    written_suffix,
)
from seg3d.io.header import Header
from seg3d.io.interpretation import Interpretation
from seg3d.io.labels import (
    LARGEST_LABEL,
    UNLABELLED,
    LabelReader,
    LabelRest,
    NotLabels,
    read_labels,
)
from seg3d.io.patterns import volumes_by_case
from seg3d.io.regions import Region, VolumeReader, VolumeWriter, portions, slabs, whole
from seg3d.io.volume import (
    Volume,
    create_volume,
    open_volume,
    ram_of,
    read_header,
    read_volume,
    require_replaceable,
    write_volume,
)

__all__ = [
    "DICOM",
    "LARGEST_LABEL",
    "SEGY",
    "SUFFIXES",
    "UNLABELLED",
    "WRITTEN",
    "Header",
    "Interpretation",
    "LabelReader",
    "LabelRest",
    "NotLabels",
    "Region",
    "Volume",
    "VolumeReader",
    "VolumeWriter",
    "create_volume",
    "header_of",
    "images_in",
    "is_plain_folder",
    "is_segmentation",
    "is_volume",
    "labels_in",
    "open_volume",
    "portions",
    "ram_of",
    "read_header",
    "read_labels",
    "read_volume",
    "require_replaceable",
    "slabs",
    "stem",
    "suffix",
    "target_suffix",
    "volumes_by_case",
    "volumes_in",
    "whole",
    "write_volume",
    "written_suffix",
]
