"""A training step as prediction and measurement run it: batch, forward pass, loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seg3d.common.errors import UserError
from seg3d.losses import DiceCrossEntropy, unscored_heads

# That of training, or of the output of a network and the target a scalar.
Loss = DiceCrossEntropy | Callable[[Any, Tensor], Tensor]


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
    autocast = torch.autocast(image.device.type, dtype, enabled=amp)
    if not isinstance(loss, DiceCrossEntropy):
        with autocast:
            output = network(image)
        return loss(output, target)
    with autocast:
        scores = unscored_heads(network, image)
    value: Tensor = loss(scores, target)["loss"]
    return value
