"""seg3d: 3D segmentation with probed convolutions."""

__version__ = "0.1.0"
