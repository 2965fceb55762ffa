"""Reading and writing volumes; the format follows from the file name's ending."""

from seg3d.io.header import Header
from seg3d.io.regions import Region, VolumeReader, VolumeWriter, whole
from seg3d.io.volume import (
    LARGEST_LABEL,
    SUFFIXES,
    Volume,
    create_volume,
    open_volume,
    read_header,
    read_labels,
    read_volume,
    stem,
    suffix,
    write_volume,
)

__all__ = [
    "LARGEST_LABEL",
    "SUFFIXES",
    "Header",
    "Region",
    "Volume",
    "VolumeReader",
    "VolumeWriter",
    "create_volume",
    "open_volume",
    "read_header",
    "read_labels",
    "read_volume",
    "stem",
    "suffix",
    "whole",
    "write_volume",
]
