"""A training step as prediction and measurement run it: batch, forward pass, loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seg3d.common.errors import UserError
from seg3d.losses import DiceCrossEntropy, heads

# Of the output of a network and the target, a scalar.
Loss = Callable[[Any, Tensor], Tensor]


def batch(
    shape: Sequence[int], dtype: torch.dtype, target_dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """An image and its target, without values."""
    if len(shape) < 3 or min(shape) < 1:
        raise UserError(
            "this is not the shape of a batch of images",
            given=list(shape),
            legal="(B, C, D, H, W), all positive",
        )
    image = torch.empty(*shape, dtype=dtype, device=device)
    return image, torch.empty(shape[0], 1, *shape[2:], dtype=target_dtype, device=device)


def loss_of(
    network: nn.Module, image: Tensor, target: Tensor, loss: Loss, amp: bool, dtype: torch.dtype
) -> Tensor:
    """The loss of a forward pass, under autocast to ``dtype`` if ``amp``."""
    with torch.autocast(image.device.type, dtype, enabled=amp):
        output = network(image)
    return loss(output, target)


def dice_cross_entropy(output: Any, target: Tensor) -> Tensor:
    """The loss that training has by default, over all heads of the output."""
    return DiceCrossEntropy()(heads(output), target)["loss"]
