"""What no volume's header says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seg3d.common.errors import UserError
from seg3d.io.header import checked_header


@pytest.mark.parametrize("length", [2**41, 10**400])
def test_an_axis_that_no_volume_has(length: int) -> None:
    with pytest.raises(UserError, match="has an axis that no volume has"):
        checked_header(Path("a.zarr"), (2, length, 2), np.eye(4))
