"""Scores that are made row by row, and how large windows may be."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from seg3d.common.sizes import GIB
from seg3d.config import PredictConfig
from seg3d.data.case_reader import CaseReader
from seg3d.geometry import Shape3
from seg3d.losses import Unscored
from seg3d.networks import UNet3d
from seg3d.plan import build_network
from seg3d.prediction import scores as scores_module
from seg3d.prediction.inputs import images_of
from seg3d.prediction.predictor import Predictor
from seg3d.prediction.scores import WindowScores, by_rows, reordered
from seg3d.prediction.tiling import Tiling
from seg3d.prediction.window_sizes import window_sizes
from seg3d.prediction.windows import Windows, stream_scores
from tests.plans import small_config, small_plan


class Largest(TorchDispatchMode):
    """The most bytes of a storage that an operator makes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        if isinstance(result, torch.Tensor):
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result


def network_of(classes: int) -> UNet3d:
    torch.manual_seed(0)
    return UNet3d(1, classes, (16, 16)).eval()


@pytest.mark.parametrize("classes", [2, 40])
@pytest.mark.parametrize("shape", [(16, 16, 16), (40, 16, 24)])
def test_scores_are_those_of_the_network(
    classes: int, shape: Shape3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made in rows of axes in another order, blended or not, in one window or in several."""
    monkeypatch.setattr(scores_module, "SCORES_AT_ONCE", 5000)
    network, image = network_of(classes), torch.randn(1, *shape)
    order = (0, 1, 4, 2, 3)

    def score(windows: torch.Tensor) -> Any:
        turned = windows.permute(order).contiguous()
        found = WindowScores(network)(turned)
        assert isinstance(found, Unscored) == (classes == 40)
        return reordered(found, lambda one: one.permute(0, 1, 3, 4, 2))

    def made_at_once(windows: torch.Tensor) -> torch.Tensor:
        return network(windows.permute(order).contiguous()).permute(0, 1, 3, 4, 2)

    def streamed(function: Any, windows: Windows) -> torch.Tensor:
        slabs = stream_scores(
            function, lambda part: image[:, *part], windows, device=torch.device("cpu")
        )
        return torch.cat([slab for _, slab in slabs], 1)

    for size in ((16, 16, 16), shape):
        windows = Windows.covering(shape, size, 0.5)
        found = streamed(score, windows)
        torch.testing.assert_close(found, streamed(made_at_once, windows), rtol=1e-5, atol=1e-5)
        with torch.inference_mode():
            whole = network(image[None].permute(order).contiguous()).permute(0, 1, 3, 4, 2)[0]
        if windows.count == 1:
            torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
        assert found.shape == (classes, *shape)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 9), at_once=st.integers(1, 500), left=st.booleans())
def test_rows_are_all_rows(rows: int, at_once: int, left: bool) -> None:
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores_module, "SCORES_AT_ONCE", at_once)
        features, head = torch.randn(2, 3, rows, 4, 5), nn.Conv3d(3, 6, 1)
        scores = Unscored(features, head.weight, head.bias) if left else head(features)
        parts = dict((part.start, one) for part, one in by_rows(scores))
        assert all(one.numel() <= max(at_once, 2 * 6 * 20) for one in parts.values())
        found = torch.cat([parts[start] for start in sorted(parts)], 2)
    torch.testing.assert_close(found, head(features))


def test_no_tensor_has_the_scores_of_a_whole_window() -> None:
    """120 classes would be 15 times the features."""
    windows = Windows.covering((64,) * 3, (64,) * 3, 0.5)
    with FakeTensorMode(allow_non_fake_inputs=True), Largest() as largest:
        image = torch.empty(1, 64, 64, 64)
        fake = UNet3d(1, 120, (8, 16)).eval()
        for _ in stream_scores(
            WindowScores(fake), lambda part: image[:, *part], windows, device=torch.device("cpu")
        ):
            pass
    assert largest.bytes < 120 * 64**3 * 4 / 10


PATCH = (64, 64, 32)


def sizes(windows: str, shape: Shape3, **plan: Any) -> list[Shape3]:
    settings = PredictConfig.model_validate({"windows": windows})
    return window_sizes(settings, small_plan(patch_size=PATCH, **plan), shape, (16, 16, 8))


def test_windows_of_the_patch() -> None:
    assert sizes("patch", (500, 500, 30)) == [PATCH]
    assert sizes("auto", (500, 500, 30)) == [PATCH]
    assert window_sizes(
        PredictConfig(windows="whole"), small_plan(patch_size=PATCH), (70,) * 3, None
    ) == [PATCH]


def test_windows_from_the_whole_volume_to_the_patch() -> None:
    found = sizes("whole", (301, 200, 30))
    assert found[0] == (304, 208, 32) and found[-1] == PATCH
    volumes = [one[0] * one[1] * one[2] for one in found]
    assert volumes == sorted(volumes, reverse=True)
    assert all(side % by == 0 for one in found for side, by in zip(one, (16, 16, 8), strict=True))
    assert all(side >= least for one in found for side, least in zip(one, PATCH, strict=True))


def test_auto_sees_volumes_as_training_saw_them() -> None:
    assert sizes("auto", (66, 50, 33)) == [PATCH]
    found = sizes("auto", (66, 50, 33), whole=True, strides=[(1, 1, 1), (16, 16, 8)])
    assert found[0] == (80, 64, 40) and found[-1] == (32, 32, 16)
    # Padded to two voxels at the coarsest level.
    assert sizes("auto", (7, 20, 5), whole=True, strides=[(1, 1, 1), (16, 16, 8)]) == [(32, 32, 16)]


def test_a_window_that_does_not_fit_is_done_in_slabs_before_smaller_ones_are() -> None:
    plan = small_plan(patch_size=(32, 32, 32), features=[32, 8])
    config = small_config(predict={"windows": "whole"})
    torch.manual_seed(0)
    network = build_network(config, plan)
    voxels = np.random.default_rng(0).standard_normal((64, 64, 64), np.float32)

    def predictor(memory: float) -> Predictor:
        return Predictor(network, config, plan, torch.device("cpu"), memory)

    def tiling(memory: float) -> Tiling:
        with CaseReader(images_of(voxels, None, None), plan, read_ahead=True) as case:
            return predictor(memory).streaming.tiling(case, labels=1, files=0, result=64**3)

    def fits_at_once(memory: float) -> bool:
        found = tiling(memory)
        return found.window == (64, 64, 64) and not found.network_streamed

    memories = np.arange(0.64, 0.96, 0.02) * GIB
    least = bisect_left(memories, True, key=fits_at_once)
    memory = memories[least - 1]
    found = tiling(memory)
    assert found.window == (64, 64, 64) and found.network_streamed
    in_slabs, at_once = predictor(memory).segment(voxels), predictor(2 * GIB).segment(voxels)
    assert len(np.unique(at_once)) == 3
    assert (in_slabs == at_once).mean() > 0.9999
