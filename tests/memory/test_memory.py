"""Predicted memory against bytes counted by hand, by others, and by the real allocator."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.profiler import ProfilerActivity, profile

from seg3d.benchmarks import memory as benchmark
from seg3d.benchmarks.baselines import (
    Compiled,
    PackedTensor,
    Part,
    PlainUNet3d,
    TwoBit,
    blocks,
    checkpointed,
    stages,
)
from seg3d.benchmarks.tables import write_results
from seg3d.common import device
from seg3d.common.errors import UserError
from seg3d.common.sizes import GIB, readable
from seg3d.losses import DiceCrossEntropy, slabs
from seg3d.memory import (
    TrainingMemory,
    inference_memory,
    measured_training_memory,
    training_memory,
)
from seg3d.memory.step import loss_of
from seg3d.networks import UNet3d
from seg3d.probing import slab_convolutions, work_sizes

SHAPE = (2, 1, 16, 24, 16)


def mean(output: Tensor, target: Tensor) -> Tensor:
    return output.mean()


def tiny() -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.ReLU())


def unet(deep_supervision: bool = False) -> PlainUNet3d:
    torch.manual_seed(0)
    return PlainUNet3d(1, 3, (4, 8, 8), deep_supervision=deep_supervision)


def dice_cross_entropy(network: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    return loss_of(network, image, target, DiceCrossEntropy(), False, torch.float32)


class Branches(nn.Module):
    """Three gradients of one tensor meet, and nothing else takes much memory."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.weight
        return sum(((factor * y).sum((2, 3, 4)) for factor in (2, 3, 4)), y.new_zeros(()))


class Stash(torch.autograd.Function):
    """Keeps a tensor without telling autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.secret = x.exp()
        return x + 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.secret


class Stashing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Stash.apply(x)


def test_a_tiny_network_counted_by_hand() -> None:
    step = training_memory(tiny(), (1, 1, 4, 4, 4), loss=mean)
    weights = 4 * (2 * 27 + 2)
    image, target, features = 4 * 64, 2 * 64, 4 * 2 * 64
    # The convolution needs its input, which is the image, and the ReLU its output.
    assert step.saved_by_layer == {"1": features}
    assert step.saved == features
    # Alive while the ReLU goes backward: its output and both gradients, the loss and its gradient.
    assert step.peak == weights + image + target + 3 * features + 2 * 4
    assert step.peak_at == "aten.threshold_backward.default of 1, backward"
    assert step.parameters == weights
    # Neither target nor anything saved: input and output of the ReLU.
    assert step.inference_peak == weights + image + 2 * features


def test_half_the_bytes_in_bfloat16_and_weights_in_float32_under_autocast() -> None:
    full = training_memory(tiny(), (1, 1, 4, 4, 4), loss=mean)
    half = training_memory(tiny(), (1, 1, 4, 4, 4), torch.bfloat16, loss=mean)
    mixed = training_memory(tiny(), (1, 1, 4, 4, 4), torch.bfloat16, loss=mean, amp=True)
    assert 2 * half.saved == full.saved
    assert 2 * half.parameters == full.parameters == mixed.parameters
    # Besides the ReLU's output the convolution keeps image and weight in bfloat16.
    assert mixed.saved_by_layer == {"1": 2 * 128, "0": 2 * (64 + 54)}


@pytest.mark.filterwarnings("ignore:Module is None")
@pytest.mark.parametrize("make", [unet, lambda: UNet(3, 1, 3, (4, 8, 8), (2, 2), num_res_units=2)])
def test_peak_agrees_with_mem_tracker(make: Callable[[], nn.Module]) -> None:
    with FakeTensorMode():
        network = make()
        image = torch.empty(SHAPE)
        target = torch.empty(SHAPE, dtype=torch.int16)
        tracker = MemTracker()
        tracker.track_external(network, image, target)
        with tracker:
            dice_cross_entropy(network, image, target).backward()
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    assert training_memory(make(), SHAPE).peak == pytest.approx(peak, rel=0.01)


@pytest.mark.parametrize("network", [Branches, lambda: nn.Sequential(tiny()[1], Branches())])
def test_peak_agrees_with_the_allocator(network: Callable[[], nn.Module], tmp_path: Path) -> None:
    shape = (2, 1, 32, 32, 32)
    real, image = network(), torch.randn(shape)
    target = torch.zeros(shape, dtype=torch.int16)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        mean(real(image), target).backward()
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    allocated = peak = sum(4 * tensor.numel() for tensor in real.parameters())
    for event in sorted(changes, key=lambda event: event["ts"]):
        allocated += event["args"]["Bytes"]
        peak = max(peak, allocated)
    predicted = training_memory(network(), shape, loss=mean).peak
    batch = image.untyped_storage().nbytes() + target.untyped_storage().nbytes()
    assert predicted - batch == pytest.approx(peak, rel=0.001)


@pytest.mark.parametrize("classes", [3, 40])
def test_loops_shortened_for_fake_tensors_take_what_whole_loops_take(
    classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Large enough for several slabs and a dozen lots.
    network, shape = UNet3d(1, classes, (64, 8)), (1, 1, 64, 64, 64)
    shortened = training_memory(network, shape)
    # Now fake tensors are not recognised, though the parts keep their size.
    monkeypatch.setattr(device, "FakeTensor", type("Nobody", (), {}))
    for module in (work_sizes, slab_convolutions, slabs):
        monkeypatch.setattr(module, "is_on_cpu", lambda x: False)
    assert training_memory(network, shape) == shortened


def test_saved_is_what_autograd_packs() -> None:
    network, image = unet(), torch.randn(SHAPE)
    target = torch.zeros(SHAPE, dtype=torch.int16)
    known = {tensor.data_ptr() for tensor in (*network.parameters(), image, target)}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        return kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        dice_cross_entropy(network, image, target)
    packed = sum(
        tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in known
    )
    # Autograd holds a few numbers more, such as the loss of every head.
    assert training_memory(network, SHAPE).saved == pytest.approx(packed, abs=64)


def test_what_hides_from_autograd_is_counted() -> None:
    network = nn.Sequential(nn.Conv3d(1, 1, 1), Stashing())
    step = training_memory(network, (1, 1, 4, 4, 4), loss=mean)
    assert step.saved_by_layer == {"1": 4 * 64}


def test_the_same_bytes_every_time_on_every_device_of_the_network() -> None:
    first = training_memory(unet(), SHAPE)
    with torch.device("meta"):
        assert training_memory(unet(), SHAPE) == first
    # As when training follows upon a prediction, and under no_grad.
    with torch.no_grad():
        assert training_memory(unet().eval(), SHAPE) == first


@pytest.mark.parametrize("sketch", ["exact", benchmark.DEFAULT_SKETCH])
def test_the_network_comes_back_untouched(sketch: str) -> None:
    network = nn.Sequential(UNet3d(1, 3, (4, 8), probing=sketch), nn.BatchNorm3d(3)).eval()
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    training_memory(network, SHAPE)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network)
    for name, tensor in network.state_dict().items():
        assert type(tensor) is Tensor
        assert torch.equal(tensor, before[name])
    # And it still trains.
    network.train()(torch.randn(SHAPE)).square().mean().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(type(gradient) is Tensor and gradient.isfinite().all() for gradient in gradients)


def test_inference_takes_less_than_training() -> None:
    step = training_memory(unet(), SHAPE)
    assert inference_memory(unet(), SHAPE) == step.inference_peak < step.peak / 2


@pytest.mark.parametrize("shape", [(2, 1), (2, 1, 16, 0, 16)])
def test_shapes_that_are_none(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="not the shape of a batch"):
        training_memory(tiny(), shape)


def test_table() -> None:
    step = TrainingMemory({"decoder": 3 * GIB, "loss": GIB}, 5 * GIB, "cat of up", 100, 2**20)
    assert str(step).splitlines() == [
        "training, peak      5.00 GiB in cat of up",
        "inference, peak     1.00 MiB",
        "parameters          100.00 B",
        "saved               4.00 GiB",
        "decoder             3.00 GiB   75.0%",
        "loss                1.00 GiB   25.0%",
    ]
    assert readable(1536) == "1.50 KiB"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sketch", ["exact", benchmark.DEFAULT_SKETCH])
def test_prediction_and_measurement_agree(sketch: str) -> None:
    shape = (2, 1, 128, 128, 128)
    network = UNet3d(1, 4, (32, 64, 128), probing=sketch)
    measured = measured_training_memory(network, shape, torch.bfloat16, amp=True)
    predicted = training_memory(network, shape, torch.bfloat16, amp=True)
    assert measured.allocated == pytest.approx(predicted.peak, rel=0.1)
    assert measured.reserved >= measured.allocated


# The baselines.


@pytest.mark.parametrize("parts", [blocks, stages])
def test_checkpointing_saves_memory_and_changes_no_gradient(
    parts: Callable[[nn.Module], list[Part]],
) -> None:
    image, target = torch.randn(SHAPE), torch.randint(0, 3, SHAPE, dtype=torch.int16)
    plain, lean = unet(), checkpointed(unet(), parts)
    for network in (plain, lean):
        dice_cross_entropy(network, image, target).backward()
    for expected, found in zip(plain.parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)
    assert training_memory(lean, SHAPE).saved < 0.75 * training_memory(plain, SHAPE).saved


def test_plain_unet_computes_what_unet3d_computes() -> None:
    plain, network = unet(deep_supervision=True), UNet3d(1, 3, (4, 8, 8), "exact", True)
    network.load_state_dict(plain.state_dict())
    image = torch.randn(SHAPE)
    for expected, found in zip(network(image), plain(image), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_tensor_is_right_in_the_mean(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    exact = torch.randn(3, 5, 7, 9, 11).to(dtype)
    draws = torch.stack([PackedTensor(exact).restore().double() for _ in range(400)])
    # In a group of 256 normal values the levels are about 2 apart: a draw is off by 1 at most
    # in the root of the mean square. bfloat16 is rounded once more, by up to 2^-8 of the value.
    tolerance = 5 * 1.0 / math.sqrt(400) + (0 if dtype == torch.float32 else 4 * 2**-8)
    assert (draws.mean(0) - exact).abs().max() < tolerance
    assert draws[0].unique().numel() <= 4 * math.ceil(exact.numel() / 256)
    packed = PackedTensor(exact)
    bits = sum(8 * part.nbytes for part in (packed.codes, packed.low, packed.scale))
    assert bits / exact.numel() == pytest.approx(2.25, rel=0.03)


def test_two_bits_change_no_output_and_keep_the_signs() -> None:
    network, image = unet(), torch.randn(SHAPE)
    torch.testing.assert_close(TwoBit(network)(image), network(image))
    x = torch.randn(SHAPE, requires_grad=True)
    TwoBit(nn.Sequential(Doubled(), nn.LeakyReLU(0.1, inplace=True)))(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.where(x > 0, 2.0, 0.2))


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_two_bits_save_much() -> None:
    shape = (1, 1, 32, 32, 32)
    plain, packed = training_memory(unet(), shape), training_memory(TwoBit(unet()), shape)
    kept = packed.saved - packed.saved_by_layer["loss"]
    # 2.25 bits instead of 32 at convolution and norm, 1 at the activation instead of nothing.
    assert kept < 0.1 * (plain.saved - plain.saved_by_layer["loss"])


def test_compiling_with_a_budget_saves_less() -> None:
    plain = training_memory(unet(), SHAPE).saved
    half, fifth = (training_memory(Compiled(unet(), budget), SHAPE).saved for budget in (0.5, 0.2))
    assert fifth < half < plain


# The benchmark.


@settings(deadline=None)
@given(
    slope=st.floats(1, 1e4),
    constant=st.floats(0, 1e9),
    budget=st.floats(1e8, 1e12),
    batch=st.integers(1, 4),
)
def test_largest_cube(slope: float, constant: float, budget: float, batch: int) -> None:
    def peak(size: int) -> float:
        return constant + slope * batch * size**3

    def judge(setting: benchmark.Setting) -> benchmark.Outcome:
        assert setting.size <= 128
        return benchmark.Outcome(int(peak(setting.size)))

    setting = benchmark.Setting("UNet3d", "plain", 128, batch, "float32")
    found = benchmark.largest_cube(judge, setting, budget, (96, 128))
    # Up to the rounding of the line's two points to bytes.
    if found:
        assert peak(found) <= budget * 1.001
    assert peak(max(found, 32) + 32) >= budget * 0.999


def test_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ["plain", "checkpoint-stages", "offload", "CheckpointUNet", "inference"]
    results = benchmark.compare(benchmark.predict, ["UNet3d"], methods, [64], [1], ["float32"])
    shown = capsys.readouterr().out
    assert "needs a GPU" in shown and "CheckpointUNet" not in shown
    plain, stage, offload, inference = results["steps"]
    assert plain["peak_times_less_than_plain"] == 1
    assert stage["peak"] < plain["peak"] and stage["saved_times_less_than_plain"] > 2
    assert offload["peak"] is None
    assert inference["peak"] < stage["peak"]
    assert (
        inference["peak"] == training_memory(PlainUNet3d(1, 4), (1, 1, 64, 64, 64)).inference_peak
    )
    cubes = [cube["largest_cube"] for cube in results["cubes"]]
    assert cubes[0]["8"] < cubes[1]["8"] < cubes[2]["8"] < cubes[2]["80"]
    write_results(tmp_path / "memory.json", results)
    written = json.loads((tmp_path / "memory.json").read_text())
    assert written["steps"] == results["steps"]
    assert {"date", "hardware", "torch", "command"} <= written.keys()
