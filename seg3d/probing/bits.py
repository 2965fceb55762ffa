"""Bits where they matter: per layer, the least that keeps the noise of the weight gradients low.

With e the energy of a sketch's error relative to what is sketched, the noise in the gradients is
proportional to e, so that one measurement (:mod:`seg3d.probing.noise`) tells how many bits are
enough. The bytes of one bit in every layer, or by default 64 MiB, are not exceeded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import inf

from torch import nn

from seg3d.common.choices import BITS
from seg3d.common.errors import UserError
from seg3d.probing.convolutions import ProbedConvolution
from seg3d.probing.names import Bits, check_sketch
from seg3d.probing.noise import Noise, gradient_noise
from seg3d.probing.probed_layer import ProbedLayer, Sketched

CODE_ENERGY = {1: 0.571, 2: 0.133, 4: 0.0096}
SAFETY = 4.0  # the estimate is rough, and the gradients change as training goes on
ROUNDS = 4
# Per channel of a layer's input. Below it, fractions of a bit would bias a norm's gradient by more
# than a few per cent of the term that they are in (see `seg3d.probing.norms`), and save next to
# nothing.
FEWEST_VOXELS = 64 * 128
TINY = 1e-12  # a limit that no sketch keeps
LITTLE = 2**26  # bytes that hardly a machine misses
RAISE = 1.25  # of the limit, where the bytes do not suffice
LARGEST_RATIO = 1e6  # instead of an infinite one, where the minibatch's variance drowns


@dataclass(frozen=True)
class Chosen:
    """What was chosen by measuring.

    Attributes:
        bits: of every layer of sketch ``rotated``, by its name.
        noise: of the weight gradients of every probed convolution, by its name, as it was measured
            last: if bits were raised thereupon, it is less now.
    """

    bits: dict[str, Bits]
    noise: dict[str, Noise]


def error_energy(bits: Bits) -> float:
    """Energy of the error of a rotated sketch relative to the energy of what is sketched."""
    if bits == "exact":
        return 0.0
    bits = float(bits)
    if bits >= 1:
        return CODE_ENERGY[int(bits)]
    return (1 + CODE_ENERGY[1]) / bits - 1


def first_bits(
    network: nn.Module, run: Callable[[], None], little: float = LITTLE
) -> dict[str, Bits]:
    """Give every layer bits without measuring: as many bytes as one bit in every layer takes.

    Or ``little``, if that is more: small networks begin with exact layers. It is for the first
    steps of training. Untrained weights have gradients that hardly differ from volume to volume,
    so that a measurement would ask for far more bits than training needs. The bytes are shared out
    by the rule that a sketch's noise in the weight gradients is the smaller, the more voxels it is
    summed over.

    Args:
        network: its layers of sketch ``rotated`` are given their bits.
        run: does a forward pass with a volume of the size of those to come.
        little: bytes that may be kept in any case.

    Returns:
        The bits of every such layer, by its name.
    """
    layers = rotated_layers(network)
    sketched = _sketched(layers, run)
    noisiness = {name: 1 / one.shape[2:].numel() for name, one in sketched.items()}
    return _apply(layers, _least_bits(sketched, noisiness, TINY, _budget(sketched, little)))


def choose_bits(
    network: nn.Module,
    backward: Sequence[Callable[[], None]],
    limit: float = 0.1,
    seed: int = 0,
    little: float = LITTLE,
) -> Chosen:
    """Give every layer the least bits that keep the noise of all weight gradients low.

    It begins with one bit everywhere, takes for every sketch the bits that should be enough for all
    convolutions that use it, and raises them where a new measurement says that they are not. Small
    volumes get at least one bit. All sketches together get no more bytes than :func:`first_bits`
    may give them: the limit is raised as far as that asks for.

    Args:
        network: its layers of sketch ``rotated`` are given their bits.
        backward: see :func:`seg3d.probing.noise.gradient_noise`.
        limit: of the ratio of a layer's sketch variance and minibatch variance.
        seed: of the probes.
        little: see :func:`first_bits`.
    """
    layers = rotated_layers(network)
    sketched = _sketched(layers, backward[0])
    budget = _budget(sketched, little)
    bits = _apply(layers, dict.fromkeys(sketched, 1))
    noisiness: dict[str, float] = {}
    noise: dict[str, Noise] = {}
    for attempt in range(ROUNDS):
        noise = gradient_noise(network, backward, seed + attempt)
        for name, ratio in _ratios(network, noise).items():
            energy = error_energy(bits[name])
            if energy and (name not in noisiness or ratio > limit):
                noisiness[name] = max(ratio / energy, noisiness.get(name, 0.0))
        before = bits
        bits = _apply(layers, _least_bits(sketched, noisiness, limit, budget))
        if bits == before:
            break
    return Chosen(bits, noise)


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


def _sketched(layers: Mapping[str, ProbedLayer], run: Callable[[], None]) -> dict[str, Sketched]:
    """What the layers sketch in a run."""
    for layer in layers.values():
        layer.sketched = None
    run()
    return {name: layer.sketched for name, layer in layers.items() if layer.sketched}


def _is_small(sketched: Sketched) -> bool:
    return sketched.shape[2:].numel() < FEWEST_VOXELS


def _ratios(network: nn.Module, noise: Mapping[str, Noise]) -> dict[str, float]:
    """For every layer whose sketch is used, the largest noise ratio of those who use it."""
    names = [name for name, one in network.named_modules() if isinstance(one, ProbedLayer)]
    rotated = rotated_layers(network)
    ratios: dict[str, float] = {}
    for name, one in noise.items():
        convolution = network.get_submodule(name)
        assert isinstance(convolution, ProbedConvolution)
        for source in {names[number] for number in convolution.sources} & rotated.keys():
            ratios[source] = max(ratios.get(source, 0.0), min(one.ratio, LARGEST_RATIO))
    return ratios


def _least_bits(
    sketched: Mapping[str, Sketched], noisiness: Mapping[str, float], limit: float, budget: float
) -> dict[str, Bits]:
    """The least bits that should bring all ratios well under the limit, or as far as bytes allow.

    Args:
        sketched: by all layers.
        noisiness: ratio per error energy, of the layers whose sketches are used.
        limit: of the ratios.
        budget: bytes of all sketches.
    """
    while True:
        bits = {}
        for name, one in sketched.items():
            choices = BITS[BITS.index(1) :] if _is_small(one) else BITS
            energy = limit / SAFETY / noisiness[name] if noisiness.get(name) else inf
            bits[name] = next(choice for choice in choices if error_energy(choice) <= energy)
        if _bytes(sketched, bits) <= budget:
            return bits
        limit *= RAISE


def _budget(sketched: Mapping[str, Sketched], little: float) -> float:
    return max(little, _bytes(sketched, dict.fromkeys(sketched, 1)))


def _bytes(sketched: Mapping[str, Sketched], bits: Mapping[str, Bits]) -> float:
    """Of all sketches, apart from the signs and means that are there in any case."""
    return sum(
        one.shape.numel() * (one.element_size if bits[name] == "exact" else float(bits[name]) / 8)
        for name, one in sketched.items()
    )


def _apply(layers: Mapping[str, ProbedLayer], bits: Mapping[str, Bits]) -> dict[str, Bits]:
    """Set the bits of the layers that there are bits for; return those of all layers."""
    for name, choice in bits.items():
        layers[name].set_sketch("rotated", layers[name].rank, choice)
    return {name: layer.bits for name, layer in layers.items()}
