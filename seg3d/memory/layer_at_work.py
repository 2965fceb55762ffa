"""Which layer of a network is at work."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import torch
from torch import nn


class Layers:
    """Which layer is at work: the running module, or the one that made the graph's node."""

    def __init__(self, network: nn.Module) -> None:
        self._running = ["loss"]
        # From each of these sequence numbers on, the nodes of the graph are made by that layer.
        self._numbers: list[int] = []
        self._makers: list[str] = []
        for name, module in network.named_modules():
            self._follow(name or "network", module)

    def _follow(self, name: str, module: nn.Module) -> None:
        def enter(module: nn.Module, inputs: Any) -> None:
            self._running.append(name)
            self._note()

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            self._running.pop()
            self._note()

        module.register_forward_pre_hook(enter, prepend=True)
        # Always, since activation checkpointing leaves modules by an exception.
        module.register_forward_hook(leave, always_call=True)

    def _note(self) -> None:
        self._numbers.append(torch.autograd._get_sequence_nr())
        self._makers.append(self._running[-1])

    def now(self) -> str:
        """Its name; ``loss`` outside the network, ``gradients`` while they are gathered."""
        node = torch._C._current_autograd_node()
        if node is None or len(self._running) > 1:
            return self._running[-1]
        number = node._sequence_nr()
        # Nodes that gather the gradient of a parameter have a number beyond all others.
        if number >= torch.autograd._get_sequence_nr():
            return "gradients"
        return self._makers[bisect_right(self._numbers, number) - 1]
