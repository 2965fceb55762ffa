"""probe_model on every kind of layer, and on everything that it must leave alone."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import parametrizations, weight_norm

from seg3d.common.errors import UserError
from seg3d.networks import UNet3d
from seg3d.probing import ProbedConv3d, ProbedConvTranspose3d, probe_model, set_probe_step
from seg3d.probing.convert import PROBED

VOLUME = (2, 4, 6, 8, 10)
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Conv3d": lambda: nn.Conv3d(4, 2, 3),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(4, 2, 2, stride=2),
    "InstanceNorm3d": lambda: nn.InstanceNorm3d(4),
    "InstanceNorm3d, affine": lambda: nn.InstanceNorm3d(4, affine=True),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "BatchNorm3d": lambda: nn.BatchNorm3d(4),
    "ReLU": nn.ReLU,
    "ReLU in place": lambda: nn.ReLU(inplace=True),
    "LeakyReLU": lambda: nn.LeakyReLU(0.1),
    "PReLU": lambda: nn.PReLU(4),
    "MaxPool3d": lambda: nn.MaxPool3d(2),
    "MaxPool3d, ragged": lambda: nn.MaxPool3d((3, 2, 3), 2, 1, ceil_mode=True),
    "MaxPool3d, dilated": lambda: nn.MaxPool3d(2, 1, dilation=2),
    "AvgPool3d": lambda: nn.AvgPool3d(2),
    "AvgPool3d, ragged": lambda: nn.AvgPool3d(3, 2, 1, count_include_pad=False),
}


def layer(name: str) -> nn.Module:
    return LAYERS[name]().double()


@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_is_turned_and_computes_what_it_did(name: str) -> None:
    plain = layer(name)
    kind = type(plain)
    probed = copy.deepcopy(plain)
    report = probe_model(probed, bits="exact")
    assert report.converted == {"": "rotated"} and not report.left
    assert type(probed) is not kind and isinstance(probed, kind)
    assert list(probed.state_dict()) == list(plain.state_dict())
    results = []
    for network in (plain, probed):
        x = torch.randn(VOLUME, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        x.requires_grad_()
        y = network(x * 1)
        y.cos().sum().backward()
        results.append([y, x.grad, *(p.grad for p in network.parameters()), *network.buffers()])
    for ours, theirs in zip(*reversed(results), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    x = torch.randn(VOLUME, dtype=torch.float64)
    probed.load_state_dict(plain.state_dict())
    with torch.no_grad():
        ours, theirs = probed.eval()(x.clone()), plain.eval()(x.clone())
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in LAYERS if "Pool" in name])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_pools_are_exact_to_the_last_bit(name: str, layout: torch.memory_format) -> None:
    results = []
    for probed in (False, True):
        pool = LAYERS[name]()
        if probed:
            probe_model(pool)
        x = torch.randn(VOLUME, generator=torch.Generator().manual_seed(2))
        x = x.to(memory_format=layout).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = pool(x)
        y.cos().sum().backward()
        results.append((y, x.grad))
    assert all(map(torch.equal, *results))


def test_what_pools_keep() -> None:
    kept: list[Tensor] = []
    x = torch.randn(2, 4, 16, 16, 16, requires_grad=True)
    for pool, numbers in ((nn.MaxPool3d(2), x.numel() // 8), (nn.AvgPool3d(2), 0)):
        probe_model(pool)
        kept.clear()
        with saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
            pool(x)
        assert [tensor.nbytes for tensor in kept] == ([4 * numbers] if numbers else [])


def test_pools_that_return_places_and_single_volumes_are_torchs() -> None:
    pool = nn.MaxPool3d(2, return_indices=True)
    x = torch.randn(VOLUME)
    expected = pool(x)
    probe_model(pool)
    assert all(map(torch.equal, pool(x), expected))
    single = nn.AvgPool3d(2)
    probe_model(single)
    assert single(x[0]).shape == (4, 3, 4, 5)


def outcome(network: nn.Module, x: Tensor) -> Any:
    """The output and the gradients, or what was raised."""
    x = x.clone().requires_grad_()
    try:
        y = network(x * 1)
    except (IndexError, RuntimeError, ValueError) as error:
        return type(error), str(error)
    y.sum().backward()
    return [y, x.grad, *(p.grad for p in network.parameters()), *network.buffers()]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 4, 1, 1, 1), id="one voxel"),
        pytest.param((2, 4, 1, 1, 1), id="two voxels of two volumes"),
        pytest.param((1, 4, 1, 1, 2), id="two voxels"),
        pytest.param((0, 4, 5, 6, 7), id="no volumes"),
        pytest.param((2, 4, 0, 6, 7), id="no voxels"),
        pytest.param((2, 6, 5, 6, 7), id="too many channels"),
        pytest.param((2, 3, 5, 6, 7), id="too few channels"),
        pytest.param((4, 5, 6, 7), id="no batch"),
        pytest.param((2, 4), id="no axes"),
    ],
)
@pytest.mark.filterwarnings("ignore:input's size at dim=1 does not match")
def test_unusual_shapes_are_done_or_refused_as_by_torch(name: str, shape: tuple[int, ...]) -> None:
    plain = layer(name)
    probed = copy.deepcopy(plain)
    probe_model(probed, bits="exact")
    x = torch.randn(shape, dtype=torch.float64)
    expected, result = outcome(plain, x), outcome(probed, x)
    if isinstance(expected, tuple):
        assert result == expected
    elif x.numel() == 0:  # of which torch's own gradients are not always defined
        assert [value.shape for value in result] == [value.shape for value in expected]
    else:
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_number_types_under_autocast_are_torchs(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(VOLUME, dtype=dtype)
    results = []
    for probe in (False, True):
        used = LAYERS[name]()
        if probe:
            probe_model(used)
        with torch.autocast("cpu", torch.bfloat16):
            results.append([value.dtype for value in outcome(used, x)])
    assert results[1] == results[0]


def test_layers_keep_everything_they_had() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 3, dtype=torch.float64), nn.ConvTranspose3d(2, 1, 2))
    first, second = network
    parameters = list(network.parameters())
    called = []
    first.register_forward_hook(lambda *_: called.append("hook"))
    second.eval()
    report = probe_model(network, "multichannel", rank=7)
    assert report.converted == {"0": "multichannel", "1": "multichannel"}
    assert network[0] is first and network[1] is second
    assert type(first) is ProbedConv3d and type(second) is ProbedConvTranspose3d
    assert first.rank == 7
    assert first.training and not second.training
    assert all(a is b for a, b in zip(parameters, network.parameters(), strict=True))
    first(torch.randn(1, 1, 3, 4, 5, dtype=torch.float64))
    assert called == ["hook"]


def test_what_is_left_is_reported_with_the_reason() -> None:
    class Strange(nn.Conv3d):
        pass

    class WithWeights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.child = nn.Identity()

    left = {
        "subclass": Strange(1, 1, 1),
        "parametrized": parametrizations.weight_norm(nn.Conv3d(1, 1, 1)),
        "normed": weight_norm(nn.Conv3d(1, 1, 1)),
        "flat": nn.Conv2d(1, 1, 1),
        "line": nn.ConvTranspose1d(1, 1, 1),
        "linear": nn.Linear(1, 1),
        "lazy": nn.LazyConv3d(1, 1),
        "tracking": nn.InstanceNorm3d(1, track_running_stats=True),
        "synchronised": nn.SyncBatchNorm(1),
        "smooth": nn.GELU(),
        "dropping": nn.Dropout(0.5),
        "own weights": WithWeights(),
    }
    harmless = {"identity": nn.Identity(), "up": nn.Upsample(2), "none": nn.Dropout(0)}
    network = nn.ModuleDict({**left, **harmless, "good": nn.Conv3d(1, 1, 1)})
    classes = {name: type(layer) for name, layer in left.items()}
    report = probe_model(network)
    assert report.converted == {"good": "rotated"}
    assert {name: type(network[name]) for name in left} == classes
    assert set(report.left) == set(left)
    for name, word in (
        ("subclass", "unknown kind"),
        ("parametrized", "computed from other"),
        ("normed", "computed from other"),
        ("flat", "Conv2d is not 3D"),
        ("line", "ConvTranspose1d is not 3D"),
        ("linear", "Linear is not 3D"),
        ("lazy", "forward pass first"),
        ("tracking", "running statistics"),
        ("synchronised", "no probed SyncBatchNorm"),
        ("smooth", "no probed GELU"),
        ("dropping", "no probed Dropout"),
        ("own weights", "no probed WithWeights, which has weights of its own"),
    ):
        assert word in report.left[name]
    table = str(report)
    assert table.startswith("1 layers probed, 12 left as they were\n")
    assert "\ngood          probed  rotated\n" in table


def test_a_layer_under_two_names_stays_one_layer() -> None:
    shared, act = nn.Conv3d(1, 1, 3, padding=1), nn.ReLU()
    network = nn.Sequential(shared, act, shared, act)
    report = probe_model(network)
    assert network[0] is network[2]
    assert report.converted == {"0": "rotated", "1": "rotated"}
    network(torch.randn(1, 1, 3, 4, 5)).sum().backward()
    assert [layer.probe_key.call for layer in network[:2]] == [2, 2]


def test_a_single_layer_and_a_change_of_mind() -> None:
    layer = nn.Conv3d(1, 1, 3)
    assert probe_model(layer).converted == {"": "rotated"}
    assert probe_model(layer, "independent", 5).converted == {"": "independent"}
    assert type(layer) is ProbedConv3d
    assert (layer.sketch, layer.rank) == ("independent", 5)
    assert probe_model(layer, "exact").converted == {"": "exact"}
    x = torch.randn(1, 1, 4, 4, 4)
    before = layer.probe_key
    layer(x).sum().backward()
    assert layer.probe_key == before


def test_a_bad_name_changes_nothing() -> None:
    network = nn.Sequential(nn.Conv3d(1, 1, 1))
    with pytest.raises(UserError, match="no sketch of so many bits"):
        probe_model(network, bits=3)
    with pytest.raises(UserError, match="(?s)given: hadamard.*legal: rotated, onebit, 2bit"):
        probe_model(network, "hadamard")
    assert type(network[0]) is nn.Conv3d


def test_set_probe_step_numbers_the_layers() -> None:
    network = nn.Sequential(nn.Conv3d(1, 1, 1), nn.ReLU(), nn.Sequential(nn.Conv3d(1, 1, 1)))
    probe_model(network)
    set_probe_step(network, seed=2**64 + 5, step=9)
    keys = [layer.probe_key for layer in (network[0], network[1], network[2][0])]
    assert [(key.seed, key.step, key.layer, key.call) for key in keys] == [
        (5, 9, 0, 0),
        (5, 9, 1, 0),
        (5, 9, 2, 0),
    ]


def test_report_says_who_keeps_what() -> None:
    class Squared(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).square()

    network = nn.Sequential(Squared(nn.Conv3d(1, 4, 3, padding=1)), nn.GELU(), nn.Conv3d(4, 2, 1))
    report = probe_model(network)
    report.measure(network, (2, 1, 32, 32, 32))
    assert sum(report.shares.values()) == pytest.approx(1)
    # The square keeps its input, GELU the square, either 4 channels, and the loss 2 channels.
    assert report.shares["0"] == pytest.approx(report.shares["1"])
    assert report.shares["loss"] > report.shares["2"]
    both = report.shares["0"] + report.shares["1"]
    table = str(report)
    assert table.startswith(f"2 layers probed, 2 left as they were with {both:.1%} of the saved")
    assert f"left    {report.shares['0']:.1%}  functions that its forward calls" in table
    assert f"left    {report.shares['1']:.1%}  there is no probed GELU" in table


def block() -> nn.Sequential:
    network = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1),
        nn.InstanceNorm3d(4, affine=True),
        nn.LeakyReLU(0.1),
        nn.Sequential(nn.Conv3d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU()),
    )
    probe_model(network)
    set_probe_step(network, seed=1, step=1)
    return network


def places(network: nn.Sequential, x: Tensor) -> list[int]:
    """Where in memory the outputs of the layers lie, and what becomes of them."""
    found = []

    def watched(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def watch(module: nn.Module, x: Tensor) -> Tensor:
            y = forward(module, x)
            found.append(y.data_ptr())
            return y

        return watch

    with pytest.MonkeyPatch.context() as patch:
        for kind in {type(module) for module in network.modules()}:
            if kind in PROBED.values():
                patch.setattr(kind, "forward", watched(kind.forward))
        network(x).sum().backward()
    return found


def test_a_forward_of_its_own_sees_what_is_never_written_over() -> None:
    network, seen = block(), []
    norm, inner = network[1], network[3]
    for module in (norm, inner):
        forward = module.forward

        def keeping(x: Tensor, forward: Callable[[Tensor], Tensor] = forward) -> Tensor:
            seen.append((x, x.detach().clone()))
            return forward(x)

        module.forward = keeping
    network(torch.randn(1, 1, 8, 8, 8)).sum().backward()
    assert len(seen) == 2
    assert all(torch.equal(x, before) for x, before in seen)


def test_sequential_writes_over_what_only_it_holds() -> None:
    x = torch.randn(1, 1, 8, 8, 8)
    found = places(block(), x)
    assert len(found) == 6
    assert len(set(found[:3])) == len(set(found[3:])) == 1
    for change in (nn.Module.eval, lambda network: probe_model(network, "exact")):
        network = block()
        change(network)
        found = places(network, x)
        assert len(set(found[:3])) == 3


@pytest.mark.parametrize("hook", ["output", "view", "pre", "backward"])
def test_sequential_leaves_alone_what_others_hold(hook: str) -> None:
    x = torch.randn(1, 1, 8, 8, 8)
    network, watched = block(), block()
    watched.load_state_dict(network.state_dict())
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(tensor: Tensor) -> None:
        seen.append((tensor, tensor.detach().clone()))

    convolutions = [module for module in watched.modules() if isinstance(module, nn.Conv3d)]
    norms = [module for module in watched.modules() if isinstance(module, nn.GroupNorm)]
    for module in convolutions if hook in ("output", "view") else norms:
        if hook == "output":
            module.register_forward_hook(lambda module, inputs, y: keep(y))
        elif hook == "view":
            module.register_forward_hook(lambda module, inputs, y: keep(y.detach()[:, 1:]))
        elif hook == "pre":
            module.register_forward_pre_hook(lambda module, inputs: keep(inputs[0]))
        else:
            module.register_full_backward_hook(lambda module, dx, dy: keep(dx[0]))
    if hook == "backward":  # torch refuses in-place work behind such a layer as well
        watched[3][2].set_sketch("exact")
    for each in (network, watched):
        each(x).cos().sum().backward()
    assert seen
    assert all(torch.equal(now, then) for now, then in seen)
    for ours, theirs in zip(watched.parameters(), network.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_sequential_can_be_copied_and_pickled() -> None:
    network = block()
    x = torch.randn(1, 1, 8, 8, 8)
    expected = network(x)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(x), expected)
        assert torch.equal(twin.eval()(x), copy.deepcopy(network).eval()(x))
    assert len(network[:2]) == 2 and list(network.state_dict()) == list(twin.state_dict())


def test_subclasses_of_tensor_are_welcome() -> None:
    x = torch.randn(1, 1, 8, 8, 8)
    for probed in (block(), UNet3d(1, 2, (4, 8))):
        set_probe_step(probed, seed=1, step=1)
        results = []
        for image in (x, MetaTensor(x)):
            y = probed(image)
            y.cos().sum().backward()
            results.append([y, *(parameter.grad for parameter in probed.parameters())])
            set_probe_step(probed, seed=1, step=1)
            probed.zero_grad()
        assert all(map(torch.equal, *results))


def test_hooks_for_gradients_may_watch_norms_that_work_in_place() -> None:
    network = UNet3d(1, 2, (4, 8))
    seen: list[Tensor] = []
    norm = network.encoder[0][0].norm
    norm.register_full_backward_hook(lambda module, dx, dy: seen.extend([*dx, *dy]))
    network(torch.randn(1, 1, 8, 8, 8)).sum().backward()
    assert len(seen) == 2
