"""The class scores of a network: of one or several heads, made already or still to be made."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Unscored:
    """Class scores that nobody has made yet: whoever needs them makes them slab by slab.

    Those of a hundred classes would be larger than all else that a network needs.

    Attributes:
        features: `(B, C, D, H, W)`, in the type that the scores are to have.
        weight: of the convolution that scores them, `(K, C, 1, 1, 1)`.
        bias: `(K,)` or None.
    """

    features: Tensor
    weight: Tensor
    bias: Tensor | None

    def rows(self, rows: slice) -> Tensor:
        """The scores of some rows along depth, `(B, K, d, H, W)`."""
        features = self.features[:, :, rows]
        weight, bias = (
            None if one is None else one.to(features.dtype) for one in (self.weight, self.bias)
        )
        assert weight is not None
        return torch.conv3d(features, weight, bias)


# Of one head.
Scores = Tensor | Unscored


def heads(output: Any) -> list[Tensor]:
    """The class scores of a network as a list, finest first.

    Args:
        output: one tensor `(B, K, D, H, W)`, a list of such, or MONAI's stack
            `(B, heads, K, D, H, W)`.
    """
    if isinstance(output, Tensor):
        return list(output.unbind(1)) if output.ndim == 6 else [output]
    return list(output)


def unscored_heads(network: nn.Module, image: Tensor) -> list[Scores]:
    """The heads of a network, finest first, in as little memory as it can.

    A network whose ``forward`` has an argument ``unscored``, as :class:`seg3d.networks.UNet3d` has,
    can leave class scores to the loss, or to whoever else goes through them slab by slab. In
    training, nobody else should hold what this returns when the backward pass begins: it writes
    gradients over scores and features.

    Args:
        network: takes images; it may be in `DistributedDataParallel`.
        image: `(B, C, D, H, W)`.
    """
    bare = network.module if isinstance(network, DistributedDataParallel) else network
    if "unscored" not in inspect.signature(bare.forward).parameters:
        return [*heads(network(image))]
    unscored: list[Scores] = network(image, unscored=True)
    return unscored
