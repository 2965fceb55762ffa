"""Reading and writing volumes; the format follows from the file name's ending."""

from seg3d.io.volume import (
    LARGEST_LABEL,
    SUFFIXES,
    Header,
    Volume,
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
    "Volume",
    "read_header",
    "read_labels",
    "read_volume",
    "stem",
    "suffix",
    "write_volume",
]
