"""Folders that are no models, damaged ones, hostile ones: one message, and nothing is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seg3d.common.errors import UserError
from seg3d.nnunet import import_nnunet
from seg3d.prediction.models import load_model, require_there
from tests.conftest import Cli
from tests.nnunet.conftest import MODELS, scan_of

Copy = Callable[..., Path]


class Foreign:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def checkpoint_of(model: Path) -> Path:
    return model / "fold_0" / "checkpoint_final.pth"


def change(model: Path, changed: Callable[[dict[str, Any]], None]) -> None:
    path = checkpoint_of(model)
    content = torch.load(path, weights_only=False)
    changed(content)
    torch.save(content, path)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        load_model(path)
    return str(refused.value)


# --- checkpoints -------------------------------------------------------------------------------


def hostile(folder: Path, made: Path, where: str | None = None) -> Path:
    """A model whose checkpoint makes a folder for those who unpickle it."""
    if where is None:
        change(folder, lambda content: content.update(more=Foreign(made)))
    else:
        change(folder, lambda content: content[where].update(more=Foreign(made)))
    return folder


@pytest.mark.parametrize("where", ["logging", "network_weights", "init_args", None])
def test_nothing_of_a_checkpoint_is_run(tmp_path: Path, model: Copy, where: str | None) -> None:
    said = refusal(hostile(model(), tmp_path / "made", where))
    assert "asks for code to be run" in said and "mkdir" in said
    assert not (tmp_path / "made").exists()


def test_the_command_line_leaves_nothing_behind(tmp_path: Path, model: Copy, cli: Cli) -> None:
    folder = hostile(model(), tmp_path / "made")
    out = tmp_path / "out" / "labels.nii.gz"
    refused = cli("predict", folder, scan_of("isotropic")[0], "--output", out, status=2)
    assert "Traceback" not in refused.stderr and "asks for code" in refused.stderr
    with pytest.raises(UserError, match="asks for code"):
        import_nnunet(folder, tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {"isotropic"}


def test_a_pickle_without_records_is_refused(tmp_path: Path, model: Copy) -> None:
    folder, made = model(), tmp_path / "made"
    checkpoint_of(folder).write_bytes(pickle.dumps(Foreign(made)))
    assert "damaged or not a checkpoint of nnU-Net" in refusal(folder)
    assert not made.exists()


def test_numbers_of_numpy_are_read_as_plain_ones(model: Copy) -> None:
    folder = model()
    logged = [np.float32(1.5), np.float64(2.5), np.int64(3), np.bool_(True)]
    change(folder, lambda content: content["logging"].update(more=logged))
    assert load_model(folder, ("predict.folds=[0]",)).plan.class_names[0] == "background"


@pytest.mark.parametrize("strange", [np.array([1.0, 2.0]), np.datetime64("2026-01-01")])
def test_other_things_of_numpy_are_refused(model: Copy, strange: Any) -> None:
    folder = model()
    change(folder, lambda content: content["logging"].update(more=strange))
    assert str(checkpoint_of(folder)) in refusal(folder)


@pytest.mark.parametrize("length", [0, 100, 20_000, -10])
def test_torn_checkpoints_are_refused(model: Copy, length: int) -> None:
    folder = model()
    whole = checkpoint_of(folder).read_bytes()
    checkpoint_of(folder).write_bytes(whole[:length])
    assert "damaged or not a checkpoint of nnU-Net" in refusal(folder)


def test_weights_that_are_not_finite_are_refused(model: Copy) -> None:
    folder = model()

    def changed(content: dict[str, Any]) -> None:
        next(iter(content["network_weights"].values()))[0] = np.nan

    change(folder, changed)
    assert "not finite" in refusal(folder)


def test_weights_of_another_network_are_refused(model: Copy) -> None:
    folder = model()

    def changed(content: dict[str, Any]) -> None:
        weights = content["network_weights"]
        weights["encoder.stages.0.0.convs.0.norm.running_mean"] = torch.zeros(4)
        content["trainer_name"] = "nnUNetTrainerBN"

    change(folder, changed)
    said = refusal(folder)
    assert "running_mean" in said and "nnUNetTrainerBN" in said


@pytest.mark.parametrize(("width", "said"), [(5, "shape"), (2**20, "shape"), (2**33, "overflow")])
def test_weights_of_another_width_are_refused(model: Copy, width: int, said: str) -> None:
    def wider(content: dict[str, Any]) -> None:
        network = content["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
        network["features_per_stage"] = [width, 6, 8]

    assert said in refusal(model(plans=wider))


# --- folders -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
def test_what_is_missing_is_named(model: Copy, name: str) -> None:
    folder = model()
    (folder / name).unlink()
    assert f"incomplete model of nnU-Net's: {name} missing" in refusal(folder)


def test_folds_without_checkpoints_are_passed_over(model: Copy) -> None:
    folder = model()
    checkpoint_of(folder).unlink()
    assert not hasattr(load_model(folder).network, "__len__")
    checkpoint_of(folder).parent.rename(folder / "fold_0_old")
    (folder / "fold_1" / "checkpoint_final.pth").rename(folder / "fold_1" / "checkpoint_best.pth")
    load_model(folder)
    (folder / "fold_1" / "checkpoint_best.pth").rename(folder / "fold_1" / "checkpoint_latest.pth")
    assert "no fold holds a checkpoint" in refusal(folder)


def test_a_fold_of_all_cases_is_found(model: Copy) -> None:
    folder = model()
    (folder / "fold_1").rename(folder / "fold_all")
    assert not hasattr(load_model(folder).network, "__len__")
    assert len(load_model(folder, ("predict.folds=[0,all]",)).network) == 2  # type: ignore[arg-type]
    shutil.rmtree(folder / "fold_0")
    load_model(folder)


def test_parts_of_a_model_lead_to_the_whole(model: Copy) -> None:
    folder = model()
    for part in (folder / "fold_0", checkpoint_of(folder), folder / "plans.json"):
        with pytest.raises(UserError, match=f"give {folder}"):
            require_there(part)


def test_the_folder_of_a_dataset_leads_to_its_models(tmp_path: Path, model: Copy) -> None:
    results = tmp_path / "Dataset001_isotropic"
    for kind in ("2d", "3d_lowres", "3d_fullres"):
        shutil.copytree(MODELS / "old" / "model", results / f"nnUNetTrainer__nnUNetPlans__{kind}")
    said = refusal(results)
    assert "several models" in said and "give" in said
    assert said.rstrip().endswith("nnUNetTrainer__nnUNetPlans__3d_fullres")


def test_version_1_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "nnUNetTrainerV2__nnUNetPlansv2.1"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.pkl").write_bytes(pickle.dumps(Foreign(tmp_path / "made")))
    (folder / "fold_0" / "model_final_checkpoint.model.pkl").write_bytes(b"")
    assert "nnU-Net version 1" in refusal(folder)
    with pytest.raises(UserError, match="nnU-Net version 1"):
        import_nnunet(folder, tmp_path / "run")
    assert not (tmp_path / "made").exists()


# --- configurations ----------------------------------------------------------------------------


def of_the_configuration(**values: Any) -> Callable[[Any], None]:
    return lambda content: content["configurations"]["3d_fullres"].update(values)


def of_the_network(**values: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        network = content["configurations"]["3d_fullres"]["architecture"]
        network["arch_kwargs"].update(values)

    return change


def test_2d_and_cascades_name_what_to_use_instead(model: Copy) -> None:
    folder = model()
    change(folder, lambda content: content["init_args"].update(configuration="2d"))
    said = refusal(folder)
    assert "2D" in said and "give the folder of 3d_fullres" in said
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_cascade_fullres"] = {
        "inherits_from": "3d_fullres", "previous_stage": "3d_lowres",
    }  # fmt: skip
    plans["configurations"]["3d_lowres"] = plans["configurations"]["3d_fullres"]
    (folder / "plans.json").write_text(json.dumps(plans))
    change(folder, lambda content: content["init_args"].update(configuration="3d_cascade_fullres"))
    said = refusal(folder)
    assert "cascade" in said and "give the folder of 3d_fullres or 3d_lowres" in said
    change(folder, lambda content: content["init_args"].update(configuration="3d_lowres"))
    assert "different configurations" in refusal(folder)
    assert load_model(folder, ("predict.folds=[0]",)).plan.dataset.count("3d_lowres") == 1


def test_inheritance_in_a_circle_is_refused(model: Copy) -> None:
    assert "circle" in refusal(model(plans=of_the_configuration(inherits_from="3d_fullres")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (of_the_configuration(preprocessor_name="MyPreprocessor"), "preprocessor_name"),
        (of_the_configuration(resampling_fn_data="mine"), "resampling_fn_data"),
        (of_the_configuration(resampling_fn_data_kwargs={"order": 2}), "unusual"),
        (of_the_configuration(normalization_schemes=["Mine"]), "normalization_schemes"),
        (of_the_configuration(normalization_schemes=[]), "normalization_schemes"),
        (of_the_configuration(use_mask_for_norm=[False, True]), "number of channels"),
        (of_the_configuration(patch_size=[32, 32]), "2D"),
        (of_the_configuration(patch_size=[32, 0, 32]), "patch_size"),
        (of_the_configuration(spacing=[1, 1, "wide"]), "spacing"),
        (of_the_network(dropout_op="torch.nn.Dropout3d"), "dropout_op"),
        (of_the_network(norm_op="torch.nn.modules.batchnorm.BatchNorm3d"), "norm_op"),
        (of_the_network(nonlin="torch.nn.ReLU"), "nonlin"),
        (of_the_network(n_conv_per_stage=[2, 3, 2]), "n_conv_per_stage"),
        (of_the_network(n_stages=2), "n_conv_per_stage"),
        (of_the_network(kernel_sizes=[[3, 3, 3]] * 2), "levels"),
        (of_the_network(kernel_sizes=[[2, 3, 3]] * 3), "kernels"),
        (of_the_network(strides=[[1, 1, 1], [2, 2, 2], [0, 2, 2]]), "strides"),
        (of_the_network(strides=["wide"] * 3), "not described well"),
        (lambda content: content.update(transpose_forward=[0, 1, 1]), "transpose_forward"),
        (lambda content: content.update(image_reader_writer="Mine"), "image_reader_writer"),
        (lambda content: content.update(configurations=[]), "no plans"),
        (lambda content: content.update(foreground_intensity_properties_per_channel={}), "channel"),
    ],
)
def test_plans_that_ask_for_something_else_are_refused(
    model: Copy, change: Callable[[Any], None], said: str
) -> None:
    folder = model(plans=change)
    assert said in refusal(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.pop("labels"), '"labels"'),
        (lambda content: content.update(labels={"background": 0, "body": 2}), "without gaps"),
        (lambda content: content.update(labels={"background": 0, "b": [1, 2], "c": 3}),
         "regions_class_order"),
        (lambda content: content.update(channel_names={"0": "CT", "1": "CT"}), "channels"),
        (lambda content: content.update(labels={"background": 0, "body": 1}), "shape"),
    ],
)  # fmt: skip
def test_datasets_that_do_not_fit_are_refused(
    model: Copy, change: Callable[[Any], None], said: str
) -> None:
    assert said in refusal(model(dataset=change))


@pytest.mark.parametrize("name", ["plans", "dataset"])
@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"a": ' * 2000])
def test_malformed_json_is_refused(model: Copy, name: str, text: str) -> None:
    folder = model()
    (folder / f"{name}.json").write_text(text)
    assert str(folder / name) in refusal(folder)
