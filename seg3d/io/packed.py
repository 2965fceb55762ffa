"""What the bytes of a file can stand for: a header may promise no more voxels than that."""

from __future__ import annotations

from pathlib import Path

from seg3d.common.errors import UserError
from seg3d.common.sizes import readable

# A byte of deflate stands for at most so many, one of bzip2 for far more.
MOST_PER_BYTE = {"raw": 1.0, "deflate": 1032.0, "bzip2": 1e6, "hex": 0.5}


def require_enough(path: Path, wanted: int, there: int, packing: str) -> None:
    """Require that a file is long enough for the voxels that its header promises.

    Else room for all of them would be made before the file turns out to end.

    Args:
        path: for the message.
        wanted: bytes of voxels by the header.
        there: bytes of the file.
        packing: how they are packed, a key of `MOST_PER_BYTE`.

    Raises:
        UserError: if it is not.
    """
    if wanted > there * MOST_PER_BYTE[packing]:
        raise UserError(
            f"{path} is cut short or damaged",
            given=f"{readable(there)}, in which there cannot be the {readable(wanted)} of voxels "
            "of its header",
            fix="copy or convert it again",
        )
