"""How much noise sketches add to the weight gradients, against what is there anyway.

What a sketch adds to the variance of a weight gradient is compared with the variance from one
training volume to the next. Both are estimated from a few volumes with two draws each, by the
analysis of variance of a one-way layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor, nn

from seg3d.probing.convolutions import ProbedConvolution
from seg3d.probing.probed_layer import set_probe_step


@dataclass(frozen=True)
class Noise:
    """How noisy the weight gradient of a layer is.

    Attributes:
        sketch: variance over draws of the sketches, summed over the weights.
        minibatch: variance from volume to volume, likewise.
        mean: squared norm of the mean gradient.
    """

    sketch: float
    minibatch: float
    mean: float

    @property
    def ratio(self) -> float:
        """The sketches' variance as a share of the minibatch's, for a batch of one volume.

        Infinite if the minibatch's variance cannot be told from the sketches'.
        """
        if self.sketch == 0:
            return 0.0
        return self.sketch / self.minibatch if self.minibatch > 0 else inf


def gradient_noise(
    network: nn.Module, backward: Sequence[Callable[[], None]], seed: int = 0
) -> dict[str, Noise]:
    """Measure the noise of the weight gradients of all probed convolutions.

    The gradients in ``.grad`` are lost.

    Args:
        network: in training mode.
        backward: for every one of two or more volumes a function that does the forward and the
            backward pass; each is called twice, with other probes.
        seed: of the probes.
    """
    weights = {
        name: layer.weight
        for name, layer in network.named_modules()
        if isinstance(layer, ProbedConvolution) and layer.weight.requires_grad
    }
    sums = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    within, squares = dict.fromkeys(weights, 0.0), dict.fromkeys(weights, 0.0)
    for volume, run in enumerate(backward):
        draws = []
        for draw in range(2):
            network.zero_grad(set_to_none=True)
            set_probe_step(network, seed, 2 * volume + draw)
            run()
            draws.append({name: _gradient(weight) for name, weight in weights.items()})
        for name in weights:
            first, second = (gradients[name] for gradients in draws)
            mean = (first + second) / 2
            within[name] += float((first - second).square().sum()) / 2
            squares[name] += float(mean.square().sum())
            sums[name] += mean
    network.zero_grad(set_to_none=True)
    count = len(backward)
    noise = {}
    for name, total in sums.items():
        sketch = within[name] / count
        mean_energy = float(total.square().sum()) / count
        # The means of two draws still have half the sketches' variance in them.
        minibatch = (squares[name] - mean_energy) / (count - 1) - sketch / 2
        squared_mean = max(0.0, (mean_energy - minibatch - sketch / 2) / count)
        noise[name] = Noise(sketch, max(0.0, minibatch), squared_mean)
    return noise


def _gradient(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad.float()
