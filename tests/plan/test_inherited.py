"""What of a plan comes with weights, and what the config of the new run says otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from seg3d.common.errors import UserError
from seg3d.config import Config, config_from_tree
from seg3d.plan import (
    CaseFingerprint,
    ChannelIntensity,
    Plan,
    inherited_config,
    inherited_plan,
)
from tests.plan.test_plan import dataset, survey
from tests.plans import small_plan

THEIRS = config_from_tree(
    {
        "preprocess": {"orientation": "LPS", "spacing": [1, 1, 3], "intensity": "ct"},
        "network": {"channels": [4, 8, 16], "preset": "auto"},
        "patch": {"size": [48, 48, 24]},
    }
)
CT = ChannelIntensity(name="old", kind="ct", low=-100, high=300, mean=40, std=90)
GIVEN = small_plan(
    orientation="LPS",
    spacing=(1, 1, 3),
    typical_spacing=(1, 1, 3),
    channels=[CT],
    patch_size=(48, 48, 24),
    kernels=[(3, 3, 1), (3, 3, 3), (3, 3, 3)],
    strides=[(1, 1, 1), (2, 2, 1), (2, 2, 2)],
    features=[4, 8, 16],
)


def settled(
    asked: dict[str, Any] | None = None, theirs: Config = THEIRS, given: Plan = GIVEN,
    **seen: Any,
) -> tuple[Config, Plan]:  # fmt: skip
    """Config and plan of a new run."""
    wanted = config_from_tree(asked or {})
    config = inherited_config(wanted, theirs, given)
    cases: dict[str, CaseFingerprint] = {"case": survey(spacing=(0.7, 0.7, 2), **seen)}
    named = dataset({"tumour": 1, "organ": 2}, ("new",))
    return config, inherited_plan(wanted, config, theirs, given, named, cases)


def test_all_that_belongs_to_the_network_comes_with_it() -> None:
    config, plan = settled()
    assert config.preprocess == THEIRS.preprocess
    assert config.network == THEIRS.network.model_copy(update={"preset": "plain"})
    kept = ("orientation", "spacing", "typical_spacing", "patch_size", "kernels", "strides")
    for name in (*kept, "features", "blocks", "whole"):
        assert getattr(plan, name) == getattr(GIVEN, name), name
    assert plan.channels == [CT.model_copy(update={"name": "new"})]
    assert plan.class_names == ["background", "tumour", "organ"]
    # That is a matter of the new run.
    assert plan.batch_size == config.train.batch_size == 2


@pytest.mark.parametrize("key", ["preprocess.spacing", "preprocess.intensity", "patch.size",
                                 "network.channels"])  # fmt: skip
def test_auto_says_nothing_else(key: str) -> None:
    section, name = key.split(".")
    assert settled({section: {name: "auto"}}) == settled()


def test_what_the_config_says_counts() -> None:
    assert settled({"preprocess": {"spacing": [2, 2, 2]}})[1].spacing == (2, 2, 2)
    assert settled({"preprocess": {"spacing": "none"}})[1].spacing is None
    assert settled({"preprocess": {"orientation": "RAS"}})[1].orientation == "RAS"
    config, plan = settled({"preprocess": {"intensity": "zscore"}})
    assert [one.kind for one in plan.channels] == ["zscore"]
    assert settled({"preprocess": {"intensity": "ct"}})[1].channels == settled()[1].channels
    assert settled({"preprocess": {"percentiles": [1, 99]}})[1].channels[0].low == 1
    assert settled({"patch": {"size": [96, 64, 32]}})[1].patch_size == (96, 64, 32)
    assert settled({"train": {"batch_size": 5}})[1].batch_size == 5


def test_the_strides_stay_with_another_patch() -> None:
    # By itself, the dataset would have other strides for this patch.
    plan = settled({"patch": {"size": [4, 8, 4]}})[1]
    assert plan.strides == GIVEN.strides and plan.patch_size == (4, 8, 4)
    with pytest.raises(UserError, match="multiples of \\[4, 4, 2\\]"):
        settled({"patch": {"size": [50, 48, 24]}})
    fewer = settled({"patch": {"voxels": 20_000}})[1]
    assert fewer.strides == GIVEN.strides
    assert np.prod(fewer.patch_size) < np.prod(GIVEN.patch_size)
    assert not (np.array(fewer.patch_size) % GIVEN.divisors).any()
    whole = settled({"patch": {"size": "whole"}})[1]
    assert whole.whole and whole.batch_size == 1
    assert not (np.array(whole.patch_size) % GIVEN.divisors).any()


def test_whole_volumes_are_those_of_the_new_data() -> None:
    given = GIVEN.model_copy(update={"whole": True, "batch_size": 1})
    config, plan = settled(given=given, shape=(200, 100, 60))
    assert plan.whole and config.patch.size == "whole"
    # Of 0.7 · 0.7 · 2 mm, on voxels of 1 · 1 · 3 mm.
    assert plan.patch_size == (140, 72, 40)


def test_another_network_has_a_plan_of_its_own() -> None:
    config, plan = settled({"network": {"channels": [8, 16]}})
    assert plan.features == [8, 16] and len(plan.strides) == 2
    assert plan.spacing == GIVEN.spacing
    config, plan = settled({"network": {"name": "monai.SegResNet", "init_filters": 8}})
    assert config.network.model_dump() == {"name": "monai.SegResNet", "init_filters": 8}
    # The heads are no matter of the plan.
    assert settled({"network": {"deep_supervision": False}})[1] == settled()[1]


def test_images_of_other_channels_have_intensities_of_their_own() -> None:
    wanted = {"foreground": np.ones((10, 2), "float32")}
    cases = {"case": survey(**wanted)}
    named = dataset({"tumour": 1}, ("T1", "T2"))
    config = inherited_config(Config(), THEIRS, GIVEN)
    plan = inherited_plan(Config(), config, THEIRS, GIVEN, named, cases)
    assert [one.name for one in plan.channels] == ["T1", "T2"]
    assert plan.channels[0].low == 1
