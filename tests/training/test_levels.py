"""Bits and noise of every level are those of its layers."""

from __future__ import annotations

from math import inf

import pytest
import torch
from torch import nn

from seg3d.networks import UNet3d
from seg3d.probing import set_bits
from seg3d.probing.bits import rotated_layers
from seg3d.probing.noise import Noise
from seg3d.training.levels import bits_by_level, noise_by_level


def test_mean_bits_of_a_level() -> None:
    network = UNet3d(1, 2, (4, 8))
    assert bits_by_level(network) == {}
    set_bits(network, {"encoder.0.*": 2, "encoder.1.0.norm": "exact", "*": 0.5})
    network(torch.randn(1, 1, 16, 16, 16))
    found = bits_by_level(network)
    assert found["bits/encoder.0"] == 2 and found["bits/decoder.0"] == 0.5
    # Two norms and the convolution between them, as far as each keeps something of its own.
    kept = [
        32 if layer.bits == "exact" else layer.bits
        for name, layer in rotated_layers(network).items()
        if name.startswith("encoder.1.") and layer.sketched
    ]
    assert found["bits/encoder.1"] == pytest.approx(sum(map(float, kept)) / len(kept))
    assert bits_by_level(nn.Conv3d(1, 1, 1)) == {}


def test_noise_of_a_level() -> None:
    noise = {
        "encoder.0.0.conv": Noise(sketch=1, minibatch=10, mean=5),
        "encoder.0.1.conv": Noise(sketch=2, minibatch=20, mean=5),
        "encoder.10.1.conv": Noise(sketch=1, minibatch=0, mean=5),
        "decoder.0.1.conv": Noise(sketch=0, minibatch=0, mean=5),
        "conv_0.conv_1.conv": Noise(sketch=3, minibatch=4, mean=5),
    }
    assert noise_by_level(noise) == {
        "noise/encoder.0": 0.1,
        "noise/encoder.10": inf,
        "noise/decoder.0": 0.0,
        "noise/conv_0": 0.75,
    }
