"""Several values that make one class, values that count nowhere, and where evaluation learns it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from seg3d.common.errors import UserError
from seg3d.evaluation import Classes, Evaluation, evaluate, find_classes, find_pairs
from seg3d.plan import LabelClass, Plan, build_network
from seg3d.prediction.jobs import plan_jobs
from seg3d.prediction.legend import LEGEND
from seg3d.prediction.predictor import Predictor
from seg3d.runs.checkpoint import save_checkpoint
from tests.conftest import Cli
from tests.plans import small_config, small_plan
from tests.volumes import save_nifti

# Two bones are one class, two values are to be ignored; 7 has no name.
MERGED = {"background": [0], "bones": [25, 78], "liver": [3], "ignore": [200, 201]}
REFERENCE = np.array([0, 25, 78, 3, 200, 201, 7, 78], np.uint8)
PREDICTION = np.array([0, 25, 25, 3, 25, 3, 0, 3], np.uint8)


def merged_plan(**changes: object) -> Plan:
    named = [LabelClass(name=name, values=values) for name, values in MERGED.items()][:3]
    return small_plan(classes=named, ignore=MERGED["ignore"], **changes)


def write_case(root: Path, name: str = "case") -> None:
    for folder, values in (("predictions", PREDICTION), ("references", REFERENCE)):
        (root / folder).mkdir(exist_ok=True)
        save_nifti(root / folder / f"{name}.nii.gz", values.reshape(2, 2, 2))


def compared(root: Path, classes: Classes) -> Evaluation:
    return evaluate(find_pairs(root / "predictions", root / "references"), classes)


def counts(evaluation: Evaluation) -> dict[str, tuple[int, int, int]]:
    """Voxels in the reference, the prediction and both, by the class's name."""
    [overlaps] = evaluation.cases.values()
    return {
        evaluation.names[value]: (
            one.reference_voxels,
            one.predicted_voxels,
            one.intersection_voxels,
        )
        for value, one in overlaps.items()
    }


def test_all_values_of_a_class_are_one_and_ignored_ones_count_nowhere(tmp_path: Path) -> None:
    write_case(tmp_path)
    evaluation = compared(tmp_path, Classes.of(MERGED))
    assert counts(evaluation) == {
        "bones": (3, 2, 2),
        "liver": (1, 2, 1),
        "label 7": (1, 0, 0),
    }
    assert list(evaluation.names) == [3, 7, 25]


@pytest.mark.parametrize(("rest", "liver"), [("background", (1, 2, 1)), ("ignore", (1, 2, 1))])
def test_the_rest_is_no_class(tmp_path: Path, rest: str, liver: tuple[int, int, int]) -> None:
    write_case(tmp_path)
    found = counts(compared(tmp_path, Classes.of({**MERGED, "rest": rest})))
    assert found == {"bones": (3, 2, 2), "liver": liver}


def test_a_value_that_stands_for_a_class_may_be_too_large_for_the_file(tmp_path: Path) -> None:
    write_case(tmp_path)
    found = compared(tmp_path, Classes.of({"bones": [300, 25, 78], "liver": [3]}))
    assert counts(found)["bones"] == (3, 3, 2)


def test_predictions_say_what_their_values_mean(tmp_path: Path) -> None:
    plan, config = merged_plan(rest="background"), small_config()
    (tmp_path / "scans").mkdir()
    save_nifti(tmp_path / "scans" / "a.nii", np.zeros((16, 16, 16), np.float32))
    predictor = Predictor(build_network(config, plan), config, plan, torch.device("cpu"))
    many, alone = tmp_path / "predictions", tmp_path / "alone.nii.gz"
    for output in (many, alone):
        [job] = plan_jobs([tmp_path / "scans"], output)
        predictor.run(job)
    assert (many / LEGEND).is_file() and (tmp_path / f"alone_{LEGEND}").is_file()
    for predictions in (many, many / "a.nii", alone):
        found = find_classes(predictions, tmp_path / "scans")
        assert dict(found.names) == {0: "background", 25: "bones", 3: "liver"}
        assert dict(found.merged) == {78: 25, 201: 200}
        assert (found.ignored, found.rest) == (200, "background")

    other = small_plan()
    wrong = Predictor(build_network(config, other), config, other, torch.device("cpu"))
    [job] = plan_jobs([tmp_path / "scans"], many)
    for refuse in (wrong.windows, wrong.run):
        with pytest.raises(UserError, match="another meaning"):
            refuse(job)
    (many / LEGEND).write_text("{")
    with pytest.raises(UserError, match="another meaning"):
        predictor.run(job)


def test_who_says_it_and_who_wins(tmp_path: Path, cli: Cli) -> None:
    write_case(tmp_path)
    write_case(tmp_path, "other")
    save_nifti(tmp_path / "references" / "other.nii.gz", np.zeros((2, 2, 3), np.uint8))
    plan, config = merged_plan(), small_config()
    network = build_network(config, plan)
    checkpoint = tmp_path / "best.pt"
    save_checkpoint(checkpoint, config, plan, {"network": network.state_dict()})
    given = tmp_path / "given.json"
    given.write_text('{"labels": {"given": [25, 78], "rest": "ignore"}}')
    (tmp_path / "predictions" / LEGEND).write_text('{"labels": {"beside": [25, 78]}}')
    (tmp_path / "references" / "dataset.json").write_text('{"labels": {"dataset": 25}}')

    def evaluated(*options: object) -> str:
        done = cli(
            "evaluate", tmp_path / "predictions", tmp_path / "references", *options, status=1
        )
        # One pair does not lie on the same voxels.
        assert "other cannot be compared" in done.stdout
        return done.stdout

    assert "bones" in evaluated("--run", checkpoint)
    shown = evaluated("--labels", given)
    assert f"classes: {given}" in shown and "given" in shown and "label 3" not in shown
    assert "beside" in evaluated()
    (tmp_path / "predictions" / LEGEND).unlink()
    assert "dataset" in evaluated()
    refused = cli(
        "evaluate", tmp_path / "predictions", tmp_path / "references",
        "--run", checkpoint, "--labels", given, status=2,
    )  # fmt: skip
    assert "give one of them" in refused.stderr


@pytest.mark.parametrize("text", ["{", "[]", '{"labels": {"a": 0.5}}', '{"labels": {}}', "{}"])
def test_a_file_that_should_say_it_and_does_not(tmp_path: Path, text: str) -> None:
    write_case(tmp_path)
    (tmp_path / "predictions" / LEGEND).write_text(text)
    with pytest.raises(UserError, match=LEGEND):
        find_classes(tmp_path / "predictions", tmp_path / "references")
    with pytest.raises(UserError, match="does not exist"):
        find_classes(tmp_path, tmp_path, labels=tmp_path / "nothing.json")
