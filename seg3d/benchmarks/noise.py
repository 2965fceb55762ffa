"""Noise that sketches add to the weight gradients, layer by layer, against the minibatch's."""

from __future__ import annotations

from math import isfinite
from typing import Any

import torch

from seg3d.benchmarks.brain import BRAIN
from seg3d.benchmarks.tables import print_table
from seg3d.benchmarks.training import after, backward_passes, cube, train
from seg3d.memory import training_memory
from seg3d.networks import UNet3d
from seg3d.probing import choose_bits, gradient_noise, set_bits
from seg3d.probing.bits import summary


def compare(channels: list[int], steps: int, volumes: int, edge: int) -> dict[str, Any]:
    """Train plainly for a while, then measure every sketch at the same weights and patches."""
    torch.manual_seed(0)
    cohort = BRAIN.subjects(range(volumes))
    plain = UNet3d(1, BRAIN.classes, channels, "exact")
    losses = train(plain, BRAIN, cohort, after(steps), seed=0, size=cube(edge))
    generator = torch.Generator().manual_seed(1)
    patches = [subject.patch(cube(edge), generator) for subject in cohort]
    rows, chosen = {}, {}
    for method, (sketch, rank, bits) in methods().items():
        network = UNet3d(1, BRAIN.classes, channels, sketch, rank=rank)
        network.load_state_dict(plain.state_dict())
        backward = backward_passes(network, patches)
        if bits == "auto":
            chosen = choose_bits(network, backward).bits
        else:
            set_bits(network, bits)
        noise = gradient_noise(network, backward, seed=9)
        memory = training_memory(network, (2, 1, edge, edge, edge))
        rows[method] = {
            "saved_bytes": memory.saved,
            # JSON has no infinity: null, where the minibatch's variance drowns in the noise.
            "ratios": {
                name: one.ratio if isfinite(one.ratio) else None for name, one in noise.items()
            },
        }
    _print(rows, losses[-1], summary(chosen))
    return {
        "channels": channels,
        "steps": steps,
        "volumes": volumes,
        "edge": edge,
        "auto": chosen,
        "methods": rows,
    }


def methods() -> dict[str, tuple[str, int, Any]]:
    """Sketch, rank and bits of every method."""
    found: dict[str, tuple[str, int, Any]] = {"auto": ("rotated", 64, "auto")}
    found |= {f"{bits:g}": ("rotated", 64, bits) for bits in (0.125, 0.25, 0.5, 1, 2, 4)}
    for sketch in ("independent", "multichannel", "orthogonal"):
        found |= {f"{sketch[:5]} {rank}": (sketch, rank, 1) for rank in (8, 64)}
    return found


def _text(ratio: float | None) -> str:
    return "∞" if ratio is None else f"{ratio:.3f}"


def _print(rows: dict[str, dict[str, Any]], loss: float, auto: str) -> None:
    names = list(next(iter(rows.values()))["ratios"])
    print_table(
        "variance over draws / variance over volumes, by bits per voxel, or by published probes "
        f"and their number (loss {loss:.3f}; auto: {auto})",
        ("layer", *rows),
        [(name, *(_text(row["ratios"][name]) for row in rows.values())) for name in names]
        + [("saved MiB", *(f"{row['saved_bytes'] / 2**20:.0f}" for row in rows.values()))],
    )
