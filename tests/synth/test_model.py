"""Synthetic surveys: layers, wavelet, what faults do to both, and where the labels lie."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg3d.synth import model as model_module
from seg3d.synth.dataset import make_volume
from seg3d.synth.faults import Fault, draw_faults
from seg3d.synth.folds import Folds, draw_folds
from seg3d.synth.model import Model, draw_model
from seg3d.synth.strata import FACIES, Strata, draw_strata, draw_units
from seg3d.synth.wavelet import coloured_noise, convolve_traces, ricker

SHAPE = (48, 40, 64)
FLAT = Folds(np.zeros(0), np.zeros((0, 2)), np.zeros(0), (0.0, 0.0), SHAPE[2])
# A plane that strikes along the second axis through x = 24.5 and cuts everything.
UPRIGHT = Fault(
    centre=(24.5, 20.0, 32.0), strike=90, dip=90, slip=6.0, length=1e7, height=1e7, reach=1e7
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def model(*faults: Fault, noise: float = 0.0, folds: Folds = FLAT) -> Model:
    return Model(draw_strata(rng(), -200, 300, 4.0), folds, faults, 0.1, noise, 0.5)


def points(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(float)


# --- layers ------------------------------------------------------------------------------------


def test_interfaces_between_samples_are_shared_by_them() -> None:
    strata = Strata(np.array([3.0, 7.25]), np.array([2.0, -4.0]), np.array([0, 1, 2], np.uint8))
    expected = np.zeros(12)
    expected[3], expected[7], expected[8] = 2.0, -3.0, -1.0
    np.testing.assert_allclose(strata.reflectivity(np.arange(12.0)), expected, atol=1e-6)
    assert strata.facies_at(np.array([-50, 2.9, 3.1, 7.2, 7.3, 99])).tolist() == [0, 0, 1, 1, 2, 2]


def test_layers_reach_from_top_to_bottom_with_the_mean_thickness() -> None:
    strata = draw_strata(rng(), -1000, 3000, 4.0)
    assert strata.interfaces[0] < -970 and strata.interfaces[-1] >= 3000
    assert np.diff(strata.interfaces).mean() == pytest.approx(4.0, rel=0.1)
    assert np.abs(strata.coefficients).max() <= 1


def test_units_differ_in_what_their_facies_says() -> None:
    strata = draw_units(rng(), -2000, 2000, 100)
    units = strata.facies[:-1]
    changes = np.flatnonzero(np.diff(units))
    thicknesses = np.diff(strata.interfaces[changes])
    assert thicknesses.min() > 0.12 * 100 - 5 and set(units) == {0, 1, 2}
    for number, facies in enumerate(FACIES):
        coefficients = np.abs(strata.coefficients[units == number])
        assert 0.8 * facies.contrast < coefficients.max() <= facies.contrast


# --- wavelet and noise -------------------------------------------------------------------------


@pytest.mark.parametrize("peak", [0.06, 0.1, 0.14])
def test_the_spectrum_of_the_wavelet_peaks_where_it_should(peak: float) -> None:
    wavelet = ricker(peak)
    spectrum = np.abs(np.fft.rfft(wavelet, 2**14))
    assert spectrum.argmax() / 2**14 == pytest.approx(peak, rel=0.01)
    assert wavelet.argmax() == len(wavelet) // 2 and wavelet.max() == 1
    np.testing.assert_array_equal(wavelet, wavelet[::-1])
    # Nothing is cut off at the ends, and a constant is not passed.
    assert abs(wavelet[0]) < 1e-3 and abs(wavelet.sum()) < 1e-3


def test_traces_are_convolved_one_by_one() -> None:
    wavelet, traces = rng().normal(size=7), rng(1).normal(size=(2, 3, 20))
    convolved = convolve_traces(traces, wavelet)
    for place in np.ndindex(2, 3):
        np.testing.assert_allclose(convolved[place], np.convolve(traces[place], wavelet, "valid"))


@pytest.mark.parametrize(("sigma", "likeness"), [(0.0, 0.0), (1.0, math.exp(-1 / 4))])
def test_noise_has_the_colour_of_the_wavelet_and_the_likeness_of_neighbours(
    sigma: float, likeness: float
) -> None:
    noise = coloured_noise(rng(), (40, 40, 128), ricker(0.1), sigma)
    power = (np.abs(np.fft.rfft(noise, axis=-1)) ** 2).mean((0, 1))
    # The power of a Ricker wavelet, and with it that of filtered white noise, has the same peak.
    assert power.argmax() / 128 == pytest.approx(0.1, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=1e-5)
    assert (noise[1:] * noise[:-1]).mean() == pytest.approx(likeness, abs=0.06)


# --- faults ------------------------------------------------------------------------------------


def test_an_upright_fault_is_labelled_and_displaces_at_its_plane_only() -> None:
    survey = model(UPRIGHT).render(SHAPE, rng())
    expected = np.zeros(SHAPE, bool)
    expected[24:26] = True  # half a voxel off, on either side
    np.testing.assert_array_equal(survey.faults, expected)
    # Flat layers: equal traces within each wall, others beyond.
    for wall in (survey.image[:25], survey.image[25:]):
        np.testing.assert_allclose(wall, np.broadcast_to(wall[:1, :1], wall.shape), atol=1e-4)
    assert np.abs(survey.image[24] - survey.image[25]).max() > 0.1


@settings(max_examples=15, deadline=None)
@given(
    strike=st.floats(0, 360), dip=st.floats(40, 90), throw=st.floats(2, 12), normal=st.booleans()
)
def test_the_throw_is_found_again_across_the_fault(
    strike: float, dip: float, throw: float, normal: bool
) -> None:
    """By cross-correlation of traces of flat layers on either side."""
    throw = throw if normal else -throw
    slip = throw / math.sin(math.radians(dip))
    fault = dataclasses.replace(UPRIGHT, strike=strike, dip=dip, slip=slip)
    across = 400 * np.array([-math.sin(math.radians(strike)), math.cos(math.radians(strike))])
    depths = np.arange(0, 200, 0.1)
    footwall, hanging = (
        np.stack([np.full_like(depths, place) for place in (24.5, 20) + way] + [depths])
        for way in (-across, across)
    )
    cut = model(fault)
    below, above = (cut.strata.reflectivity(cut.undo(trace)[0]) for trace in (footwall, hanging))
    lags = np.arange(-150, 151)
    similarity = [below[500:-500] @ np.roll(above, -lag)[500:-500] for lag in lags]
    assert lags[int(np.argmax(similarity))] / 10 == pytest.approx(throw, abs=0.11)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_faults_as_they_are_drawn(seed: int) -> None:
    """Slip is along the surface; the distance is one; nothing is overturned."""
    for fault in draw_faults(rng(seed), SHAPE):
        assert 50 <= fault.dip <= 85
        somewhere = rng(seed).uniform(-20, 80, (3, 400))
        before, distance, throw = fault.undo(somewhere)
        sides = np.sign(distance)
        np.testing.assert_array_equal(np.sign(fault.undo(before)[1]), sides)
        moved = np.linalg.norm(before - somewhere, axis=0)
        assert (moved <= np.abs(fault.slip) / 2 * 1.2).all()
        assert (np.abs(throw) <= 64 / 6 + 1e-9).all()

        step = 1e-4
        steps = np.eye(3)[:, :, None] * step
        plus, minus = (
            [fault.undo(somewhere + sign * one) for one in steps] for sign in (1, -1)
        )  # fmt: skip
        slopes = np.stack([(p[1] - m[1]) / (2 * step) for p, m in zip(plus, minus, strict=True)])
        near = np.abs(distance) < 1
        np.testing.assert_allclose(np.linalg.norm(slopes, axis=0)[near], 1, atol=0.05)
        jacobian = np.stack([(p[0] - m[0]) / (2 * step) for p, m in zip(plus, minus, strict=True)])
        off = np.abs(distance) > 1e-3
        assert (np.linalg.det(jacobian.transpose(2, 0, 1))[off] > 0).all()


def test_slip_ends_at_the_rim_and_so_do_the_labels() -> None:
    fault = dataclasses.replace(UPRIGHT, length=12.0, height=20.0)
    _, _, throw = fault.undo(points())
    radius = np.hypot((points()[1] - 20) / 12, (points()[2] - 32) / 20)
    assert (throw[radius > 1.001] == 0).all() and (throw[radius < 0.99] > 0).all()
    assert throw.max() == pytest.approx(6.0)
    labels = model(fault).render(SHAPE, rng()).faults
    plane = np.zeros(SHAPE, bool)
    plane[24:26] = True
    np.testing.assert_array_equal(labels, plane & (throw >= model_module.LEAST_THROW))
    assert 0 < labels.sum() < plane.sum()


def test_displacement_fades_away_from_the_surface() -> None:
    fault = dataclasses.replace(UPRIGHT, reach=10.0)
    before, distance, _ = fault.undo(points())
    moved = np.abs(before[2] - points()[2])
    np.testing.assert_allclose(moved, 3 * np.maximum(1 - np.abs(distance) / 10, 0) ** 2, atol=1e-9)


def test_later_faults_displace_earlier_ones() -> None:
    """An upright fault moves the trace of one that dips at 45 degrees by its throw."""
    first = dataclasses.replace(UPRIGHT, strike=0, dip=45, slip=5.0)
    labels = model(first, UPRIGHT).render(SHAPE, rng()).faults
    alone = model(first).render(SHAPE, rng()).faults
    # The walls move by 3 voxels each, one up, the other down; which one is the hanging wall's
    # affair: u is along the second axis, so w points against the first.
    np.testing.assert_array_equal(labels[30:, :, :-3], alone[30:, :, 3:])
    np.testing.assert_array_equal(labels[:20, :, 3:], alone[:20, :, :-3])


def test_folds_never_overturn_layers() -> None:
    somewhere = 2.0 * points((24, 20, 32))
    for seed in range(20):
        depth = draw_folds(rng(seed), SHAPE).undo(somewhere)
        assert (np.diff(depth, axis=2) > 0.2 * 2).all()
        assert 1 < np.abs(depth - somewhere[2]).max() < 64


# --- the whole ---------------------------------------------------------------------------------


def test_a_survey_is_a_function_of_its_seed() -> None:
    first, again, other = (make_volume("faults", SHAPE, seed) for seed in ([3, 1], [3, 1], [3, 2]))
    assert first.image.dtype == np.float32 and np.isfinite(first.image).all()
    assert first.image.shape == first.faults.shape == SHAPE
    for ours, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(first.image, other.image)


def test_slabs_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_volume("layers", SHAPE, [5])
    monkeypatch.setattr(model_module, "SLAB", 2**13)
    for ours, theirs in zip(make_volume("layers", SHAPE, [5]), whole, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("units", [False, True])
def test_layers_fill_the_volume_and_noise_is_as_strong_as_asked(units: bool) -> None:
    for seed in range(3):
        drawn = draw_model(rng(seed), SHAPE, units=units)
        depth, _ = drawn.undo(2.0 * points((24, 20, 32)))
        inside = drawn.strata.interfaces[[0, -1]]
        assert inside[0] < depth.min() and depth.max() < inside[1]
        clean = dataclasses.replace(drawn, noise=0.0).render(SHAPE, rng(7)).image
        noise = drawn.render(SHAPE, rng(7)).image - clean
        assert noise.std() / clean.std() == pytest.approx(drawn.noise, rel=0.01)
