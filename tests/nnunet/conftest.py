"""Small models that nnU-Net has trained (scripts/make_nnunet_models), and copies to be damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

MODELS = Path(__file__).parent / "models"
NAMES = ("isotropic", "anisotropic", "transposed", "regions", "old")


def scan_of(name: str) -> list[Path]:
    """The channels of the volume that nnU-Net has predicted."""
    return sorted((MODELS / name / "scans").glob("*.nii.gz"))


def expected(name: str, *, mirrored: bool) -> np.ndarray:
    """What nnU-Net has predicted."""
    path = MODELS / name / ("expected_mirrored.nii.gz" if mirrored else "expected.nii.gz")
    return np.asanyarray(nib.load(path).dataobj)  # type: ignore[attr-defined]


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a model, whose JSON files are changed."""

    def copy(name: str = "isotropic", **files: Callable[[Any], None]) -> Path:
        folder = tmp_path / name
        shutil.copytree(MODELS / name / "model", folder)
        for file, change in files.items():
            content = json.loads((folder / f"{file}.json").read_text())
            change(content)
            (folder / f"{file}.json").write_text(json.dumps(content))
        return folder

    return copy
