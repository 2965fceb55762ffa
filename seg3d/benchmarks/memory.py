"""Memory of a training step of nnU-Net's default network: plainly, by the baselines, by seg3d."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import chain, product
from multiprocessing import get_context
from typing import Any

import torch
from monai.networks.nets import BasicUNet, SegResNet
from monai.networks.nets.unet import CheckpointUNet
from torch import nn

from seg3d.benchmarks.baselines import BASELINES, CHANNELS, PlainUNet3d, dynunet, monai_unet
from seg3d.benchmarks.tables import print_table
from seg3d.common.sizes import GIB
from seg3d.memory import inference_memory, measured_training_memory, training_memory
from seg3d.networks import UNet3d
from seg3d.probing import SKETCHES, probe_model

# Besides UNet3d: for those of MONAI only that which works for any network.
DYNUNETS: dict[str, Callable[[], nn.Module]] = {
    "DynUNet": dynunet,
    "DynUNet-supervised": lambda: dynunet(deep_supervision=True),
}
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "MONAI-UNet": monai_unet,
    "BasicUNet": lambda: BasicUNet(3, 1, 4),
    "SegResNet": lambda: SegResNet(3, 8, 1, 4),
}
NETWORKS = ("UNet3d", *DYNUNETS, *OTHERS)
DEFAULT_SKETCH: str = inspect.signature(UNet3d).parameters["probing"].default
SEG3D = {f"seg3d-{sketch}": sketch for sketch in SKETCHES}
CHECKPOINT_UNET = "CheckpointUNet"
STREAMED = "seg3d-streamed"
METHODS = (*BASELINES, "inference", CHECKPOINT_UNET, *SEG3D, STREAMED, "seg3d-inference")
DEFAULT_METHODS = (
    *BASELINES,
    "inference",
    CHECKPOINT_UNET,
    "seg3d-independent",
    "seg3d-multichannel",
    "seg3d-orthogonal",
    f"seg3d-{DEFAULT_SKETCH}",
    "seg3d-inference",
)
# These are followed as the cube grows; the others are compared at one size.
FOLLOWED = (
    "plain",
    "inference",
    "checkpoint-blocks",
    "checkpoint-stages",
    CHECKPOINT_UNET,
    f"seg3d-{DEFAULT_SKETCH}",
    "seg3d-inference",
)
SIZES = (128, 96, 160, 192, 256)
PRECISIONS = ("float32", "bfloat16")
BUDGETS = (8, 16, 24, 40, 80)
# Cubes are a multiple of this, as is the total stride of the network.
STEP = 32


@dataclass(frozen=True)
class Setting:
    """One training step.

    Attributes:
        network: one of `NETWORKS`.
        method: one of `METHODS`.
        size: voxels along the edge of the cube.
        batch: number of cubes.
        precision: one of `PRECISIONS`; bfloat16 is by autocast.
    """

    network: str
    method: str
    size: int
    batch: int
    precision: str

    def applies(self) -> bool:
        """Whether there is such a network with such a method."""
        if self.method == CHECKPOINT_UNET:
            return self.network == "MONAI-UNet"
        if self.method == STREAMED:
            return self.network == "UNet3d"
        return self.network not in OTHERS or self.method in ("plain", "inference", *SEG3D)

    def build(self) -> nn.Module:
        """The network, on ``meta``, that trains by the method."""
        with torch.device("meta"):
            if self.method == CHECKPOINT_UNET:
                return monai_unet(CheckpointUNet)
            foreign = (DYNUNETS | OTHERS).get(self.network)
            network = PlainUNet3d(1, 4, CHANNELS) if foreign is None else foreign()
            if self.method == "inference":
                return network
            if self.method in BASELINES:
                return BASELINES[self.method](network)
            sketch = SEG3D.get(self.method, DEFAULT_SKETCH)
            if foreign is None:
                streamed = self.method == STREAMED
                return UNet3d(1, 4, CHANNELS, probing=sketch, streamed=streamed)
            probe_model(network, sketch=sketch)
            return network

    def arguments(self) -> dict[str, Any]:
        """What `training_memory` asks for besides the network."""
        return {
            "input_shape": (self.batch, 1, *[self.size] * 3),
            "dtype": getattr(torch, self.precision),
            "amp": self.precision != "float32",
        }


@dataclass(frozen=True)
class Outcome:
    """What a step takes, in bytes; None where it cannot be had, for the reason in `note`."""

    peak: int | None
    saved: int | None = None
    note: str = ""


@cache
def predict(setting: Setting) -> Outcome:
    """By fake tensors, without a GPU."""
    if setting.method == "offload":
        return Outcome(None, note="needs a GPU")
    if setting.method.endswith("inference"):
        return Outcome(inference_memory(setting.build(), **setting.arguments()), 0)
    step = training_memory(setting.build(), **setting.arguments())
    return Outcome(step.peak, step.saved, step.peak_at)


@cache
def measure(setting: Setting) -> Outcome:
    """On the GPU, in a fresh process."""
    if setting.method.endswith("inference"):
        return Outcome(None, note="is predicted only")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_measure_here, setting).result()


def _measure_here(setting: Setting) -> Outcome:
    try:
        memory = measured_training_memory(setting.build(), **setting.arguments())
    except torch.OutOfMemoryError:
        return Outcome(None, note="out of memory")
    return Outcome(memory.allocated, note=f"{memory.reserved} bytes reserved")


Judge = Callable[[Setting], Outcome]


def compare(
    judge: Judge,
    networks: Sequence[str] = NETWORKS,
    methods: Sequence[str] = DEFAULT_METHODS,
    sizes: Sequence[int] = SIZES,
    batches: Sequence[int] = (1, 2),
    precisions: Sequence[str] = PRECISIONS,
) -> dict[str, Any]:
    """Compare all methods, print tables, and return what is worth recording.

    Args:
        judge: `predict` or `measure`.
        networks: of `NETWORKS`.
        methods: of `METHODS`.
        sizes: edges of the cubes in voxels, multiples of `STEP`: the first for all methods, the
            others for those `FOLLOWED`.
        batches: numbers of cubes.
        precisions: of `PRECISIONS`.
    """
    steps: list[dict[str, Any]] = []
    cubes: list[dict[str, Any]] = []
    for network, precision, batch in product(networks, precisions, batches):
        every = [Setting(network, method, sizes[0], batch, precision) for method in methods]
        settings = [setting for setting in every if setting.applies()]
        title = f"{network}, {precision}, batch of {batch}"
        followed = [setting for setting in settings if setting.method in FOLLOWED]
        peaks = [
            [
                _record(judge, replace(setting, size=size))
                for size in (sizes if setting in followed else sizes[:1])
            ]
            for setting in settings
        ]
        growth = [_growth(judge, setting, sizes) for setting in followed]
        _print_peaks(title, peaks, sizes)
        _print_growth(title, growth)
        steps += chain(*peaks)
        cubes += growth
    return {"steps": steps, "cubes": cubes, "default_sketch": DEFAULT_SKETCH}


def _record(judge: Judge, setting: Setting) -> dict[str, Any]:
    outcome, plain = judge(setting), judge(replace(setting, method="plain"))
    return {
        **asdict(setting),
        **asdict(outcome),
        "peak_times_less_than_plain": _ratio(plain.peak, outcome.peak),
        "saved_times_less_than_plain": _ratio(plain.saved, outcome.saved),
    }


def _ratio(above: int | None, below: int | None) -> float | None:
    return above / below if above and below else None


def _growth(judge: Judge, setting: Setting, sizes: Sequence[int]) -> dict[str, Any]:
    """How the peak grows with the number of voxels, and which cubes fit under the budgets."""
    line = _line(judge, setting, sizes)
    return {
        **{key: value for key, value in asdict(setting).items() if key != "size"},
        "bytes_per_voxel": line[1] if line else None,
        "largest_cube": {
            str(gib): largest_cube(judge, setting, gib * GIB, sizes) if line else None
            for gib in BUDGETS
        },
    }


def largest_cube(judge: Judge, setting: Setting, budget: float, sizes: Sequence[int]) -> int:
    """The edge of the largest cube, in steps of `STEP`, whose peak is within the budget; 0 if none.

    Found by bisection. Peaks beyond the largest of ``sizes`` are on the line through the two
    largest, peaks being a constant plus so and so many bytes a voxel.
    """

    def fits(size: int) -> bool:
        if size > max(sizes):
            constant, slope = _line(judge, setting, sizes) or (0.0, 0.0)
            return constant + slope * setting.batch * size**3 <= budget
        peak = judge(replace(setting, size=size)).peak
        return peak is not None and peak <= budget

    # A single step is too small for the network: at its deepest level one voxel would be left.
    good, bad = 1, 2
    while fits(bad * STEP):
        good, bad = bad, 2 * bad
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle * STEP) else (good, middle)
    return good * STEP if good > 1 else 0


def _line(judge: Judge, setting: Setting, sizes: Sequence[int]) -> tuple[float, float] | None:
    """Constant and bytes per voxel of the two largest cubes; one size: no constant."""
    points = []
    for size in sorted(sizes)[-2:]:
        peak = judge(replace(setting, size=size)).peak
        if peak is None:
            return None
        points.append((setting.batch * size**3, peak))
    (x0, y0), (x1, y1) = points if len(points) == 2 else [(0, 0), *points]
    slope = (y1 - y0) / (x1 - x0)
    return y1 - slope * x1, slope


def _print_peaks(title: str, methods: list[list[dict[str, Any]]], sizes: Sequence[int]) -> None:
    rows = []
    for records in methods:
        first = records[0]
        saved = _cell(first["saved"], first["saved_times_less_than_plain"], first)
        cells = [_cell(one["peak"], one["peak_times_less_than_plain"], one) for one in records]
        rows.append([first["method"], saved, *cells, *[""] * (len(sizes) - len(cells))])
    header = ["", f"saved at {sizes[0]}³", *(f"{size}³" for size in sizes)]
    print_table(f"{title}: peak in GiB (times less than plain)", header, rows)


def _cell(size: int | None, ratio: float | None, record: dict[str, Any]) -> str:
    if size is None:
        return "-" if record["peak"] is not None else record["note"]
    return f"{size / GIB:.2f}" + (f" ({ratio:.2f})" if ratio else "")


def _print_growth(title: str, records: list[dict[str, Any]]) -> None:
    rows = [
        [
            one["method"],
            f"{one['bytes_per_voxel']:.0f}",
            *(f"{edge}³" if edge else "-" for edge in one["largest_cube"].values()),
        ]
        for one in records
        if one["bytes_per_voxel"] is not None
    ]
    budgets = [f"{gib} GiB" for gib in BUDGETS]
    print_table(f"{title}: growth and largest cube", ["", "bytes per voxel", *budgets], rows)
