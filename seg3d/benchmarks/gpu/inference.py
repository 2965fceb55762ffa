"""Prediction on a GPU: a cube as a whole, and a scan in windows, beside MONAI's inferer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from seg3d.benchmarks.gpu.scale import Scale
from seg3d.benchmarks.gpu.ways import DTYPE, OURS, PLAIN, way
from seg3d.benchmarks.gpu.work import first_line, forget, in_a_cell, measure_peak, peaks, wait
from seg3d.benchmarks.tables import print_table
from seg3d.common.sizes import GIB
from seg3d.memory import inference_memory
from seg3d.prediction.decisions import best_classes
from seg3d.prediction.windows import score_slabs

Made = TypeVar("Made")
OVERLAP = 0.5
WINDOWS_AT_A_TIME = 1


def whole_cube(device: torch.device, scale: Scale) -> dict[str, Any]:
    """Time and peak of a forward pass, the latter beside the prediction."""
    edge = scale.inference
    shape = (1, 1, edge, edge, edge)
    image = torch.randn(shape, device=device)
    found: dict[str, Any] = {}
    for name in (PLAIN, OURS):
        network = way(name, scale.first.net, []).make().to(device).eval()

        def forward(network: nn.Module = network) -> None:
            with torch.no_grad(), torch.autocast(device.type, DTYPE):
                network(image)

        row, _ = _measured(device, forward, 4)
        row["predicted_gib"] = (
            inference_memory(network, shape, DTYPE, amp=True, workspaces=True) / GIB
        )
        found[name] = row
    _show(f"inference of {edge}³, bf16 autocast", found)
    return found


def windows(device: torch.device, scale: Scale) -> dict[str, Any]:
    """Labels of a scan that lies in RAM, by ours and by MONAI's, its scores here or there."""
    edge, side = scale.scan
    window = (side, side, side)
    network = way(PLAIN, scale.first.net, []).make().to(device).eval()
    lean = way(OURS, scale.first.net, []).make().to(device).eval()
    lean.load_state_dict(network.state_dict())
    scan = torch.randn(1, edge, edge, edge, generator=torch.Generator().manual_seed(0))

    def seg3d(where: torch.device) -> Tensor:
        image = scan.to(where)
        slabs = score_slabs(lean, image, window, overlap=OVERLAP, device=device, dtype=DTYPE)
        return torch.cat([best_classes(slab.softmax(0)).cpu() for slab in slabs])

    def monai(where: torch.device) -> Tensor:
        with torch.inference_mode(), torch.autocast(device.type, DTYPE):
            scores = sliding_window_inference(
                scan[None], window, WINDOWS_AT_A_TIME, network, OVERLAP, "gaussian",
                sw_device=device, device=where,
            )  # fmt: skip
        assert isinstance(scores, Tensor)
        return best_classes(scores[0].softmax(0)).cpu()

    ram = torch.device("cpu")
    ways: dict[str, Callable[[], Tensor]] = {
        "seg3d, scores in RAM": lambda: seg3d(ram),
        "seg3d, scores on the GPU": lambda: seg3d(device),
        "MONAI, scores in RAM": lambda: monai(ram),
        "MONAI, scores on the GPU": lambda: monai(device),
    }
    found: dict[str, Any] = {}
    first: Tensor | None = None
    for name, run in ways.items():
        try:
            found[name], labels = _measured(device, run, 1)
            first = labels if first is None else first
            found[name]["voxels_that_differ"] = int((labels != first).sum())
        except torch.OutOfMemoryError as error:
            found[name] = {"failed": first_line(error)}
    _show(f"labels of {edge}³ by windows of {side}³ that overlap by half", found)
    return found


def _measured(
    device: torch.device, run: Callable[[], Made], rounds: int
) -> tuple[dict[str, Any], Made]:
    """Median time, without the first if there are several, and peaks; and what was made last."""
    forget(device)
    warm = min(1, rounds - 1)
    times = []
    for number in range(rounds):
        if number == warm:
            measure_peak(device)
        wait(device)
        start = time.perf_counter()
        made = run()
        wait(device)
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times[warm:]), **peaks(device)}, made


def _show(title: str, found: dict[str, dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in found.values() for key in row))
    rows = [[name, *(in_a_cell(row.get(key)) for key in columns)] for name, row in found.items()]
    print_table(title, ["", *columns], rows)
