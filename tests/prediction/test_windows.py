"""Windows cover the volume, blend without a seam, and are as many as announced."""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map
from torch import Tensor, nn

from seg3d.io.regions import Region
from seg3d.prediction.decisions import best_classes
from seg3d.prediction.scores import WindowScores
from seg3d.prediction.windows import (
    Windows,
    importance_map,
    score_slabs,
    stream_scores,
)
from tests.reference import scores_of

CPU = torch.device("cpu")
Length = st.integers(1, 26)
Window = st.integers(4, 16)


class Applied(nn.Module):
    """A network that applies a function, and remembers the windows it was given."""

    def __init__(self, function: Callable[[Tensor], Tensor | list[Tensor]]) -> None:
        super().__init__()
        self.function = function
        self.shapes: list[torch.Size] = []

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        self.shapes.append(x.shape)
        return self.function(x)


def score_volume(*arguments: Any, **settings: Any) -> Tensor:
    return torch.cat(list(score_slabs(*arguments, **settings, device=CPU)), dim=1)


def network_of(channels: int, classes: int) -> nn.Module:
    """A network that sees beyond a voxel, and so the edges of its window."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv3d(channels, classes, 3, padding=1).requires_grad_(False)


def two_of(length: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, length), min_size=2, max_size=2, unique=True)


def noise(channels: int, *shape: int) -> Tensor:
    return torch.randn(channels, *shape, generator=torch.Generator().manual_seed(0))


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(Length, Length, Length),
    window=st.tuples(Window, Window, Window),
    overlap=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7]),
    window_batch=st.integers(1, 5),
)
def test_an_identity_gives_back_its_input(
    shape: tuple[int, int, int], window: tuple[int, int, int], overlap: float, window_batch: int
) -> None:
    """Whatever divides what, every voxel is covered, by as many windows as announced."""
    image, network, told = noise(2, *shape), Applied(lambda x: x), []
    scores = score_volume(
        network, image, window, overlap=overlap, window_batch=window_batch,
        advance=told.append,
    )  # fmt: skip
    assert scores.shape == image.shape and scores.dtype == torch.float32
    torch.testing.assert_close(scores, image, rtol=1e-5, atol=1e-5)
    assert {tuple(one[1:]) for one in network.shapes} == {(2, *window)}
    assert max(one[0] for one in network.shapes) <= window_batch
    count = Windows.covering(shape, window, overlap).count
    assert sum(told) == sum(one[0] for one in network.shapes) == count


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(Length, Length, Length),
    window=st.tuples(Window, Window, Window),
    overlap=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7]),
    mirror=st.booleans(),
)
def test_scores_are_those_of_monai(
    shape: tuple[int, int, int], window: tuple[int, int, int], overlap: float, mirror: bool
) -> None:
    network, image = network_of(1, 3), noise(1, *shape)
    axes = (0, 2) if mirror else ()
    expected = scores_of(network, image, window, overlap, axes)
    scores = score_volume(network, image, window, overlap=overlap, mirror_axes=axes)
    torch.testing.assert_close(scores.softmax(0), expected.softmax(0), rtol=0, atol=1e-5)
    clear = expected.topk(2, dim=0).values.diff(dim=0).abs()[0] > 1e-5
    assert torch.equal(best_classes(scores)[clear], expected.argmax(0).byte()[clear])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_region_has_the_scores_of_the_whole(data: st.DataObject) -> None:
    """To the last bit wherever it begins and ends along the first axis; whatever is in front."""
    shape, window = (data.draw(st.tuples(side, side, side)) for side in (Length, Window))
    windows = Windows.covering(shape, window, data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.7])))
    windows = windows.mirrored(data.draw(st.sets(st.integers(0, 2))))
    region = tuple(slice(*sorted(data.draw(two_of(length)))) for length in shape)
    batch = data.draw(st.integers(1, 4))
    network, image = network_of(1, 2), noise(1, *shape)
    read: list[slice] = []

    def reader(part: Region) -> Tensor:
        read.append(part[0])
        return image[:, *part]

    def stream(region: Region) -> Tensor:
        slabs = list(
            stream_scores(
                WindowScores(network), reader, windows, region, window_batch=batch, device=CPU
            )
        )
        assert [start for start, _ in slabs] == sorted(start for start, _ in slabs)
        return torch.cat([slab for _, slab in slabs], dim=1)

    everything = slice(0, shape[1]), slice(0, shape[2])
    whole = stream((slice(0, shape[0]), *everything))
    assert torch.equal(stream((region[0], *everything)), whole[:, region[0]])
    read.clear()
    torch.testing.assert_close(stream(region), whole[:, *region], rtol=1e-4, atol=1e-5)
    # Every slice is read once, one behind the other, and none that no window sees.
    assert all(one.stop == other.start for one, other in itertools.pairwise(read))
    extent = windows.touching(region).extent[0]
    assert (read[0].start, read[-1].stop) == (extent.start, extent.stop)


def test_no_more_is_held_than_a_window_is_thick() -> None:
    """Of a long volume, slices are read when they are needed and given away when they are done."""
    image, read, given = noise(1, 200, 8, 8), [0], [0]

    def reader(part: Region) -> Tensor:
        read.append(part[0].stop)
        assert part[0].stop - given[-1] <= 16
        return image[:, *part]

    windows = Windows.covering((200, 8, 8), (16, 8, 8), 0.5)
    for start, slab in stream_scores(lambda x: x, reader, windows, device=CPU):
        given.append(start + slab.shape[1])
        assert read[-1] - given[-1] <= 16
    assert given[-1] == read[-1] == 200 and len(given) == 26


def test_nothing_lingers_that_has_been_used() -> None:
    """While the network works there are no windows, scores and slabs that are done with."""
    used: list[weakref.ref[Tensor]] = []

    def score(windows: Tensor) -> Tensor:
        assert not any(one() is not None for one in used)
        scores = windows + 1
        used.extend(map(weakref.ref, (windows, scores)))
        return scores

    image, windows = noise(1, 40, 16, 16), Windows.covering((40, 16, 16), (8, 8, 8), 0.5)
    slabs = stream_scores(score, lambda part: image[:, *part], windows, device=CPU)
    for finished in map(lambda one: weakref.ref(one[1]), slabs):
        used.append(finished)
    assert len(used) > 2 * windows.count


@pytest.mark.parametrize("size", [(16, 16, 16), (1, 12, 30), (5, 2, 7)])
def test_weights_are_those_of_monai(size: tuple[int, int, int]) -> None:
    expected = compute_importance_map(size, mode="gaussian", sigma_scale=0.125)
    torch.testing.assert_close(importance_map(size), expected, rtol=1e-6, atol=0)


def test_the_first_of_equal_classes_is_taken() -> None:
    scores = torch.tensor([[1.0, 0.0, 2.0, -5.0], [1.0, 3.0, 2.0, -4.0], [0.0, 3.0, 2.0, -6.0]])
    assert best_classes(scores).tolist() == [0, 1, 0, 1] == scores.argmax(0).tolist()


def test_a_small_volume_is_padded_with_zeros_and_cut_out_again() -> None:
    seen: list[Tensor] = []
    network = Applied(lambda x: seen.append(x.clone()) or x)  # type: ignore[func-returns-value]
    image = noise(1, 3, 20, 5)
    scores = score_volume(network, image, (8, 8, 8), overlap=0.5)
    torch.testing.assert_close(scores, image)
    for window in seen:
        assert window.count_nonzero() == 3 * 8 * 5


def test_channels_may_change_in_number() -> None:
    network = Applied(lambda x: torch.cat([x, 2 * x, -x], dim=1))
    image = noise(2, 10, 11, 12)
    scores = score_volume(network, image, (8, 8, 8), overlap=0.25)
    torch.testing.assert_close(scores, torch.cat([image, 2 * image, -image]))


def test_the_finest_of_several_heads_counts() -> None:
    network = Applied(lambda x: [x, x[..., ::2, ::2, ::2]])
    image = noise(1, 9, 9, 9)
    torch.testing.assert_close(score_volume(network, image, (8, 8, 8), overlap=0.5), image)


@pytest.mark.parametrize("axes", [(0,), (2,), (0, 2), (0, 1, 2)])
def test_mirroring_is_the_mean_over_all_flips(axes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = nn.Conv3d(1, 2, 3, padding=1)
    image = noise(1, 12, 9, 10)
    scores = score_volume(network, image, (12, 9, 10), overlap=0.0, mirror_axes=axes)
    results = []
    for count in range(len(axes) + 1):
        for chosen in itertools.combinations(axes, count):
            flip = [axis + 1 for axis in chosen]
            with torch.no_grad():
                results.append(network(image.flip(flip)).flip(flip))
    assert len(results) == 2 ** len(axes)
    torch.testing.assert_close(scores, torch.stack(results).mean(0))


def test_windows_blend_with_more_weight_in_their_middle() -> None:
    """Windows that disagree: the score goes over from one to the other without a step."""
    values = itertools.count()
    network = Applied(lambda x: torch.full_like(x, float(next(values))))
    scores = score_volume(network, torch.zeros(1, 24, 16, 16), (16, 16, 16), overlap=0.5)
    line = scores[0, :, 8, 8]
    assert (line[:8] == 0).all() and (line[16:] == 1).all()
    # Gaussians with an eighth of the window as deviation, around 7.5 and 15.5.
    both = torch.arange(8.0, 16.0)
    first, second = (torch.exp(-(((both - centre) / 2) ** 2) / 2) for centre in (7.5, 15.5))
    torch.testing.assert_close(line[8:16], second / (first + second), rtol=1e-3, atol=1e-3)


def test_bfloat16_is_used_inside_and_single_precision_outside() -> None:
    convolution = nn.Conv3d(1, 1, 1)
    dtypes = []
    convolution.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    image = noise(1, 8, 8, 8)
    for dtype in (torch.float32, torch.bfloat16):
        scores = score_volume(convolution, image, (8, 8, 8), overlap=0.5, dtype=dtype)
        assert scores.dtype == torch.float32 and dtypes[-1] == dtype


def test_it_is_silent_and_leaves_image_and_network_alone() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.InstanceNorm3d(2)).eval()
    image = MetaTensor(noise(1, 9, 10, 11))
    before = image.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = score_volume(network, image, (8, 8, 8), overlap=0.5)
    assert type(first) is Tensor and torch.equal(before, image)
    assert torch.equal(first, score_volume(network, image, (8, 8, 8), overlap=0.5))
    assert all(parameter.requires_grad for parameter in network.parameters())
