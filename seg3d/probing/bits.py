"""Bits where they matter: per layer, the least that keeps the noise of the weight gradients low.

What a sketch adds to the variance of a weight gradient is compared with what is there anyway:
the variance from one training volume to the next. Both are estimated from a few volumes with two
draws each, by the analysis of variance of a one-way layout. With e the energy of a sketch's error
relative to what is sketched, the noise is proportional to e, so that one measurement tells how
many bits are enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import inf

import torch
from torch import Tensor, nn

from seg3d.errors import UserError
from seg3d.probing.convolutions import ProbedConvolution
from seg3d.probing.layers import ProbedLayer, set_probe_step
from seg3d.probing.names import BITS, Bits, check_sketch
from seg3d.probing.norms import ProbedNorm

CODE_ENERGY = {1: 0.571, 2: 0.133, 4: 0.0096}
SAFETY = 2.0  # the estimate is rough, and the gradients change as training goes on
ROUNDS = 4
# Of a norm's input. Below it, fractions of a bit would bias the norm's gradient by more than a
# few per cent of the term that they are in (see `seg3d.probing.norms`), and save next to nothing.
FEWEST_VOXELS_FOR_FRACTIONS = 64 * 128


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


def error_energy(bits: Bits) -> float:
    """Energy of the error of a rotated sketch relative to the energy of what is sketched."""
    if bits == "exact":
        return 0.0
    bits = float(bits)
    if bits >= 1:
        return CODE_ENERGY[int(bits)]
    return (1 + CODE_ENERGY[1]) / bits - 1


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


def choose_bits(
    network: nn.Module,
    backward: Sequence[Callable[[], None]],
    limit: float = 0.1,
    seed: int = 0,
) -> dict[str, Bits]:
    """Give every layer the least bits that keep the noise of all weight gradients low.

    It begins with one bit everywhere, takes for every sketch the bits that should be enough for
    all convolutions that use it, and raises them where a new measurement says that they are not.
    Norms of small volumes get at least one bit.

    Args:
        network: its layers of sketch ``rotated`` are given their bits.
        backward: see :func:`gradient_noise`.
        limit: of the ratio of a layer's sketch variance and minibatch variance.
        seed: of the probes.

    Returns:
        The bits of every such layer, by its name.
    """
    layers = rotated_layers(network)
    numbered = [module for module in network.modules() if isinstance(module, ProbedLayer)]
    for layer in layers.values():
        layer.set_sketch("rotated", layer.rank, 1)
    small = _norms_of_small_volumes(layers.values(), backward[0])
    for attempt in range(ROUNDS):
        wanted: dict[int, Bits] = {}
        for name, measured in gradient_noise(network, backward, seed + attempt).items():
            convolution = network.get_submodule(name)
            assert isinstance(convolution, ProbedConvolution)
            for source in convolution.sources:
                if numbered[source].sketch != "rotated":
                    continue
                now = numbered[source].bits
                enough = now
                if attempt == 0:
                    choices = BITS[BITS.index(1) :] if numbered[source] in small else BITS
                    enough = _enough(choices, now, measured.ratio, limit)
                elif measured.ratio > limit:
                    enough = _enough(BITS[BITS.index(now) + 1 :], now, measured.ratio, limit)
                wanted[source] = max(wanted.get(source, BITS[0]), enough, key=BITS.index)
        changed = {source: bits for source, bits in wanted.items() if bits != numbered[source].bits}
        for source, bits in changed.items():
            numbered[source].set_sketch("rotated", numbered[source].rank, bits)
        if attempt == 0:
            used = {numbered[source] for source in wanted}
            for layer in set(layers.values()) - used - small:
                layer.set_sketch("rotated", layer.rank, BITS[0])
        elif not changed:
            break
    return {name: layer.bits for name, layer in layers.items()}


def set_bits(network: nn.Module, bits: Bits | Mapping[str, Bits]) -> None:
    """Set the bits of the layers of sketch ``rotated`` by hand.

    Args:
        network: whose layers are set.
        bits: for all of them, or by name; ``*`` in a name stands for anything, and the first
            name that fits is taken.

    Raises:
        UserError: if a name fits no layer, or there is no sketch of so many bits.
    """
    layers = rotated_layers(network)
    choices = bits if isinstance(bits, Mapping) else {"*": bits}
    for pattern, choice in choices.items():
        check_sketch("rotated", bits=choice)
        if isinstance(bits, Mapping) and not any(fnmatchcase(name, pattern) for name in layers):
            raise UserError(
                "probing.bits names a layer that is not there",
                given=pattern,
                legal=", ".join(layers) or "no layer has the sketch rotated",
            )
    for name, layer in layers.items():
        fitting = (choice for pattern, choice in choices.items() if fnmatchcase(name, pattern))
        layer.set_sketch("rotated", layer.rank, next(fitting, layer.bits))


def rotated_layers(network: nn.Module) -> dict[str, ProbedLayer]:
    """The layers whose bits can be chosen, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, ProbedLayer) and module.sketch == "rotated"
    }


def summary(bits: Mapping[str, Bits]) -> str:
    """One line about the bits of all layers."""
    counts = Counter(bits.values())
    return ", ".join(
        f"{count} layers {'exact' if one == 'exact' else f'{one:g}'}"
        for one in BITS
        if (count := counts[one])
    )


def _norms_of_small_volumes(
    layers: Iterable[ProbedLayer], run: Callable[[], None]
) -> set[ProbedLayer]:
    """The norms whose input, on this run, is too small for fractions of a bit."""
    small: set[ProbedLayer] = set()

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, ProbedNorm)
        if inputs[0][0, 0].numel() < FEWEST_VOXELS_FOR_FRACTIONS:
            small.add(layer)

    norms = [layer for layer in layers if isinstance(layer, ProbedNorm)]
    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return small


def _enough(choices: Sequence[Bits], now: Bits, ratio: float, limit: float) -> Bits:
    """The first of the choices that should bring the ratio, now so large, well under the limit."""
    for bits in choices:
        if ratio == 0 or ratio * error_energy(bits) / error_energy(now) <= limit / SAFETY:
            return bits
    return "exact"


def _gradient(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad.float()
