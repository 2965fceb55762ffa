"""Where the randomness of the probes comes from: four numbers, never the global generator."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ProbeKey:
    """Names one draw of probes; the same key gives the same probes, on every visit.

    Attributes:
        seed: the run's seed, 0 to 2^63 - 1 (under data parallelism with the rank mixed in).
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

    def entropy(self, stream: int) -> np.random.SeedSequence:
        """The numbers, well mixed; different ``stream`` numbers give independent draws."""
        return np.random.SeedSequence([self.seed, self.step, self.layer, self.call, stream])

    def generator(self, device: torch.device | str, stream: int) -> torch.Generator:
        """A fresh generator on ``device``, seeded from :meth:`entropy`."""
        (mixed,) = self.entropy(stream).generate_state(1, np.uint64)
        return torch.Generator(device).manual_seed(int(mixed))

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
