"""The names under which sketches are chosen."""

from __future__ import annotations

from seg3d.common.choices import BITS, FIXED_BITS, SKETCHES
from seg3d.common.errors import UserError
from seg3d.probing.probes import ProbeSketch
from seg3d.probing.records import KeptSketch
from seg3d.probing.rotated import RotatedSketch
from seg3d.probing.sketches import Sketch

Bits = float | str


def check_sketch(name: str, rank: int = 64, bits: Bits = 1) -> None:
    """Check the names and numbers by which a sketch is chosen.

    Raises:
        UserError: the name is unknown, the rank is not a positive integer, or there is no sketch
            of so many bits.
    """
    if name not in SKETCHES:
        raise UserError("there is no such sketch", given=name, legal=", ".join(SKETCHES))
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise UserError("the rank of a sketch must be positive", given=rank, legal="1, 2, 3, ...")
    if isinstance(bits, bool) or bits not in BITS:
        raise UserError(
            "there is no sketch of so many bits", given=bits, legal=", ".join(map(str, BITS))
        )


def make_sketch(name: str, rank: int = 64, bits: Bits = 1) -> Sketch | KeptSketch | None:
    """The sketch of a convolution's input, or None for ``exact``: an ordinary layer.

    Args:
        name: one of :data:`seg3d.common.choices.SKETCHES`.
        rank: number of probes of ``independent``, ``multichannel`` and ``orthogonal``; the
            others take no notice. ``orthogonal`` never draws more than there are voxels.
        bits: kept per voxel by ``rotated``, one of :data:`seg3d.common.choices.BITS`; the others
            take no notice.

    Raises:
        UserError: see :func:`check_sketch`.
    """
    check_sketch(name, rank, bits)
    if name == "exact":
        return None
    probes = {
        "independent": ProbeSketch(rank),
        "multichannel": ProbeSketch(rank, across_channels=True),
        "orthogonal": ProbeSketch(rank, orthogonal=True),
    }
    return probes[name] if name in probes else make_norm_sketch(name, bits)


def make_norm_sketch(name: str, bits: Bits = 1) -> RotatedSketch | KeptSketch | None:
    """The sketch of a norm layer's input, or None for ``exact``: an ordinary layer.

    The published probes are sketches for convolutions only; with them, norm layers keep one bit.
    """
    if name == "exact":
        return None
    if name != "rotated":
        return RotatedSketch(FIXED_BITS.get(name, 1))
    return KeptSketch() if bits == "exact" else RotatedSketch(float(bits))
