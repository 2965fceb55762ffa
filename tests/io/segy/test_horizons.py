"""Picks become surfaces, surfaces become layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg3d.common.errors import UserError
from seg3d.io import create_volume, segy
from seg3d.io.horizon_layers import NO_TRACE, NOT_KNOWN, Layers, label_values, layer_labels
from seg3d.io.horizons import Horizon, horizon_surface, read_horizon
from seg3d.io.regions import whole
from seg3d.io.segy import Survey
from tests.io.segy.files import Spec, read_header, write
from tests.io.segy.test_reading import quick

SHAPE = (12, 15, 50)


@pytest.fixture
def survey(tmp_path: Path) -> Survey:
    """Inlines 100, 102, ..., crosslines 300, 301, ..., samples every 4 ms from 20 ms on."""
    spec = Spec(SHAPE, step=(2, 1), delay=20, missing=0.1)
    return read_header(write(tmp_path / "survey.sgy", spec).path).native


def plane(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """ms; exactly linear."""
    return 60 + 2.5 * rows - 1.25 * columns


def picks(where: np.ndarray, name: str = "top", lower: float = 0.0) -> Horizon:
    """The plane at the places of a mask, deeper by ``lower`` ms."""
    rows, columns = np.argwhere(where).T
    return Horizon(name, 100.0 + 2 * rows, 300.0 + columns, plane(rows, columns) + lower)


def samples_of_plane(lower: float = 0.0) -> np.ndarray:
    return (plane(*np.indices(SHAPE[:2])) + lower - 20) / 4


# Files

ROWS = [(100, 300, 60.0), (102, 301, 61.25), (104, 305, 70.5)]


def table(separator: str, order: tuple[int, ...] = (0, 1, 2)) -> str:
    return "\n".join(separator.join(str(row[column]) for column in order) for row in ROWS)


@pytest.mark.parametrize(
    "text",
    [
        table(" "),
        table("\t"),
        table(","),
        table(", "),
        table(";") + "\n",
        "# a comment\n! another\n\n" + table("   "),
        "Inline,Crossline,TWT\n" + table(","),
        "TWT (ms)\tInline\tCrossline\n" + table("\t", (2, 0, 1)),
        '# "Crossline" "Inline" "Z"\n' + table(" ", (1, 0, 2)),
        "# Horizon: Schöne Tiefe\nxline iline time\n" + table(" ", (1, 0, 2)),
        "XL;IL;X;Y;Time [ms]\n" + table(";", (1, 0, 0, 0, 2)),
        # As OpendTect exports them, with a line of names and with a line for each.
        '# "Inline"\t"Crossline"\t"Z"\n# - - - - - - - - - -\n' + table("\t"),
        "# 1: Inline\n# 2: Crossline\n# 3: Z\n# 4: Amplitude\n# - - - -\n"
        + table("\t", (0, 1, 2, 2)),
        # Fields as in EarthVision.
        "# Type: scattered data\n# Field: 1 x\n# Field: 2 y\n# Field: 3 z ms\n# Field: 4 Inline\n"
        "# Field: 5 Crossline\n# End:\n" + table(" ", (0, 0, 2, 0, 1)),
        table(" ") + "\n# 9 9 9\n106 300 -999.25\n106 301 1e30\n106 302 nan\n",
        # As Windows marks UTF-8.
        "\ufeff" + table(" ").replace("\n", "\r\n"),
        "\ufeff# 1: Inline\n# 2: Crossline\n# 3: Z\n# 4: X\n" + table("\t", (0, 1, 2, 2)),
    ],
)
def test_tables_of_picks(tmp_path, survey, text):
    (tmp_path / "top.dat").write_bytes(text.encode())
    horizon = read_horizon(tmp_path / "top.dat", survey)
    assert horizon.name == str(tmp_path / "top.dat")
    assert np.array_equal(
        np.transpose([horizon.inlines, horizon.crosslines, horizon.times]), np.array(ROWS)
    )


@pytest.mark.parametrize(
    "text, problem",
    [
        ("1 2 3 4\n", "which columns hold inline, crossline and time"),
        ("X Amplitude Z Inline\n1 2 3 4\n", "which columns hold inline, crossline and time"),
        ("", "which columns"),
        ("inline crossline time\n", "which columns"),
        (table(" ") + "\n1 2\n", "is damaged or no table of picks"),
        (table(" ") + "\n1 2 x\n", "is damaged or no table of picks"),
        ("100 300 -999.25\n", "holds no picks"),
    ],
)
def test_tables_that_are_none(tmp_path, survey, text, problem):
    (tmp_path / "top.dat").write_text(text)
    with pytest.raises(UserError, match=problem) as caught:
        read_horizon(tmp_path / "top.dat", survey)
    assert "top.dat" in str(caught.value)


@pytest.mark.parametrize(
    "text, columns, cell",
    [
        ("3 words above\n" + table(" ").replace("10", "Top 10"), None, "line 2, column 1: 'Top'"),
        ("# a comment\n" + table(",").replace(".", ",Top,"), None, "line 2, column 4: 'Top'"),
        (
            table(" ").replace("10", "Top 10"),
            ["inline", "crossline", "_", "time"],
            "line 1, column 1: 'Top'",
        ),
        (table(" ") + "\n# more\n1 2 Top\n", None, f"line {len(ROWS) + 2}, column 3: 'Top'"),
        (table(" ") + "\n1 2 Top\n", ["inline", "crossline", "time"], "column 3: 'Top'"),
    ],
)
def test_a_word_among_the_numbers(tmp_path, survey, text, columns, cell):
    (tmp_path / "top.dat").write_text(text)
    with pytest.raises(UserError, match=r"top\.dat") as caught:
        read_horizon(tmp_path / "top.dat", survey, columns)
    assert f"{cell} is not a number" in str(caught.value)
    assert "data.labels.columns" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path, survey):
    with pytest.raises(UserError, match=r"top.dat cannot be read\n  given: No such file"):
        read_horizon(tmp_path / "top.dat", survey)


@pytest.mark.parametrize(
    "columns, text",
    [
        (["time", "_", "crossline", "inline"], table(" ", (2, 0, 1, 0))),
        # Petrel: Charisma 3D interpretation lines.
        (
            ["_", "_", "inline", "_", "_", "crossline", "_", "_", "time"],
            "\n".join(f"INLINE : {i} XLINE : {x} 6e5 6e6 {t}" for i, x, t in ROWS),
        ),
        (["inline", "crossline", "_", "time"], "a head\n3 numbers 1\n" + table(",", (0, 1, 0, 2))),
    ],
)
def test_columns_that_are_given(tmp_path, survey, columns, text):
    (tmp_path / "top.dat").write_text(text)
    horizon = read_horizon(tmp_path / "top.dat", survey, columns)
    assert np.array_equal(
        np.transpose([horizon.inlines, horizon.crosslines, horizon.times]), np.array(ROWS)
    )


def test_given_columns_that_the_file_has_not(tmp_path, survey):
    (tmp_path / "top.dat").write_text(table(" "))
    with pytest.raises(UserError, match="no row of the columns") as caught:
        read_horizon(tmp_path / "top.dat", survey, ["_", "inline", "crossline", "time"])
    assert "data.labels.columns" in str(caught.value)


@pytest.mark.parametrize("scale", [1000.0, -1.0])
def test_times_are_scaled_after_nulls_were_left_out(tmp_path, survey, scale):
    rows = [(100, 300, 60 / scale), (102, 301, -999.25)]
    (tmp_path / "top.dat").write_text("\n".join(" ".join(map(str, row)) for row in rows))
    assert read_horizon(tmp_path / "top.dat", survey, None, scale).times.tolist() == [60.0]


# Picks with coordinates


def test_coordinates_go_to_the_nearest_bin(tmp_path, survey):
    """On a survey that lies across, with picks beside the bins and some outside."""
    rng = np.random.default_rng(4)
    places = np.argwhere(rng.random(SHAPE[:2]) < 0.7)
    times = rng.uniform(30, 200, len(places))
    world = survey.grid.affine[:2, :2] @ (places + rng.uniform(-0.3, 0.3, places.shape)).T
    rows = [*world + survey.grid.affine[:2, 3:], times]
    # A second pick in the first bin, farther from its middle; and one outside.
    again = survey.grid.affine[:2, :2] @ (places[0] + 0.45) + survey.grid.affine[:2, 3]
    table = np.vstack([np.transpose(rows), [*again, 999], [0, 0, 50]])
    np.savetxt(tmp_path / "top.xyt", table, header="X Y TWT", fmt="%.3f")
    horizon = read_horizon(tmp_path / "top.xyt", survey)
    found = np.transpose([horizon.inlines, horizon.crosslines, horizon.times])
    expected = np.column_stack([100 + 2 * places[:, 0], 300 + places[:, 1], times])
    assert np.allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize(
    "spec, problem",
    [
        (Spec(SHAPE, coordinates=None), "of which no coordinates are known"),
        (Spec(SHAPE), "has no pick in the survey"),
    ],
)
def test_coordinates_that_say_nothing(tmp_path, spec, problem):
    other = read_header(write(tmp_path / "other.sgy", spec).path).native
    (tmp_path / "top.xyt").write_text("1 2 3\n")
    with pytest.raises(UserError, match=problem) as caught:
        read_horizon(tmp_path / "top.xyt", other, ["x", "y", "time"])
    assert "top.xyt" in str(caught.value) and "other.sgy" in str(caught.value)


# Surfaces


def test_picks_in_every_place(survey):
    surface = horizon_surface(picks(np.ones(SHAPE[:2], bool)), survey, reach=3)
    assert np.allclose(surface, samples_of_plane())


@quick
@given(seed=st.integers(0, 999), share=st.floats(0.1, 0.9))
def test_gaps_in_a_plane_are_closed_by_the_plane(tmp_path, seed, share):
    path = tmp_path / "survey.sgy"
    survey = read_header(write(path, Spec(SHAPE, step=(2, 1), delay=20)).path).native
    where = np.random.default_rng(seed).random(SHAPE[:2]) < share
    where[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    surface = horizon_surface(picks(where), survey, reach=99)
    assert np.allclose(surface, samples_of_plane())


def test_nothing_is_known_beyond_the_reach_or_outside_the_hull(survey):
    where = np.zeros(SHAPE[:2], bool)
    where[2:5, 3:6] = where[2:5, 12] = where[10, 4] = True
    surface = horizon_surface(picks(where), survey, reach=2)
    known = np.isfinite(surface)
    assert known[where].all()
    assert known[3, 6:8].all()
    assert not known[3, 8:10].any()
    assert known[3, 10:12].all()
    assert known[5:10, 4].tolist() == [True, True, False, True, True]
    assert not known[0].any()
    assert not known[:, 13:].any()
    assert np.allclose(surface[known], samples_of_plane()[known])


def test_picks_on_one_line_reach_nowhere(survey):
    where = np.zeros(SHAPE[:2], bool)
    where[4] = True
    assert np.array_equal(np.isfinite(horizon_surface(picks(where), survey, reach=5)), where)


def test_picks_outside_or_between_the_lines_are_left_out(survey):
    top = picks(np.ones(SHAPE[:2], bool))
    more = Horizon(
        "top",
        np.append(top.inlines, [101, 98, 124, 100]),
        np.append(top.crosslines, [300, 300, 300, 315]),
        np.append(top.times, [5000.0] * 4),
    )
    assert np.allclose(horizon_surface(more, survey, reach=1), samples_of_plane())


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"inlines": 1000}, r"has no pick in the survey\n  given: inlines 1100 to 1122"),
        ({"times": 900}, "lies outside the survey"),
        ({"times": -900}, "lies outside the survey"),
    ],
)
def test_picks_that_miss_the_survey(survey, change, problem):
    top = picks(np.ones(SHAPE[:2], bool))
    moved = {name: getattr(top, name) + change.get(name, 0) for name in ("inlines", "times")}
    with pytest.raises(UserError, match=problem):
        horizon_surface(Horizon("top", moved["inlines"], top.crosslines, moved["times"]), survey, 1)


def test_picks_in_seconds(tmp_path):
    survey = read_header(write(tmp_path / "survey.sgy", Spec(SHAPE)).path).native
    rows, columns = np.indices(SHAPE[:2]).reshape(2, -1)
    top = Horizon("top", 100.0 + rows, 300.0 + columns, plane(rows, columns) / 1000)
    with pytest.raises(
        UserError, match=r"(?s)lies outside the survey.*picks to ms.*1000 for seconds"
    ):
        horizon_surface(top, survey, 1)


def test_two_times_in_one_place(survey):
    top = picks(np.ones(SHAPE[:2], bool))
    lines = np.append(top.inlines, 104), np.append(top.crosslines, 306)
    with pytest.raises(UserError, match="several times in one place") as caught:
        horizon_surface(Horizon("top", *lines, np.append(top.times, 190)), survey, 1)
    assert "inline 104, crossline 306" in str(caught.value)
    again = horizon_surface(Horizon("top", *lines, np.append(top.times, plane(2, 6))), survey, 1)
    assert np.allclose(again, samples_of_plane())


# Layers


def expected_layer(times: np.ndarray, sample: int) -> int:
    """By the definition, one place at a time: every unknown horizon may lie anywhere in order."""
    possible = set()
    known = np.flatnonzero(np.isfinite(times))
    for layers_above in range(len(times) + 1):
        passed = [number < layers_above for number in known]
        if passed == [times[number] <= sample for number in known]:
            possible.add(layers_above + 1)
    return possible.pop() if len(possible) == 1 else NOT_KNOWN


@quick
@given(seed=st.integers(0, 9999), horizons=st.integers(1, 4))
def test_layers_by_their_definition(tmp_path, seed, horizons):
    rng = np.random.default_rng(seed)
    survey = read_header(write(tmp_path / "survey.sgy", Spec((3, 4, 9), missing=0.2)).path)
    surfaces = np.sort(rng.uniform(-1, 10, (horizons, 3, 4)), axis=0)
    surfaces[rng.random(surfaces.shape) < 0.3] = np.nan
    values = range(1, horizons + 2)
    labels = Layers(surfaces, survey.native, values).read(whole((3, 4, 9)))
    assert labels.shape == (1, 3, 4, 9)
    for row, column in np.ndindex(3, 4):
        line = [expected_layer(surfaces[:, row, column], sample) for sample in range(9)]
        if not survey.native.mask[row, column]:
            line = [NO_TRACE] * 9
        assert labels[0, row, column].tolist() == line


def test_regions_of_layers_are_parts_of_the_whole(survey):
    every = np.ones(SHAPE[:2], bool)
    layers = layer_labels([picks(every), picks(every, "base", 60)], survey)
    labels = layers.read(whole(SHAPE))
    region = (slice(3, 9), slice(1, 15), slice(7, 33))
    assert np.array_equal(layers.read(region), labels[:, 3:9, 1:15, 7:33])
    assert set(np.unique(labels)) == {NO_TRACE, 1, 2, 3}


@pytest.mark.parametrize("slab", [1, 2000, 10**9])
def test_layers_as_a_volume_beside_the_survey(tmp_path, survey, monkeypatch, slab):
    monkeypatch.setattr("seg3d.io.horizon_layers.SLAB_VOXELS", slab)
    every = np.ones(SHAPE[:2], bool)
    layers = layer_labels([picks(every), picks(every, "base", 60)], survey)
    with create_volume(tmp_path / "layers.sgy", layers.header, layers.dtype) as writer:
        layers.write(writer)
    output = segy.open_volume(tmp_path / "layers.sgy")
    assert output.header.grid.differences(survey.grid) == []
    assert np.array_equal(output.mask(), survey.mask)
    assert np.array_equal(output.read(whole(SHAPE)), layers.read(whole(SHAPE)))


def test_horizons_that_cross_are_named_with_places(survey):
    every = np.ones(SHAPE[:2], bool)
    top, base = picks(every), picks(every, "base", 20)
    base.times[[7, 8]] -= 60
    with pytest.raises(UserError, match="horizons top and base cross") as caught:
        layer_labels([top, base], survey)
    assert "deeper by up to 40 ms in 2 of 180 places" in str(caught.value)
    assert "inline 100, crossline 307; inline 100, crossline 308" in str(caught.value)


def test_horizons_in_the_wrong_order(survey):
    every = np.ones(SHAPE[:2], bool)
    with pytest.raises(UserError, match=r"(?s)in 180 of 180 places.*from top to bottom"):
        layer_labels([picks(every, "base", 20), picks(every)], survey)


def test_horizons_may_touch(survey):
    every = np.ones(SHAPE[:2], bool)
    layers = layer_labels(
        [picks(every), picks(every, "noisy", -2), picks(every, "base", 40)], survey
    )
    labels = layers.read(whole(SHAPE))
    assert set(np.unique(labels)) == {NO_TRACE, 1, 3, 4}


def test_layers_of_one_name_have_one_value(survey):
    every = np.ones(SHAPE[:2], bool)
    names = ["ignore", "sand", "background", "shale", "sand"]
    values = label_values(names)
    assert values == {"sand": 1, "shale": 2, "background": 0, "ignore": NOT_KNOWN}
    horizons = [picks(every, str(lower), lower) for lower in (0, 20, 40, 60)]
    plain = layer_labels(horizons, survey).read(whole(SHAPE))
    named = layer_labels(horizons, survey, 10, [values[name] for name in names])
    expected = np.array([NO_TRACE, NOT_KNOWN, 1, 0, 2, 1])[plain]
    assert np.array_equal(named.read(whole(SHAPE)), expected)


def test_no_horizons(survey):
    with pytest.raises(UserError, match="layers cannot be labelled"):
        layer_labels([], survey)
