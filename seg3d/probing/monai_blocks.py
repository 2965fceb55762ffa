"""The decoder block of MONAI's BasicUNet, without its concatenation."""

from __future__ import annotations

from monai.networks.nets.basic_unet import UpCat
from torch import Tensor
from torch.nn.functional import pad

from seg3d.probing.convolutions import ProbedConv3d
from seg3d.probing.probed_layer import is_watched
from seg3d.probing.sequential import ProbedSequential, apply_to


class ProbedUpCat(UpCat):
    """:class:`monai.networks.nets.basic_unet.UpCat` that takes two tensors less."""

    def forward(self, x: Tensor, x_e: Tensor | None) -> Tensor:
        """Upsample ``x``, concatenate the skip ``x_e`` in front of it, apply two convolutions."""
        if x_e is None or not self._can_split(x):
            return super().forward(x, x_e)
        first, second = self.convs
        conv, *behind = first
        held = [conv.of_parts([lambda: x_e, lambda: self._upsampled(x, x_e)])]
        for block in (*behind, second):
            apply_to(block, held)
        return held.pop()

    def _can_split(self, x: Tensor) -> bool:
        first, second = self.convs
        conv, *behind = first
        blocks = (self.convs, first, second, *behind)
        return (
            all(isinstance(block, ProbedSequential) for block in blocks)
            and isinstance(conv, ProbedConv3d)
            and conv.is_probing()
            and not any(is_watched(module, x) for module in (*blocks, conv))
        )

    def _upsampled(self, x: Tensor, x_e: Tensor) -> Tensor:
        upsampled: Tensor = self.upsample(x)
        missing = [e - u for e, u in zip(x_e.shape[2:], upsampled.shape[2:], strict=True)]
        if not self.is_pad or not any(missing):
            return upsampled
        # Max pooling has dropped the last plane of an odd edge.
        both_sides = [size for excess in reversed(missing) for size in (0, excess)]
        return pad(upsampled, both_sides, mode="replicate")
