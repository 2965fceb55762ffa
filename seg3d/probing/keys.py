"""Where the randomness of the probes comes from: four numbers, never the global generator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

GOLDEN_RATIO = 0x9E3779B97F4A7C15  # times 2^64: its multiples are spread evenly


@dataclass(frozen=True)
class ProbeKey:
    """Names one draw of probes; the same key gives the same probes, on every visit.

    Attributes:
        seed: the run's seed, 0 to 2^63 - 1, with the rank of the process mixed in.
        step: the optimiser step.
        layer: the layer's place among the probed layers of its network.
        call: how many forward passes the layer has sketched before, in this step.
    """

    seed: int = 0
    step: int = 0
    layer: int = 0
    call: int = 0

    def next_call(self) -> ProbeKey:
        """The key for the layer's next forward pass within the same step."""
        return replace(self, call=self.call + 1)

    def of_rank(self, rank: int) -> ProbeKey:
        """The key of one of several processes, all of which have this one; of rank 0 the same."""
        return replace(self, seed=(self.seed + rank * GOLDEN_RATIO) % 2**63)

    def entropy(self, stream: int) -> np.random.SeedSequence:
        """The numbers, well mixed; different ``stream`` numbers give independent draws."""
        return np.random.SeedSequence([self.seed, self.step, self.layer, self.call, stream])

    def number(self, stream: int) -> int:
        """64 bits from :meth:`entropy`, as a signed integer."""
        return _number(self, stream)

    def generator(self, device: torch.device | str, stream: int) -> torch.Generator:
        """A fresh generator on ``device``, seeded from :meth:`entropy`."""
        return torch.Generator(device).manual_seed(self.number(stream))

    def to_tensor(self) -> Tensor:
        """The four numbers as int64 on the CPU, to be saved for the backward pass.

        With the sketch and not apart from it, so that whoever swaps one for another
        (activation checkpointing recomputes the forward pass) swaps both.
        """
        numbers = [self.seed, self.step, self.layer, self.call]
        return torch.tensor(numbers, dtype=torch.int64, device="cpu")

    @classmethod
    def from_tensor(cls, numbers: Tensor) -> ProbeKey:
        """Undo :meth:`to_tensor`; any key does for a fake tensor, which has no numbers."""
        return cls(*numbers.tolist()) if type(numbers) is Tensor else cls()


@lru_cache(maxsize=1024)  # the backward pass asks again for what the forward pass was given
def _number(key: ProbeKey, stream: int) -> int:
    return int(key.entropy(stream).generate_state(1, np.uint64).view(np.int64)[0])


def process_rank() -> int:
    """The rank of this process under ``torch.distributed``, or 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def random_words(number: int, counters: Tensor) -> Tensor:
    """64 random bits for every counter (int64, not negative), whatever the device and order.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): number plus counter times the golden ratio,
    well mixed. Counters make draws of any part of a volume possible without those before it.
    """
    words = (counters + 1) * _signed(GOLDEN_RATIO) + number
    words = (words ^ _shifted(words, 30)) * _signed(0xBF58476D1CE4E5B9)
    words = (words ^ _shifted(words, 27)) * _signed(0x94D049BB133111EB)
    return words ^ _shifted(words, 31)


def skipping(number: int, counters: int) -> int:
    """The number that stands for ``number`` where the first so many counters are left out."""
    return _signed((number + counters * GOLDEN_RATIO) % (1 << 64))


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros; torch fills with the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
