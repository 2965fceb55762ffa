"""Files that ship with seg3d: in the source tree, or inside the installed package."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def resource(name: str) -> Path:
    """Path of a file or folder under ``configs/`` or ``data/``.

    Args:
        name: such as ``configs/demo_brain.yaml``.

    Raises:
        FileNotFoundError: if this installation lacks it.
    """
    for root in (PACKAGE / "resources", PACKAGE.parent):
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(f"{name} is missing from this installation of seg3d")
