"""Gradients are overwritten only where nobody else can see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seg3d.common.private import is_private
from seg3d.probing import ProbedConv3d, ProbedGroupNorm, set_probe_step
from seg3d.probing.activations import ProbedLeakyReLU

SHAPE = (1, 4, 4, 5, 6)


class Witness(torch.autograd.Function):
    """The identity; asks of its gradient whether it is private."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, answers: list[bool]) -> Tensor:
        ctx.answers = answers
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.answers.append(is_private(gradient))
        return gradient.clone(), None


class Witnessing(nn.Module):
    """:class:`Witness` as a layer."""

    def __init__(self, answers: list[bool]) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, x: Tensor) -> Tensor:
        return Witness.apply(x, self.answers)


def fresh() -> Tensor:
    """An output of which autograd will hand the gradient on: not a leaf."""
    return torch.randn(SHAPE, requires_grad=True) * 1


def plain_chain(answers: list[bool]) -> None:
    (Witness.apply(fresh(), answers) * 2).square().sum().backward()


def sum_of_two(answers: list[bool]) -> None:
    witnessed = Witness.apply(fresh(), answers), Witness.apply(fresh(), answers)
    (witnessed[0] + witnessed[1]).square().sum().backward()


def passed_to_backward(answers: list[bool]) -> None:
    gradient = torch.randn(SHAPE)
    Witness.apply(fresh(), answers).backward(gradient)


def tensor_hook(answers: list[bool]) -> None:
    held: list[Tensor] = []
    y = Witness.apply(fresh(), answers)
    y.register_hook(held.append)
    y.square().sum().backward()


def prehook_of_the_node(answers: list[bool]) -> None:
    held: list[Any] = []
    y = Witness.apply(fresh(), answers)
    y.grad_fn.register_prehook(held.append)
    y.square().sum().backward()


def hook_of_the_node_before(answers: list[bool]) -> None:
    held: list[Any] = []
    y = Witness.apply(fresh(), answers)
    z = y.square()
    z.grad_fn.register_hook(lambda inputs, outputs: held.append(inputs))
    z.sum().backward()


def full_backward_hook(answers: list[bool]) -> None:
    held: list[Any] = []
    layer = Witnessing(answers)
    layer.register_full_backward_hook(lambda module, inputs, outputs: held.append(outputs))
    layer(fresh()).square().sum().backward()


def full_backward_pre_hook(answers: list[bool]) -> None:
    held: list[Any] = []
    layer = Witnessing(answers)
    layer.register_full_backward_pre_hook(lambda module, outputs: held.append(outputs))
    layer(fresh()).square().sum().backward()


def wanted_by_autograd_grad(answers: list[bool]) -> None:
    x = fresh()
    y = Witness.apply(x, answers)
    torch.autograd.grad(y.square().sum(), (x, y))


def view(answers: list[bool]) -> None:
    y = Witness.apply(fresh(), answers)
    y.flatten().square().sum().backward()


def part_of_another(answers: list[bool]) -> None:
    halves = Witness.apply(fresh(), answers), Witness.apply(fresh(), answers)
    torch.cat(halves, 1).square().sum().backward()


def expanded(answers: list[bool]) -> None:
    Witness.apply(fresh(), answers).sum().backward()


def kept_by_the_node_before(answers: list[bool]) -> None:
    class Keeps(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x.clone())
            return x.sum()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return ctx.saved_tensors[0]

    Keeps.apply(Witness.apply(fresh(), answers)).backward(retain_graph=True)


def test_alone_with_its_gradient() -> None:
    answers: list[bool] = []
    plain_chain(answers)
    assert answers == [True]


@pytest.mark.parametrize(
    "graph",
    [
        sum_of_two,
        passed_to_backward,
        tensor_hook,
        prehook_of_the_node,
        hook_of_the_node_before,
        full_backward_hook,
        full_backward_pre_hook,
        wanted_by_autograd_grad,
        view,
        part_of_another,
        expanded,
        kept_by_the_node_before,
    ],
)
def test_not_alone_with_its_gradient(graph: Callable[[list[bool]], None]) -> None:
    answers: list[bool] = []
    graph(answers)
    assert answers
    assert not answers[0], "the first to be asked has company"


def probed_layers() -> list[nn.Module]:
    """A convolution, a norm layer, an activation and another convolution."""
    norm = ProbedGroupNorm(2, 4)
    return [
        ProbedConv3d(4, 4, 3, padding=1),
        norm,
        ProbedLeakyReLU(0.1),
        ProbedConv3d(4, 4, 3, padding=1),
    ]


def test_private_in_a_chain_of_probed_layers() -> None:
    answers: list[bool] = []
    layers = [part for layer in probed_layers() for part in (Witnessing(answers), layer)]
    nn.Sequential(*layers)(fresh()).square().sum().backward()
    assert answers == [True] * 4


def test_norm_and_activation_write_over_a_private_gradient() -> None:
    addresses: list[int] = []
    x = fresh()
    for layer in probed_layers():
        x.register_hook(lambda gradient: addresses.append(gradient.data_ptr()))
        x = layer(x)
    x.square().sum().backward()
    last_conv, activation, norm, first_conv = addresses
    assert last_conv == activation == norm
    assert first_conv != norm


class Residual(nn.Module):
    """x + branch(x), of which both are probed, and a leaf to which sums hand their gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(*probed_layers())
        self.branches = nn.ModuleList(nn.Sequential(*probed_layers()) for _ in range(2))
        self.last = nn.Sequential(*probed_layers()[1:3])
        self.offset = nn.Parameter(torch.randn(SHAPE))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for branch in self.branches:
            x = x + branch(x)
        x = self.last[1](self.last[0](x) + self.offset)
        y, skip = self.first[-1].with_skip(x)
        return y + skip


@pytest.mark.parametrize("hooks", [False, True])
def test_gradients_are_those_of_a_network_that_overwrites_nothing(
    hooks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Residual()
    x, dy = torch.randn(SHAPE), torch.randn(SHAPE)

    def run() -> tuple[Tensor, list[Tensor], list[Tensor]]:
        held: list[Tensor] = []
        handles = []
        if hooks:
            for module in network.modules():
                if not list(module.children()):
                    hook = lambda module, inputs, outputs: held.extend(  # noqa: E731
                        gradient for gradient in (*inputs, *outputs) if gradient is not None
                    )
                    handles.append(module.register_full_backward_hook(hook))
        network.zero_grad()
        set_probe_step(network, seed=3, step=4)
        leaf, given = x.clone().requires_grad_(), dy.clone()
        network(leaf * 1).backward(given)
        for handle in handles:
            handle.remove()
        assert torch.equal(given, dy)
        return leaf.grad, [p.grad for p in network.parameters()], held

    overwriting = run()
    for module in ("norms", "activations", "convolutions"):
        monkeypatch.setattr(f"seg3d.probing.{module}.is_private", lambda gradient: False)
    careful = run()
    assert len(careful[2]) == len(overwriting[2])
    assert bool(careful[2]) == hooks
    for one, other in zip(
        (overwriting[0], *overwriting[1], *overwriting[2]),
        (careful[0], *careful[1], *careful[2]),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_retained_gradients_are_not_overwritten() -> None:
    layers = probed_layers()
    grads = []
    for retain in (True, False):
        x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), requires_grad=True) * 1
        set_probe_step(nn.Sequential(*layers), 0, 0)
        tensors = [x]
        for layer in layers:
            tensors.append(layer(tensors[-1]))
        if retain:
            for tensor in tensors[:-1]:
                tensor.retain_grad()
            tensors[-1].square().sum().backward()
            grads.append([tensor.grad for tensor in tensors[:-1]])
        else:
            wanted = torch.autograd.grad(tensors[-1].square().sum(), tensors[:-1])
            grads.append(list(wanted))
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)
    assert len({gradient.data_ptr() for gradient in grads[0]}) == 4
