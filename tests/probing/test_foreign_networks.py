"""probe_model on the networks of MONAI and nnU-Net: what stays the same, and what is saved."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from monai.networks.blocks import ResidualUnit, UnetResBlock
from monai.networks.nets import AttentionUnet, BasicUNet, SegResNet, UNet
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from seg3d.losses import DiceCrossEntropy, heads
from seg3d.networks import UNet3d
from seg3d.probing import activations, convolutions, norms, probe_model, sequential, set_probe_step
from seg3d.probing.names import Bits
from seg3d.probing.probed_layer import ProbedLayer
from seg3d.probing.sequential import add_to

from .foreign import (
    bottleneck_unet,
    dynunet,
    monai_unet,
    nnunet,
    plain_conv_unet,
    residual_encoder_unet,
)
from .helpers import assert_mean_is

DRAWS = 150


def residual_unet3d(widths: tuple[int, ...], blocks: tuple[int, ...]) -> nn.Module:
    """Of seg3d itself, whose blocks begin as what goes past them: here they do not."""
    network = UNet3d(1, 3, widths, "exact", deep_supervision=True, blocks=blocks)
    for name, weight in network.named_parameters():
        if name.endswith("second.norm.weight"):
            nn.init.ones_(weight)
    return network


TINY = (4, 8, 8)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "DynUNet": lambda: dynunet(TINY),
    "DynUNet, residual": lambda: dynunet(TINY, residual=True),
    "UNet": lambda: monai_unet(TINY, 2),
    "BasicUNet": lambda: BasicUNet(3, 1, 3, features=(4, 4, 4, 8, 8, 4)),
    "SegResNet": lambda: SegResNet(3, 8, 1, 3, blocks_down=(1, 1), blocks_up=(1,)),
    "PlainConvUNet": lambda: plain_conv_unet(TINY),
    "ResidualEncoderUNet": lambda: residual_encoder_unet(TINY),
    "UNet3d, residual": lambda: residual_unet3d(TINY, (1, 2, 1)),
}
# Some more, whose blocks are not those of others.
MORE: dict[str, Callable[[], nn.Module]] = {
    **NETWORKS,
    "UNet, plain": lambda: monai_unet(TINY, 0),
    "ResidualEncoderUNet, bottlenecks": lambda: bottleneck_unet(TINY),
    "AttentionUnet": lambda: AttentionUnet(3, 1, 3, TINY, (2, 2)),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def pair(name: str, bits: Bits = 1) -> tuple[nn.Module, nn.Module, Tensor]:
    """The network as it comes and a probed copy, in float64, and an image."""
    torch.manual_seed(5)
    plain = MORE[name]().double()
    probed = copy.deepcopy(plain)
    probe_model(probed, bits=bits)
    return plain, probed, torch.randn(2, 1, 16, 16, 32, dtype=torch.float64)


def loss(output: Any) -> Tensor:
    """Neither linear in the output nor the same for all voxels and classes."""
    scores = heads(output)
    weights = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y).cos() for y in scores]
    parts = [
        (w * y + 0.1 * y.square()).sum() / y[0, 0].numel()
        for w, y in zip(weights, scores, strict=True)
    ]
    return torch.stack(parts).sum()


# Batch norm's running statistics, which AttentionUnet has, are equal to rounding only.
@pytest.mark.parametrize("name", [name for name in MORE if name != "AttentionUnet"])
def test_outputs_and_state_dict_are_those_of_the_plain_network(name: str) -> None:
    plain, probed, x = pair(name)
    for y, expected in zip(heads(probed(x)), heads(plain(x)), strict=True):
        assert y.requires_grad
        torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    for network in (plain, probed):
        network.eval()
    assert torch.equal(heads(probed(x))[0], heads(plain(x))[0])
    with torch.no_grad():
        for network in (plain, probed):
            network.train()
        for y, expected in zip(heads(probed(x)), heads(plain(x)), strict=True):
            assert torch.equal(y, expected)
    state, expected_state = probed.state_dict(), plain.state_dict()
    assert list(state) == list(expected_state)
    assert all(torch.equal(state[key], expected_state[key]) for key in state)


@pytest.mark.parametrize("name", MORE)
def test_with_exact_bits_all_gradients_are_the_plain_ones(name: str) -> None:
    plain, probed, x = pair(name, "exact")
    for network in (plain, probed):
        loss(network(x)).backward()
    scale = max(p.grad.abs().max() for p in plain.parameters() if p.grad is not None)
    names = [key for key, _ in plain.named_parameters()]
    for key, exact, ours in zip(names, plain.parameters(), probed.parameters(), strict=True):
        assert (exact.grad is None) == (ours.grad is None), key
        if exact.grad is not None:
            # The gradients of biases in front of a norm are nothing but rounding.
            torch.testing.assert_close(ours.grad, exact.grad, rtol=1e-9, atol=float(1e-10 * scale))


class TwoBranches(nn.Module):
    """A residual sum both of whose branches, and both consumers, are probed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(1, 4, 1)
        self.norm1, self.norm2 = nn.InstanceNorm3d(4, affine=True), nn.GroupNorm(2, 4)
        self.act1, self.act2 = nn.ReLU(inplace=True), nn.LeakyReLU(0.1, inplace=True)
        self.head = nn.Conv3d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.act1(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(x)) + residual
        return self.head(self.act2(out) + residual)


SHARING: dict[str, Callable[[], nn.Module]] = {
    "two branches": TwoBranches,
    "UnetResBlock": lambda: UnetResBlock(3, 1, 3, 3, 1, ("instance", {"affine": True})),
    **NETWORKS,
}


def forbid_work_in_place(patch: pytest.MonkeyPatch) -> None:
    for module in (norms, activations, convolutions):
        patch.setattr(module, "is_private", lambda gradient: False)
    for module in (sequential, convolutions):
        patch.setattr(module, "is_alone", lambda x: False)


def count_work_in_place(patch: pytest.MonkeyPatch) -> list[bool]:
    """Every gradient that is worked on from now on: whether it is written over."""
    seen: list[bool] = []

    def spied(work: Callable[..., Any]) -> Callable[..., Any]:
        def spy(dz: Tensor, dx: Tensor, *rest: Any) -> Any:
            seen.append(dx is dz)
            return work(dz, dx, *rest)

        return spy

    patch.setattr(norms, "normalise_backward", spied(norms.normalise_backward))
    patch.setattr(activations, "activate_backward", spied(activations.activate_backward))
    return seen


@pytest.mark.parametrize("bits", [1, 0.125, "exact"])
@pytest.mark.parametrize("name", SHARING)
def test_work_in_place_changes_no_gradient(
    name: str, bits: Bits, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(2)
    network = SHARING[name]()
    probe_model(network, bits=bits)
    x = torch.randn(2, 1, 16, 16, 32)

    def gradients() -> list[Tensor]:
        set_probe_step(network, seed=1, step=0)
        network.zero_grad()
        image = x.clone().requires_grad_()
        loss(network(image)).backward()
        found = [p.grad for p in (image, *network.parameters()) if p.grad is not None]
        assert len(found) > 5
        return found

    with monkeypatch.context() as patch:
        forbid_work_in_place(patch)
        expected = gradients()
    in_place = count_work_in_place(monkeypatch)
    assert all(map(torch.equal, gradients(), expected))
    assert any(in_place)


def full_backward_hooks(network: nn.Module) -> list[Tensor]:
    seen: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, ProbedLayer):
            # Nor does it let activations work in place then.
            if hasattr(module, "inplace"):
                module.inplace = False  # type: ignore[assignment]
            module.register_full_backward_hook(lambda _, dx, dy: seen.extend([*dx, *dy]))
    return seen


def tensor_hooks(network: nn.Module) -> list[Tensor]:
    seen: list[Tensor] = []
    watch_outputs(network, lambda output: output.register_hook(seen.append))
    return seen


def retained(network: nn.Module) -> list[Tensor]:
    outputs: list[Tensor] = []
    watch_outputs(network, outputs.append)
    watch_outputs(network, Tensor.retain_grad)
    return outputs


def watch_outputs(network: nn.Module, watch: Callable[[Tensor], Any]) -> None:
    for module in network.modules():
        if isinstance(module, ProbedLayer):
            module.register_forward_hook(lambda module, inputs, output: watch(output) and None)


RESIDUAL = ("DynUNet, residual", "SegResNet", "ResidualEncoderUNet", "UNet3d, residual")


@pytest.mark.parametrize(
    ("name", "watch"),
    [
        *((name, watch) for name in RESIDUAL for watch in (tensor_hooks, retained)),
        # Torch itself refuses full backward hooks where residuals are added in place.
        *((name, full_backward_hooks) for name in ("UNet", "PlainConvUNet")),
    ],
)
def test_what_hooks_have_seen_never_changes(
    name: str, watch: Callable[[nn.Module], list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, network, x = pair(name)

    def seen() -> list[Tensor]:
        watched = copy.deepcopy(network)
        set_probe_step(watched, seed=1, step=0)
        tensors = watch(watched)
        loss(watched(x.clone().requires_grad_())).backward()
        found = [tensor.grad for tensor in tensors] if watch is retained else tensors
        return [tensor for tensor in found if tensor is not None]

    ours = seen()
    forbid_work_in_place(monkeypatch)
    expected = seen()
    assert len(ours) == len(expected) > 20
    assert all(map(torch.equal, ours, expected))


@pytest.mark.parametrize("name", RESIDUAL)
def test_gradients_of_tensors_in_the_middle(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, network, x = pair(name)
    outputs: list[Tensor] = []
    watch_outputs(network, outputs.append)

    def gradients() -> list[Tensor]:
        outputs.clear()
        set_probe_step(network, seed=1, step=0)
        found = torch.autograd.grad(loss(network(x)), outputs, allow_unused=True)
        return [dy for dy in found if dy is not None]

    ours = gradients()
    forbid_work_in_place(monkeypatch)
    expected = gradients()
    assert len(ours) == len(expected) > 10
    assert all(map(torch.equal, ours, expected))


def small_unet() -> nn.Module:
    return UNet(3, 1, 2, channels=(2, 4), strides=(2,), num_res_units=1)


@pytest.mark.parametrize(
    ("make", "bits"),
    [
        (small_unet, 1),
        (small_unet, 0.125),
        (partial(residual_unet3d, (2, 4), (1, 1)), 0.125),
    ],
    ids=["UNet", "UNet, an eighth", "UNet3d, residual, an eighth"],
)
def test_gradients_are_unbiased(make: Callable[[], nn.Module], bits: Bits) -> None:
    torch.manual_seed(1)
    network = make()
    # Norms have a bias of the order of 1 / voxels, which would show in smaller volumes.
    x = torch.randn(1, 1, 16, 16, 16)

    def gradient() -> Tensor:
        network.zero_grad()
        loss(network(x)).backward()
        return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])

    exact = gradient()
    probe_model(network, bits=bits)
    draws = []
    for step in range(DRAWS):
        set_probe_step(network, seed=3, step=step)
        draws.append(gradient().double())
    assert_mean_is(torch.stack(draws), exact)


def cubes(seed: int) -> tuple[Tensor, Tensor]:
    """Two noisy images of cubes of two kinds, and which voxel belongs to which."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.zeros(2, 1, 16, 16, 32, dtype=torch.int16)
    for sample in range(len(target)):
        for kind, edge in ((1, 6), (2, 4)):
            z, y, x = torch.randint(0, 16 - edge, (3,), generator=generator).tolist()
            target[sample, 0, z : z + edge, y : y + edge, x : x + edge] = kind
    return target + 0.3 * torch.randn(target.shape, generator=generator), target


@every_network
def test_training_goes_as_with_the_plain_network(name: str) -> None:
    plain, probed, _ = pair(name)
    curves = []
    for network in (plain.float(), probed.float()):
        optimiser = torch.optim.Adam(network.parameters(), 1e-2)
        curve = []
        for step in range(30):
            image, target = cubes(step)
            set_probe_step(network, seed=0, step=step)
            error = DiceCrossEntropy()(heads(network(image)), target)["loss"]
            optimiser.zero_grad()
            error.backward()
            optimiser.step()
            curve.append(error.item())
        curves.append(curve)
    expected, ours = (sum(curve[-5:]) / 5 for curve in curves)
    first = curves[0][0]
    assert curves[1][0] == pytest.approx(first, rel=1e-4)
    assert expected < 0.8 * first
    # What the plain network has gained the probed one has gained to within a tenth.
    assert first - ours > 0.9 * (first - expected)


WATCHED = {
    "PlainConvUNet": (
        "encoder",
        "encoder.stages.1",
        "encoder.stages.1.0.convs.0.all_modules.0",
        "decoder",
        "decoder.transpconvs.1",
        "decoder.stages.1",
        "decoder.stages.1.convs.0",
        "decoder.stages.1.convs.0.all_modules.0",
        "decoder.stages.1.convs.0.all_modules.1",
    ),
    "ResidualEncoderUNet": (
        "encoder.stem",
        "encoder.stages.0.blocks.1",
        "encoder.stages.1.blocks.0.skip",
        "encoder.stages.1.blocks.0.conv1",
        "encoder.stages.1.blocks.0.conv2",
    ),
    "UNet": (
        "model.0",
        "model.1",
        "model.1.submodule",
        "model.0.residual",
        "model.1.submodule.0.conv",
        "model.2",
        "model.2.0",
        "model.2.0.conv",
    ),
    "DynUNet": (
        "skip_layers",
        "skip_layers.next_layer",
        "upsamples.1",
        "upsamples.1.transp_conv",
        "upsamples.1.conv_block.conv1",
    ),
}


@pytest.mark.parametrize("name", WATCHED)
def test_one_hook_sees_what_it_would_have_seen(name: str) -> None:
    plain, probed, x = pair(name, "exact")
    for module in (*plain.modules(), *probed.modules()):
        if isinstance(module, nn.LeakyReLU):
            # It would write over what the hook has seen; ours does not where that is kept.
            module.inplace = False
    for watched in WATCHED[name]:
        for probing in (True, False):
            seen: list[list[Tensor]] = []
            for network in (plain, probed):
                network.train(probing)
                with torch.set_grad_enabled(probing):
                    seen.append(tensors_at(network.get_submodule(watched), network, x))
            assert len(seen[0]) == len(seen[1]) > 1
            for expected, found in zip(*seen, strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def tensors_at(module: nn.Module, network: nn.Module, x: Tensor) -> list[Tensor]:
    """What goes into the module and comes out of it, as it is when the network is done."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(
        lambda module, inputs, output: seen.extend(tree_leaves((inputs, output)))
    )
    network(x)
    handle.remove()
    return seen


class OwnForward(PlainConvUNet):
    def forward(self, x: Tensor) -> Any:
        return [2 * scores for scores in super().forward(x)]


def test_a_forward_of_ones_own_is_left_alone() -> None:
    plain = nnunet(OwnForward, TINY, n_conv_per_stage=1, n_conv_per_stage_decoder=1).double()
    probed = copy.deepcopy(plain)
    probe_model(probed)
    assert type(probed) is OwnForward
    calls: list[Tensor] = []
    ordinary = probed.decoder.forward
    probed.decoder.forward = lambda skips: calls.extend(skips) or ordinary(skips)
    x = torch.randn(1, 1, 16, 16, 16, dtype=torch.float64)
    for found, expected in zip(probed(x), plain(x), strict=True):
        torch.testing.assert_close(found, expected)
    assert len(calls) == len(TINY)


@pytest.mark.parametrize("probing", [True, False])
def test_volumes_without_a_batch_and_vectors_go_as_before(probing: bool) -> None:
    units = ResidualUnit(3, 2, 4, strides=2)
    vectors = nn.Sequential(nn.Flatten(0), nn.Linear(4 * 4 * 4 * 4, 3), nn.PReLU())
    plain = nn.Sequential(units, vectors).double().train(probing)
    probed = copy.deepcopy(plain)
    probe_model(probed)
    x = torch.randn(2, 8, 8, 8, dtype=torch.float64)
    with torch.set_grad_enabled(probing):
        torch.testing.assert_close(probed(x), plain(x), rtol=1e-10, atol=1e-10)


def test_sums_are_in_place_only_where_nobody_sees_it() -> None:
    x, past = torch.ones(3), torch.ones(3)
    held = [x]
    add_to(held, past)
    assert torch.equal(x, torch.ones(3)) and torch.equal(held[0], 2 * torch.ones(3))
    address = held[0].data_ptr()
    add_to(held, past)
    assert held[0].data_ptr() == address
    add_to(held, torch.ones(3, dtype=torch.float64))
    assert held[0].dtype == torch.float64


@pytest.mark.parametrize("edges", [(32, 16, 16), (33, 19, 21)])
def test_hooks_within_a_block_of_basic_unet_are_called(edges: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network = NETWORKS["BasicUNet"]().double()
    probe_model(network, bits="exact")
    x = torch.randn(1, 1, *edges, dtype=torch.float64)
    scores = network(x)
    scores.square().sum().backward()
    expected = {name: weight.grad for name, weight in network.named_parameters()}
    network.zero_grad()
    seen: list[torch.Size] = []
    block = network.upcat_1.convs.conv_0
    block.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    torch.testing.assert_close(network(x), scores)
    network(x).square().sum().backward()
    assert seen == [torch.Size((1, 4, *edges))] * 2
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name])


@every_network
def test_a_probed_network_can_be_copied_and_pickled(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    probe_model(network, bits=1)
    x = torch.randn(1, 1, 32, 16, 16)
    # Before it is used: MONAI's DynUNet holds on to its scores, which cannot be copied.
    copies = [copy.deepcopy(network)]
    if name != "ResidualEncoderUNet":  # of which some attributes are lambdas
        copies.append(pickle.loads(pickle.dumps(network)))
    expected = gradients_of(network, x)
    for copied in copies:
        found = gradients_of(copied, x)
        assert all(torch.equal(found[key], value) for key, value in expected.items())


def gradients_of(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    set_probe_step(network, seed=1, step=2)
    sum(scores.square().sum() for scores in heads(network(x))).backward()  # type: ignore[union-attr]
    return {name: weight.grad.clone() for name, weight in network.named_parameters()}  # type: ignore[union-attr]
