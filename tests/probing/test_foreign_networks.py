"""probe_model on the networks of MONAI and nnU-Net: what stays the same, and what is saved."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from monai.networks.blocks import UnetResBlock
from monai.networks.nets import BasicUNet, DynUNet, SegResNet, UNet
from torch import Tensor, nn

from seg3d.losses import DiceCrossEntropy, heads
from seg3d.memory import training_memory
from seg3d.networks import UNet3d
from seg3d.probing import activations, convolutions, norms, probe_model, sequential, set_probe_step
from seg3d.probing.names import Bits
from seg3d.probing.probed_layer import ProbedLayer

from .helpers import assert_mean_is

NNUNET_WIDTHS = (32, 64, 128, 256, 320, 320)
DRAWS = 150


def dynunet(widths: tuple[int, ...], residual: bool = False) -> nn.Module:
    levels = len(widths)
    return DynUNet(
        3,
        1,
        3,
        [3] * levels,
        [1] + [2] * (levels - 1),
        [2] * (levels - 1),
        filters=widths,
        deep_supervision=True,
        deep_supr_num=levels - 2,
        res_block=residual,
    )


def nnunet(kind: type[nn.Module], widths: tuple[int, ...], **blocks: Any) -> nn.Module:
    levels = len(widths)
    return kind(
        1,
        levels,
        widths,
        nn.Conv3d,
        3,
        [1] + [2] * (levels - 1),
        num_classes=3,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
        **blocks,
    )


def plain_conv_unet(widths: tuple[int, ...]) -> nn.Module:
    return nnunet(PlainConvUNet, widths, n_conv_per_stage=2, n_conv_per_stage_decoder=2)


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
    "UNet": lambda: UNet(3, 1, 3, channels=TINY, strides=(2, 2), num_res_units=2),
    "BasicUNet": lambda: BasicUNet(3, 1, 3, features=(4, 4, 4, 8, 8, 4)),
    "SegResNet": lambda: SegResNet(3, 8, 1, 3, blocks_down=(1, 1), blocks_up=(1,)),
    "PlainConvUNet": lambda: plain_conv_unet(TINY),
    "ResidualEncoderUNet": lambda: nnunet(
        ResidualEncoderUNet, TINY, n_blocks_per_stage=(1, 2, 1), n_conv_per_stage_decoder=1
    ),
    "UNet3d, residual": lambda: residual_unet3d(TINY, (1, 2, 1)),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def pair(name: str, bits: Bits = 1) -> tuple[nn.Module, nn.Module, Tensor]:
    """The network as it comes and a probed copy, in float64, and an image."""
    torch.manual_seed(5)
    plain = NETWORKS[name]().double()
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


@every_network
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


@every_network
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


def monai_unet(residual_units: int) -> nn.Module:
    return UNet(3, 1, 3, (16, 32, 64, 128, 256), (2, 2, 2, 2), num_res_units=residual_units)


@pytest.mark.parametrize(
    ("make", "amp", "share"),
    [
        (partial(dynunet, NNUNET_WIDTHS), False, 0.232),
        (partial(plain_conv_unet, NNUNET_WIDTHS), False, 0.372),
        (partial(BasicUNet, 3, 1, 3), False, 0.227),
        # Here slabs of 32 MiB, which keep a GPU busy, are as large as the largest tensors.
        (partial(monai_unet, 0), True, 0.554),
        (partial(monai_unet, 2), False, 0.320),
    ],
    ids=["DynUNet", "PlainConvUNet", "BasicUNet", "UNet by bfloat16", "UNet with residual units"],
)
def test_memory_of_a_training_step(make: Callable[[], nn.Module], amp: bool, share: float) -> None:
    dtype = torch.bfloat16 if amp else torch.float32
    with torch.device("meta"):
        plain, probed = make(), make()
    probe_model(probed, bits=1)
    shape = (2, 1, 128, 128, 128)
    peaks = [training_memory(net, shape, dtype, amp=amp).peak for net in (plain, probed)]
    assert peaks[1] <= 1.05 * share * peaks[0]


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
