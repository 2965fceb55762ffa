"""The images of a case as the network of a plan wants them."""

from __future__ import annotations

from collections.abc import Sequence

from seg3d.data.case_reader import CaseReader
from seg3d.data.images import Image
from seg3d.data.nnunet_reader import NnunetReader
from seg3d.plan import Plan


def open_case(
    images: Sequence[Image], plan: Plan, *, read_ahead: bool = False, header_only: bool = False
) -> CaseReader:
    """Open the images of a case; arguments and errors are those of `CaseReader`.

    Args:
        images: of the case.
        plan: what to make of them.
        read_ahead: as for `CaseReader`.
        header_only: nothing but the size matters, which may be too large: by the rules of nnU-Net
            only the voxels say how far a volume is cropped.
    """
    if plan.nnunet is None:
        return CaseReader(images, plan, read_ahead=read_ahead)
    return NnunetReader(images, plan, read_ahead=read_ahead, cropped=not header_only)
