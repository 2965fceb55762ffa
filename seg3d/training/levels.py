"""What the probed layers do, level by level of the network, for those who watch a run."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from math import inf

from torch import nn

from seg3d.probing.bits import rotated_layers
from seg3d.probing.noise import Noise


def bits_by_level(network: nn.Module) -> dict[str, float]:
    """Bits that are kept for a voxel of a channel, mean over all that a level's layers see.

    Layers that have seen nothing yet do not count.
    """
    seen = {
        name: (layer.bits, layer.sketched)
        for name, layer in rotated_layers(network).items()
        if layer.sketched is not None
    }
    found = {}
    for level, names in _levels(seen):
        kept = voxels = 0.0
        for bits, sketched in (seen[name] for name in names):
            exact = 8 * sketched.element_size
            kept += sketched.shape.numel() * (exact if bits == "exact" else float(bits))
            voxels += sketched.shape.numel()
        found[f"bits/{level}"] = kept / voxels
    return found


def noise_by_level(noise: Mapping[str, Noise]) -> dict[str, float]:
    """What sketches add to the variance of the weight gradients, as a share of the minibatch's.

    Of a level it is the ratio of the sums over its convolutions.
    """
    found = {}
    for level, names in _levels(noise):
        sketch = sum(noise[name].sketch for name in names)
        minibatch = sum(noise[name].minibatch for name in names)
        found[f"noise/{level}"] = sketch / minibatch if minibatch else inf if sketch else 0.0
    return found


def _levels(names: Mapping[str, object]) -> list[tuple[str, list[str]]]:
    return [(level, list(group)) for level, group in groupby(sorted(names, key=_level), _level)]


def _level(name: str) -> str:
    """``encoder.0`` of ``encoder.0.1.norm``; of names without such a number the first part."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if rest and rest[0].isdigit() else first
