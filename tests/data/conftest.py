"""What several tests of the data's way share."""

from __future__ import annotations

import pytest

from seg3d.data.cases import Case
from tests.volumes import write_nifti

NAMES = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """Five cases of different shapes; the first are shorter than the patches of `small_plan`."""
    folder = tmp_path_factory.mktemp("cases")
    return [
        Case(
            name,
            (write_nifti(folder / f"{name}.nii.gz", (14 + number, 20, 22), seed=number),),
            write_nifti(folder / f"{name}_label.nii.gz", (14 + number, 20, 22), seed=number),
        )
        for number, name in enumerate(NAMES)
    ]
