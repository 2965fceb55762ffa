"""SEG-Y: post-stack 3D seismic surveys, read and written by regions.

The axes of a volume are inline, crossline, and time or depth downwards.
"""

from seg3d.io.segy.lines import Positions
from seg3d.io.segy.reader import SegyReader, open_volume, ram_of
from seg3d.io.segy.report import report
from seg3d.io.segy.survey import Survey, assume, read_survey
from seg3d.io.segy.writer import SegyWriter, create_volume

__all__ = [
    "Positions",
    "SegyReader",
    "SegyWriter",
    "Survey",
    "assume",
    "create_volume",
    "open_volume",
    "ram_of",
    "read_survey",
    "report",
]
