"""The names under which sketches are chosen."""

from __future__ import annotations

from seg3d.errors import UserError
from seg3d.probing.probes import ProbeSketch
from seg3d.probing.rotated import RotatedSketch
from seg3d.probing.sketches import Sketch

SKETCHES = ("onebit", "2bit", "4bit", "independent", "multichannel", "orthogonal", "exact")


def make_sketch(name: str, rank: int = 64) -> Sketch | None:
    """The sketch of this name, or None for ``exact``: keep the input itself.

    Args:
        name: one of :data:`SKETCHES`.
        rank: number of probes of ``independent``, ``multichannel`` and ``orthogonal``; the
            others take no notice. ``orthogonal`` never draws more than there are voxels.

    Raises:
        UserError: the name is unknown, or the rank is not a positive integer.
    """
    if name not in SKETCHES:
        raise UserError("there is no such sketch", given=name, legal=", ".join(SKETCHES))
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise UserError("the rank of a sketch must be positive", given=rank, legal="1, 2, 3, ...")
    sketches = {
        "onebit": RotatedSketch(bits=1),
        "2bit": RotatedSketch(bits=2),
        "4bit": RotatedSketch(bits=4),
        "independent": ProbeSketch(rank),
        "multichannel": ProbeSketch(rank, across_channels=True),
        "orthogonal": ProbeSketch(rank, orthogonal=True),
    }
    return sketches.get(name)
