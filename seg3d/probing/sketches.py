"""What a sketch is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from seg3d.probing.keys import ProbeKey


class Sketch(ABC):
    """A small random summary of a layer input x, from which a surrogate for x can be rebuilt.

    The mean of the surrogate over the keys is x. The weight gradient of a convolution is
    linear in x, so computed from the surrogate it has the exact gradient as its mean.
    Sketches have no state: all randomness is in the key, and both sides must be given the same.
    """

    def compress(self, x: Tensor, key: ProbeKey) -> tuple[Tensor, ...]:
        """Sketch ``x`` of shape ``(B, C, D, H, W)``; the result is all that need be kept."""
        # Rotations cast to half precision would be neither orthogonal nor unbiased.
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return self._compress(x, key)

    def fill(self, out: Tensor, kept: tuple[Tensor, ...], key: ProbeKey) -> None:
        """Write the surrogate into ``out``: of x's shape and type, contiguous or channels-last."""
        with torch.no_grad(), torch.autocast(out.device.type, enabled=False):
            self._fill(out, kept, key)

    def surrogate(
        self, kept: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype, key: ProbeKey
    ) -> Tensor:
        """The surrogate as a new contiguous tensor."""
        out = torch.empty(shape, dtype=dtype, device=kept[0].device)
        self.fill(out, kept, key)
        return out

    @abstractmethod
    def _compress(self, x: Tensor, key: ProbeKey) -> tuple[Tensor, ...]: ...

    @abstractmethod
    def _fill(self, out: Tensor, kept: tuple[Tensor, ...], key: ProbeKey) -> None: ...


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision in which tensors of ``dtype`` are sketched: float64 for itself, or float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
