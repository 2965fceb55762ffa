"""What a dataset and a config are made into."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from seg3d.common.errors import UserError
from seg3d.config import Config, config_from_tree
from seg3d.data.cases import Dataset
from seg3d.plan import (
    MOST_CLASSES,
    CaseFingerprint,
    Plan,
    background_values,
    label_classes,
    load_plan,
    make_plan,
    named_labels,
    save_plan,
)
from seg3d.plan.network import (
    AUTO_CHANNELS,
    POOL_TOGETHER,
    SMALLEST_FEATURE_MAP,
    auto_patch,
    plan_network,
    topology,
)

Labels = dict[str, int | list[int]]


def config(**sections: Any) -> Config:
    return config_from_tree(sections)


def dataset(labels: Labels | None = None, channels: tuple[str, ...] | None = None) -> Dataset:
    return Dataset("MSD", Path("data"), (), channels=channels, labels=labels)


def survey(
    shape: tuple[int, int, int] = (100, 100, 100),
    spacing: tuple[float, float, float] = (1, 1, 1),
    labels: tuple[int, ...] = (0, 1),
    zero_fraction: float = 0.0,
    foreground: np.ndarray | None = None,
) -> CaseFingerprint:
    intensities = np.ones((10, 1), "float32") if foreground is None else foreground
    range_ = (0.0,) * intensities.shape[1], (1.0,) * intensities.shape[1]
    counts = {value: 10 for value in labels}
    return CaseFingerprint(shape, spacing, counts, zero_fraction, intensities, *range_, "digest")


def plan_of(*surveys: CaseFingerprint, data: Dataset | None = None, **sections: Any) -> Plan:
    named = {f"case {number}": one for number, one in enumerate(surveys)}
    return make_plan(config(**sections), data or dataset(), named)


# Labels


def classes_of(
    from_config: Labels | None = None,
    from_dataset: Labels | None = None,
    found: tuple[int, ...] = (0, 1, 2),
) -> tuple[list[tuple[str, list[int]]], list[int]]:
    classes, regions, ignore = label_classes(
        config(data={"labels": from_config}),
        dataset(from_dataset),
        {"case": survey(labels=found)},
    )
    assert regions is None
    return [(one.name, one.values) for one in classes], ignore


@pytest.mark.parametrize(
    "given, classes, ignore",
    [
        ({"background": 0, "liver": 1}, [("background", [0]), ("liver", [1])], []),
        ({"liver": 5, "vessel": 2}, [("background", [0]), ("liver", [5]), ("vessel", [2])], []),
        ({"liver": 1, "outside": 0}, [("outside", [0]), ("liver", [1])], []),
        ({"organs": [7, 3], "rest": [4, 0]}, [("rest", [0, 4]), ("organs", [7, 3])], []),
        ({"liver": 1, "ignore": [9, 8]}, [("background", [0]), ("liver", [1])], [9, 8]),
        ({"background": 5, "liver": 1}, [("background", [0, 5]), ("liver", [1])], []),
        ({"liver": -1}, [("background", [0]), ("liver", [-1])], []),
    ],
)
@pytest.mark.parametrize("source", ["from_config", "from_dataset"])
def test_classes_begin_with_background_and_keep_their_order(source, given, classes, ignore):
    assert classes_of(**{source: given}) == (classes, ignore)


def test_the_config_wins_over_the_dataset():
    assert classes_of({"liver": 2}, {"spleen": 1})[0] == [("background", [0]), ("liver", [2])]


@pytest.mark.parametrize("found", [(0, 7, -3, 300), (300, 7, -3)])
def test_without_names_every_value_that_was_found_is_a_class(found):
    assert classes_of(found=found)[0] == [
        ("background", [0]),
        ("label -3", [-3]),
        ("label 7", [7]),
        ("label 300", [300]),
    ]


@pytest.mark.parametrize(
    "given, problem",
    [
        ({"liver": [1, 1]}, "data.labels.liver has a value twice"),
        ({"liver": 1, "ignore": 1}, "label value 1 belongs to both liver and ignore"),
        ({"liver": []}, "data.labels.liver has no value"),
        ({"background": 0}, "data.labels names no class besides background"),
        ({"background": 3}, "data.labels names no class besides background"),
        ({"background": 0, "ignore": 3}, "data.labels names no class besides background"),
        ({"liver": 1, "ignore": [0, 3]}, "label value 0 cannot be ignored"),
    ],
)
def test_labels_that_cannot_be(given, problem):
    with pytest.raises(UserError, match=problem):
        named_labels(config(data={"labels": given}), dataset())


@pytest.mark.parametrize("named", [True, False])
def test_more_classes_than_a_byte_can_number(named):
    values = tuple(range(1, MOST_CLASSES + 1))
    labels: Labels | None = {f"class {value}": value for value in values} if named else None
    with pytest.raises(UserError, match=f"data has 255 classes\n  legal: at most {MOST_CLASSES}"):
        classes_of(labels, found=values)
    assert len(classes_of(found=values[:-1])[0]) == MOST_CLASSES


@pytest.mark.parametrize(
    "given, background",
    [
        (None, {0}),
        ({"liver": 1}, {0}),
        ({"rest": [0, 4], "liver": 1}, {0, 4}),
        ({"liver": 1, "ignore": [9]}, {0, 9}),
    ],
)
def test_values_that_mark_nothing_to_be_found(given, background):
    assert background_values(named_labels(config(data={"labels": given}), dataset())) == background


@pytest.mark.parametrize(
    "given, from_dataset, classes, rest",
    [
        ({"liver": 3, "rest": "background"}, None, [[0], [3]], "background"),
        ({"liver": 3, "rest": "ignore"}, {"liver": 1, "spleen": 2}, [[0], [3]], "ignore"),
        ({"rest": "background"}, {"liver": 1, "spleen": 2}, [[0], [1], [2]], "background"),
        # A class may have that name.
        ({"rest": 4, "liver": 1}, None, [[0], [4], [1]], None),
        ({"liver": 1}, {"rest": 2}, [[0], [1]], None),
    ],
)
def test_what_other_values_are(given, from_dataset, classes, rest):
    settled = config(data={"labels": given})
    plan = make_plan(settled, dataset(from_dataset), {"case": survey()})
    assert [one.values for one in plan.classes] == classes
    assert plan.rest == rest
    assert plan.named_values == {value for values in classes for value in values}


def test_a_rest_of_nothing():
    with pytest.raises(UserError, match="data.labels.rest is ignore, but no class is named"):
        named_labels(config(data={"labels": {"rest": "ignore"}}), dataset())


# Spacing


def test_spacing_is_the_median_of_the_dataset():
    spacings = [(1, 2, 0.7), (1.2, 2.2, 0.9), (1.1, 2.4, 0.8)]
    plan = plan_of(*(survey(spacing=spacing) for spacing in spacings))
    assert plan.spacing == plan.typical_spacing == (1.1, 2.2, 0.8)


def test_spacing_of_thick_slices_is_that_of_the_finer_volumes():
    thick = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    plan = plan_of(*(survey(spacing=(0.8, 0.8, step)) for step in thick))
    assert plan.spacing == (0.8, 0.8, 4)
    assert plan.anisotropic


def test_spacing_of_thick_slices_never_is_finer_than_the_others():
    thick = [0.1, 0.1, 5, 5, 5]
    plan = plan_of(*(survey(spacing=(1, 1, step)) for step in thick))
    assert plan.spacing == (1, 1, 1)


def test_slices_of_thrice_the_width_are_not_thick_yet():
    plan = plan_of(*(survey(spacing=(1, 1, step)) for step in (1, 3, 3)))
    assert plan.spacing == (1, 1, 3)
    assert not plan.anisotropic


def test_spacing_none_keeps_grids_and_says_what_is_typical():
    plan = plan_of(
        survey(spacing=(1, 1, 4)), survey(spacing=(1, 1, 5)), preprocess={"spacing": "none"}
    )
    assert plan.spacing is None
    assert plan.typical_spacing == (1, 1, 4.5)
    assert plan.anisotropic


def test_spacing_that_is_given():
    plan = plan_of(survey(spacing=(3, 3, 3)), preprocess={"spacing": [1, 1, 2.5]})
    assert plan.spacing == plan.typical_spacing == (1, 1, 2.5)


def test_the_patch_follows_the_volumes_after_resampling():
    # 64 voxels of 2 mm are 128 voxels of 1 mm.
    half = survey(shape=(64, 64, 64), spacing=(2, 2, 2))
    assert plan_of(half).patch_size == (64, 64, 64)
    assert plan_of(half, preprocess={"spacing": [1, 1, 1]}).patch_size == (128, 128, 128)


# Patch


@pytest.mark.parametrize(
    "shape, spacing, patch",
    [
        ((512, 512, 512), (1, 1, 1), (128, 128, 128)),
        ((128, 128, 128), (1, 1, 1), (128, 128, 128)),
        ((3000, 3000, 3000), (1, 1, 1), (128, 128, 128)),
        ((16, 16, 16), (1, 1, 1), (16, 16, 16)),
        ((8, 8, 8), (1, 1, 1), (8, 8, 8)),
        ((512, 512, 1), (1, 1, 1), (512, 512, 1)),
        ((1, 512, 512), (5, 1, 1), (1, 512, 512)),
        ((182, 218, 182), (1, 1, 1), (128, 128, 128)),
        ((40, 56, 40), (1, 1, 1), (32, 64, 32)),
    ],
)
def test_patches_of_usual_volumes(shape, spacing, patch):
    assert plan_network(config(), spacing, shape)[0] == patch


@pytest.mark.parametrize(
    ("preset", "patch"),
    [
        ("plain", (128, 128, 128)),
        ("resenc-m", (128, 128, 128)),
        ("resenc-l", (192, 192, 192)),
        ("resenc-xl", (224, 224, 224)),
    ],
)
def test_patches_of_presets(preset, patch):
    network = {"preset": preset}
    assert plan_network(config(network=network), (1, 1, 1), (512, 512, 512))[0] == patch
    asked = config(network=network, patch={"voxels": 64**3})
    assert plan_network(asked, (1, 1, 1), (512, 512, 512))[0] == (64, 64, 64)


def test_thin_volumes_give_thin_wide_patches():
    x, y, z = plan_network(config(), (0.8, 0.8, 5), (512, 512, 20))[0]
    assert z == 20
    assert abs(x - y) <= 32
    assert 256 <= min(x, y) <= max(x, y) <= 352


SHAPES = st.tuples(*[st.integers(1, 700)] * 3).filter(lambda shape: max(shape) >= 8)
SPACINGS = st.tuples(*[st.floats(0.1, 10)] * 3)


@settings(deadline=None, max_examples=400)
@given(shape=SHAPES, spacing=SPACINGS, voxels=st.integers(8**3, 256**3))
def test_automatic_patches(shape, spacing, voxels):
    settled = config(patch={"voxels": voxels})
    patch = auto_patch(voxels, spacing, shape)
    assert min(patch) >= 1
    assert np.prod(patch, dtype=float) <= voxels
    # Rounding makes a side at most a fifth longer than the volume.
    assert all(side <= 1.21 * length for side, length in zip(patch, shape, strict=True))
    if np.prod(shape, dtype=float) <= voxels:
        assert all(side >= 0.66 * length for side, length in zip(patch, shape, strict=True))
    elif voxels >= 32**3:
        assert np.prod(patch, dtype=float) > 0.4 * voxels
    assume(max(patch) >= 2 * SMALLEST_FEATURE_MAP)
    # It need not be rounded up again for the network.
    assert plan_network(settled, spacing, shape)[0] == patch


@given(voxels=st.integers(8**3, 256**3))
def test_a_larger_budget_never_means_a_smaller_patch(voxels):
    sizes = [
        np.prod(auto_patch(budget, (1, 1, 1), (400, 400, 400))) for budget in (voxels, 2 * voxels)
    ]
    assert sizes[0] <= sizes[1]


@pytest.mark.parametrize("name", ["UNet3d", "monai.VNet"])
def test_a_patch_that_is_given_is_taken(name):
    settled = config(patch={"size": [96, 64, 48]}, network={"name": name})
    assert plan_network(settled, (1, 1, 1), (500, 500, 500))[0] == (96, 64, 48)


def test_only_the_own_network_needs_patches_that_divide():
    size = {"size": [50, 50, 50]}
    with pytest.raises(UserError) as raised:
        plan_network(config(patch=size), (1, 1, 1), (100, 100, 100))
    assert str(raised.value) == (
        "patch.size is not divisible by the total stride of the network\n"
        "  given: [50, 50, 50]\n"
        "  legal: multiples of [8, 8, 8] voxels\n"
        "  to do: use [48, 48, 48] or [56, 56, 56]"
    )
    monai = config(patch=size, network={"name": "monai.VNet"})
    assert plan_network(monai, (1, 1, 1), (100, 100, 100))[0] == (50, 50, 50)


@settings(deadline=None, max_examples=300)
@given(size=st.tuples(*[st.integers(8, 300)] * 3), spacing=SPACINGS)
def test_patches_that_a_message_proposes_are_legal(size, spacing):
    try:
        plan_network(config(patch={"size": size}), spacing, (100, 100, 100))
    except UserError as error:
        fix = str(error).splitlines()[-1]
        below, above = (json.loads(f"[{part.split(']')[0]}]") for part in fix.split("[")[1:])
        for proposed in (below, above):
            settled = config(patch={"size": proposed})
            assert plan_network(settled, spacing, (100, 100, 100))[0] == tuple(proposed)


@pytest.mark.parametrize("size", [[7, 7, 7], [1, 1, 1]])
def test_patches_too_small_for_two_levels(size):
    with pytest.raises(UserError, match="the patch is too small for a U-Net\n.*\n.* 8 voxels"):
        plan_network(config(patch={"size": size}), (1, 1, 1), (100, 100, 100))


def test_channels_that_are_given_decide_the_levels():
    settled = config(network={"channels": [8, 16, 32]}, patch={"size": [64, 64, 64]})
    assert len(plan_network(settled, (1, 1, 1), (100, 100, 100))[2]) == 3
    too_many = config(network={"channels": [8] * 6}, patch={"size": [64, 64, 64]})
    with pytest.raises(UserError, match="asks for 6 levels\n.*\n  legal: at most 5 levels"):
        plan_network(too_many, (1, 1, 1), (100, 100, 100))


# Network


def test_isotropic_patches_are_pooled_alike():
    kernels, strides = topology((1, 1, 1), (128, 128, 128), 6)
    assert kernels == [(3, 3, 3)] * 6
    assert strides == [(1, 1, 1)] + [(2, 2, 2)] * 5


def test_thick_slices_are_joined_once_the_others_are_as_wide():
    kernels, strides = topology((1, 1, 5), (256, 256, 32), 6)
    assert kernels == [(3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)]
    assert strides == [(1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)]


def test_few_slices_of_cubic_voxels_do_not_narrow_the_kernels_in_plane():
    kernels, strides = topology((1, 1, 1), (256, 256, 7), 6)
    assert kernels == [(3, 3, 3)] * 6
    assert strides[1:] == [(2, 2, 1)] * 5


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 1, 0.1), (1, 1, 10)])
def test_a_single_slice_is_a_plane(spacing):
    kernels, strides = topology(spacing, (256, 256, 1), 6)
    assert kernels == [(3, 3, 1)] * 6
    assert strides[1:] == [(2, 2, 1)] * 5


@settings(deadline=None, max_examples=400)
@given(patch=SHAPES, spacing=SPACINGS, levels=st.integers(2, 6))
def test_every_topology(patch, spacing, levels):
    kernels, strides = topology(spacing, patch, levels)
    assert 2 <= len(kernels) == len(strides) <= levels
    assert strides[0] == (1, 1, 1)
    steps = np.array(spacing) * np.cumprod(strides, axis=0)
    sizes = np.array(patch) / np.cumprod(strides, axis=0)
    pooled = np.array(patch) >= 2 * SMALLEST_FEATURE_MAP
    for level, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
        assert set(kernel) <= {1, 3}
        assert set(stride) <= {1, 2}
        assert level == 0 or max(stride) == 2
        for axis in range(3):
            # Pooling leaves enough voxels, ...
            if stride[axis] == 2:
                assert sizes[level, axis] >= SMALLEST_FEATURE_MAP
                assert steps[level - 1, axis] < POOL_TOGETHER * steps[level - 1][
                    sizes[level - 1] >= 2 * SMALLEST_FEATURE_MAP
                ].min() * (1 + 1e-9)
            # ... and only slices that stand alone or far apart are not joined.
            if kernel[axis] == 1 and patch[axis] > 1:
                assert steps[level, axis] >= POOL_TOGETHER * steps[level][pooled].min() * (1 - 1e-9)
            if level and kernels[level - 1][axis] == 3:
                assert kernel[axis] == 3
    # It stops where no axis can be pooled, or where it was asked to.
    assert len(kernels) == levels or (sizes[-1] < 2 * SMALLEST_FEATURE_MAP).all()


@settings(deadline=None, max_examples=200)
@given(shape=SHAPES, spacing=SPACINGS, levels=st.integers(2, 9))
def test_automatic_patches_divide_for_any_number_of_levels(shape, spacing, levels):
    settled = config(network={"channels": [4] * levels})
    try:
        patch, _, strides = plan_network(settled, spacing, shape)
    except UserError:
        assume(False)
    factors = np.prod(strides, axis=0)
    assert not (np.array(patch) % factors).any()
    assert all(
        feature >= SMALLEST_FEATURE_MAP or factor == 1
        for feature, factor in zip(np.array(patch) // factors, factors, strict=True)
    )


def test_features_are_one_per_level():
    assert plan_of(survey()).features == list(AUTO_CHANNELS[:5])
    few = plan_of(survey(shape=(16, 16, 16)))
    assert few.features == [32, 64, 128]
    assert len(few.kernels) == len(few.strides) == 3
    given = plan_of(survey(), network={"channels": [4, 8, 16]})
    assert given.features == [4, 8, 16]


def test_presets_decide_the_blocks_of_each_level():
    assert plan_of(survey()).blocks is None
    assert plan_of(survey(), network={"name": "monai.VNet"}).blocks is None
    for preset in ("resenc-m", "resenc-l", "resenc-xl"):
        assert plan_of(survey(), network={"preset": preset}).blocks == [1, 3, 4, 6, 6]
    given = plan_of(survey(), network={"preset": "resenc-l", "channels": [4, 8, 16]})
    assert (given.features, given.blocks) == ([4, 8, 16], [1, 3, 4])


# Intensities


def test_ct_by_name_clips_to_percentiles_of_all_cases():
    low, high = np.arange(0, 500.0), np.arange(500.0, 1000)
    plan = plan_of(
        survey(foreground=low[:, None].astype("float32")),
        survey(foreground=high[:, None].astype("float32")),
        data=dataset(channels=(" ct ",)),
        preprocess={"percentiles": [10, 90]},
    )
    [channel] = plan.channels
    values = np.arange(1000.0)
    clipped = values.clip(*np.percentile(values, [10, 90]))
    assert channel.kind == "ct"
    assert (channel.low, channel.high) == pytest.approx((99.9, 899.1))
    assert (channel.mean, channel.std) == pytest.approx((clipped.mean(), clipped.std()))


def test_ct_of_one_value_has_no_zero_deviation():
    [channel] = plan_of(survey(), preprocess={"intensity": "ct"}).channels
    assert (channel.low, channel.high, channel.mean) == (1, 1, 1)
    assert channel.std == 1e-6


@pytest.mark.parametrize(
    "fractions, nonzero", [([0.1, 0.2, 0.9], False), ([0.1, 0.3, 0.9], True), ([0.25], False)]
)
def test_volumes_that_are_mostly_empty_are_normalised_inside(fractions, nonzero):
    [channel] = plan_of(*(survey(zero_fraction=fraction) for fraction in fractions)).channels
    assert (channel.kind, channel.nonzero) == ("zscore", nonzero)


@pytest.mark.parametrize("kind", ["ct", "zscore", "none"])
def test_the_config_decides_for_every_channel(kind):
    two = survey(foreground=np.ones((5, 2), "float32"), zero_fraction=0.9)
    plan = plan_of(two, data=dataset(channels=("CT", "PET")), preprocess={"intensity": kind})
    assert [(one.name, one.kind) for one in plan.channels] == [("CT", kind), ("PET", kind)]
    assert [one.nonzero for one in plan.channels] == [kind == "zscore"] * 2


def test_automatic_intensities_go_by_the_name_of_each_channel():
    two = survey(foreground=np.ones((5, 2), "float32"))
    plan = plan_of(two, data=dataset(channels=("CT", "PET")))
    assert [one.kind for one in plan.channels] == ["ct", "zscore"]
    assert [one.name for one in plan_of(two).channels] == ["channel 0", "channel 1"]


# Storing


def test_a_plan_survives_yaml_and_json(tmp_path):
    plan = plan_of(
        survey(labels=(0, 1, 7), spacing=(0.7, 0.7, 5), foreground=np.full((5, 1), 0.1, "float32")),
        data=dataset({"off": 1, "1e5": [7, 9], "ignore": 255}, ("ct",)),
    )
    save_plan(plan, tmp_path / "plan.yaml")
    assert load_plan(tmp_path / "plan.yaml") == plan
    assert Plan.model_validate(yaml.safe_load((tmp_path / "plan.yaml").read_text())) == plan
    assert Plan.model_validate(plan.model_dump(mode="json")) == plan
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert [path.name for path in tmp_path.iterdir()] == ["plan.yaml"]


def test_a_plan_with_keys_of_another_version_is_refused():
    plan = plan_of(survey()).model_dump(mode="json")
    with pytest.raises(ValidationError):
        Plan.model_validate(plan | {"new": 1})
    with pytest.raises(ValidationError):
        Plan.model_validate({key: value for key, value in plan.items() if key != "strides"})


@pytest.mark.parametrize("key", ["rest", "batch_size", "blocks"])
def test_a_plan_of_the_time_before_a_key(key):
    plan = plan_of(survey()).model_dump(mode="json")
    del plan[key]
    assert Plan.model_validate(plan) == plan_of(survey())


def test_blocks_of_other_levels_than_there_are():
    plan = plan_of(survey(), network={"preset": "resenc-m"}).model_dump(mode="json")
    with pytest.raises(ValidationError, match="blocks are not of as many levels"):
        Plan.model_validate(plan | {"blocks": [1, 3]})
