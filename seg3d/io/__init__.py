"""Reading and writing volumes; the format follows from the file name's ending."""

from seg3d.io.formats import DICOM, SEGY, SUFFIXES, is_plain_folder, is_volume, stem, suffix
from seg3d.io.header import Header
from seg3d.io.interpretation import Interpretation
from seg3d.io.labels import LARGEST_LABEL, UNLABELLED, LabelReader, read_labels
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
    "Header",
    "Interpretation",
    "LabelReader",
    "Region",
    "Volume",
    "VolumeReader",
    "VolumeWriter",
    "create_volume",
    "is_plain_folder",
    "is_volume",
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
    "whole",
    "write_volume",
]
