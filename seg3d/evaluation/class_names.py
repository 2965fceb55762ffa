"""What the values of references are called."""

from __future__ import annotations

from pathlib import Path

from seg3d.data.layouts import label_values, read_json
from seg3d.io import is_plain_folder


def label_names_near(references: Path) -> dict[int, str] | None:
    """Class names from a ``dataset.json`` (MSD or nnU-Net) beside the references or one up.

    Regions of nnU-Net (a name for several values) are left out: evaluation is per value.

    Raises:
        UserError: if the file is not JSON.
    """
    folder = (references if is_plain_folder(references) else references.parent).resolve()
    for path in (folder / "dataset.json", folder.parent / "dataset.json"):
        if path.is_file():
            return _label_names(path)
    return None


def _label_names(path: Path) -> dict[int, str] | None:
    content = read_json(path)
    labels = label_values(path, content) if isinstance(content, dict) else None
    if labels is None:
        return None
    return {value: name for name, value in labels.items() if isinstance(value, int)}
