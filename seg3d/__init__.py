"""seg3d: 3D segmentation with probed convolutions."""

from seg3d.common.version import __version__

__all__ = ["__version__"]
