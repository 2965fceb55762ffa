"""Names that share label values: regions, and the values that are written for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seg3d.common.errors import UserError
from seg3d.config import config_from_tree
from seg3d.data.cases import Dataset
from seg3d.data.layouts import find_dataset
from seg3d.plan import Plan, label_classes, load_plan, named_labels, save_plan
from tests.plans import small_plan
from tests.volumes import write_nifti

BRATS = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}


def regions_of(
    labels: dict[str, Any] | None,
    order: list[int] | None = None,
    dataset: Dataset | None = None,
) -> tuple[dict[str, list[int]], list[int] | None, list[int]]:
    config = config_from_tree({"data": {"labels": labels, "regions_class_order": order}})
    dataset = dataset or Dataset("MSD", Path("data"), ())
    classes, regions, ignore = label_classes(config, dataset, {})
    return {one.name: one.values for one in classes}, regions, ignore


@pytest.mark.parametrize(
    ("labels", "order", "names", "written"),
    [
        (BRATS, None, ["whole", "core", "enhancing"], [1, 2, 3]),
        # Larger ones first, and each value by the first that is in no later region.
        ({"enhancing": 4, "whole": [4, 2, 1], "core": [1, 4]}, None,
         ["whole", "core", "enhancing"], [2, 1, 4]),
        # All of the first is in one of the others.
        ({"both": [1, 2], "one": 1, "two": 2}, None, ["both", "one", "two"], [1, 1, 2]),
        # As it is said, and in the order of the names.
        ({"enhancing": 3, "whole": [1, 2, 3]}, [3, 2], ["enhancing", "whole"], [3, 2]),
        # Then they are regions though they do not overlap.
        ({"fault": 1}, [1], ["fault"], [1]),
    ],
)  # fmt: skip
def test_the_values_that_are_written(
    labels: Any, order: Any, names: list[str], written: list[int]
) -> None:
    classes, regions, _ = regions_of(labels | {"background": 0, "ignore": 9}, order)
    assert list(classes) == names
    assert regions == written
    assert all(value in values for value, values in zip(regions, classes.values(), strict=True))


def test_background_and_ignore_are_no_regions() -> None:
    classes, _, ignore = regions_of(BRATS | {"background": 0, "ignore": [9, 8]})
    assert classes == {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
    assert ignore == [9, 8]


def test_lists_that_do_not_overlap_are_merged_classes() -> None:
    classes, regions, _ = regions_of({"bones": [25, 26], "liver": 1})
    assert list(classes) == ["background", "bones", "liver"]
    assert regions is None


@pytest.mark.parametrize(
    ("labels", "order", "problem"),
    [
        (BRATS | {"background": [0, 3]}, None, "label value 3 belongs to both"),
        (BRATS | {"ignore": 2}, None, "label value 2 belongs to both"),
        (BRATS | {"all": [0, 1]}, None, "label value 1 belongs to both whole and all"),
        (BRATS | {"background": [0, 5]}, None, "background is 0 alone"),
        (BRATS, [1, 2], "does not give a value for each region"),
        (BRATS, [1, 1, 3], "1 is to be written for core, and is not in it"),
    ],
)
def test_regions_that_cannot_be(labels: Any, order: Any, problem: str) -> None:
    config = config_from_tree({"data": {"labels": labels, "regions_class_order": order}})
    with pytest.raises(UserError, match=problem):
        named_labels(config, Dataset("MSD", Path("data"), ()))


def test_an_order_without_names() -> None:
    with pytest.raises(UserError, match="no region is named"):
        regions_of(None, [1, 2])


def written(folder: Path, **content: Any) -> Dataset:
    """A dataset as nnU-Net lays it out."""
    write_nifti(folder / "imagesTr" / "a_0000.nii.gz")
    write_nifti(folder / "labelsTr" / "a.nii.gz")
    described = {"channel_names": {"0": "T1"}, "file_ending": ".nii.gz", **content}
    (folder / "dataset.json").write_text(json.dumps(described))
    return find_dataset(folder)


def test_nnunets_datasets_say_it(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [3, 2], "enhancing": [3]}
    dataset = written(tmp_path, labels=labels, regions_class_order=[1, 2, 3])
    assert regions_of(None, None, dataset)[:2] == (
        {"whole": [1, 2, 3], "core": [3, 2], "enhancing": [3]},
        [1, 2, 3],
    )
    # The order of other names says nothing of those of the config.
    assert regions_of({"a": [1, 2], "b": 1}, None, dataset)[1] == [2, 1]
    assert regions_of(None, [2, 2, 3], dataset)[1] == [2, 2, 3]
    with pytest.raises(UserError, match="regions_class_order"):
        written(tmp_path, labels=labels, regions_class_order=[1, "2", 3])


def plan_of_regions() -> Plan:
    classes = [{"name": "whole", "values": [7, 2, 300]}, {"name": "core", "values": [300, 2]}]
    return Plan.model_validate(small_plan().model_dump() | {"classes": classes, "regions": [7, 2]})


def test_what_a_voxel_can_be_labelled_as() -> None:
    plan = plan_of_regions()
    assert [one.values for one in plan.parts] == [[0], [2], [7], [300]]
    assert plan.membership == [[False, True, True, True], [False, True, False, True]]
    assert plan.named_values == {0, 2, 7, 300}
    assert [one.name for one in plan.sought] == ["whole", "core"]
    plain = small_plan()
    assert plain.parts == plain.classes and plain.membership is None
    assert plain.sought == plain.classes[1:]


def test_the_plan_as_a_file(tmp_path: Path) -> None:
    save_plan(plan_of_regions(), tmp_path / "plan.yaml")
    assert load_plan(tmp_path / "plan.yaml") == plan_of_regions()
    assert "regions: [7, 2]" in (tmp_path / "plan.yaml").read_text()
