"""The config: every key can be set, every mistake is said once and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from seg3d.common.errors import UserError
from seg3d.common.yaml_text import in_one_line, parse_yaml
from seg3d.config import (
    MONAI_NETWORKS,
    AugmentConfig,
    Config,
    HorizonsConfig,
    MonaiNetworkConfig,
    UNet3dConfig,
    config_from_tree,
    config_tree,
    documented_keys,
    ignored_overrides,
    load_config,
    save_config,
)
from seg3d.config.ignored import keys_without_effect
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
KEYS = {key: default for key, default, *_ in documented_keys()}
# For every key a value other than its default, as it is typed after --set and as it arrives.
OTHER_VALUES: dict[str, tuple[str, Any]] = {
    "data.folder": ("2024-05-01", "2024-05-01"),
    "data.files.images": ("[CASE/t1.nii]", ["CASE/t1.nii"]),
    "data.files.label": ("CASE/seg.nii", "CASE/seg.nii"),
    "data.labels": ("{liver: 1, vessels: [2, 3]}", {"liver": 1, "vessels": [2, 3]}),
    "data.regions_class_order": ("[2, 1]", [2, 1]),
    "data.folds": ("3", 3),
    "data.fold": ("2", 2),
    "data.cache": ("1.5GiB", 1.5 * 2**30),
    "data.workers": ("0", 0),
    "plan.memory": ("8GiB", 8 * 2**30),
    "plan.file": ("plan.yaml", "plan.yaml"),
    "preprocess.orientation": ("LPI", "LPI"),
    "preprocess.spacing": ("[1, 1.5, 3]", [1, 1.5, 3]),
    "preprocess.intensity": ("ct", "ct"),
    "preprocess.percentiles": ("[1, 99]", [1, 99]),
    "patch.size": ("[64, 64, 32]", [64, 64, 32]),
    "patch.voxels": ("1000000", 1_000_000),
    "patch.foreground": ("0.33", 0.33),
    "augment.flip.prob": ("0", 0),
    "augment.flip.axes": ("[2, 0]", [2, 0]),
    "augment.affine.prob": ("1", 1),
    "augment.affine.degrees": ("15", 15),
    "augment.affine.axes": ("[2]", [2]),
    "augment.affine.zoom": ("[0.9, 1.1]", [0.9, 1.1]),
    "augment.elastic.prob": ("0.2", 0.2),
    "augment.elastic.sigma": ("[3, 4]", [3, 4]),
    "augment.elastic.magnitude": ("[10, 20]", [10, 20]),
    "augment.bias_field.prob": ("0.2", 0.2),
    "augment.bias_field.strength": ("0.5", 0.5),
    "augment.contrast.prob": ("0.2", 0.2),
    "augment.contrast.gamma": ("[0.5, 2]", [0.5, 2]),
    "augment.noise.prob": ("0.2", 0.2),
    "augment.noise.std": ("1e-2", 0.01),
    "augment.blur.prob": ("0.2", 0.2),
    "augment.blur.sigma": ("[1, 1]", [1, 1]),
    "augment.low_resolution.prob": ("0.2", 0.2),
    "augment.low_resolution.zoom": ("[0.25, 1]", [0.25, 1]),
    "network.name": ("monai.SegResNet", "monai.SegResNet"),
    "network.preset": ("resenc-l", "resenc-l"),
    "network.channels": ("[8, 16]", [8, 16]),
    "network.deep_supervision": ("false", False),
    "probing.sketch": ("2bit", "2bit"),
    "probing.bits": ("0.25", 0.25),
    "probing.rank": ("8", 8),
    "probing.streamed": ("true", True),
    "loss.dice": ("0", 0),
    "loss.cross_entropy": ("0.5", 0.5),
    "loss.batch_dice": ("false", False),
    "loss.tversky": ("[0.3, 0.7]", [0.3, 0.7]),
    "loss.focal": ("2", 2),
    "loss.class_weights": ("{fault: 4}", {"fault": 4}),
    "train.epochs": ("7", 7),
    "train.iterations_per_epoch": ("7", 7),
    "train.batch_size": ("7", 7),
    "train.accumulate": ("7", 7),
    "train.init_from": ("runs/other", "runs/other"),
    "train.freeze": ("[encoder.*, heads.*]", ["encoder.*", "heads.*"]),
    "train.lr_factors": ("{encoder.*: 0.1}", {"encoder.*": 0.1}),
    "train.optimizer": ("adamw", "adamw"),
    "train.learning_rate": ("3e-4", 3e-4),
    "train.weight_decay": ("0", 0),
    "train.momentum": ("0", 0),
    "train.warmup": ("0.1", 0.1),
    "train.clip": ("null", None),
    "train.amp": ("off", "off"),
    "train.max_time": ("1.5h", 5400),
    "train.seed": ("4294967295", 2**32 - 1),
    "validation.every": ("1", 1),
    "validation.overlap": ("0.5", 0.5),
    "predict.windows": ("whole", "whole"),
    "predict.overlap": ("0", 0),
    "predict.mirror": ("true", True),
    "predict.folds": ("[0, all]", [0, "all"]),
    "predict.window_batch": ("4", 4),
}


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def value_of(config: Config, key: str) -> Any:
    value: Any = config_tree(config)
    for part in key.split("."):
        value = value[part]
    return value


def mistakes(*overrides: str, tree: dict[str, Any] | None = None) -> str:
    with pytest.raises(UserError) as raised:
        config_from_tree(tree or {}, overrides, source="c.yaml")
    return str(raised.value)


def test_the_file_and_set_are_each_blamed_for_their_own_mistakes():
    good, bad = {"train": {"epochs": 5}}, {"train": {"epochs": 0}}
    assert mistakes("train.epochs=0", tree=good).startswith("--set: train.epochs\n")
    assert mistakes("train.seed=1", tree=bad).startswith("c.yaml: train.epochs\n")


# Setting keys


@pytest.mark.parametrize(
    ("text", "arrives"),
    [("exact", "exact"), ("1", 1.0), ('{"encoder.0.*": 4, "*": exact}', None)],
)
def test_bits_of_all_layers_or_of_each(text: str, arrives: Any) -> None:
    bits = config_from_tree({}, (f"probing.bits={text}",)).probing.bits
    assert bits == (arrives if arrives is not None else {"encoder.0.*": 4.0, "*": "exact"})


@pytest.mark.parametrize("text", ["3", "none", '{"*": 0.3}', "true"])
def test_bits_that_there_are_not(text: str) -> None:
    assert "probing.bits" in mistakes(f"probing.bits={text}")


@pytest.mark.parametrize("key", KEYS)
def test_set_takes_the_default_as_it_is_documented(key):
    assert config_from_tree({}, (f"{key}={KEYS[key]}",)) == Config()


@pytest.mark.parametrize("key", KEYS)
def test_set_takes_another_value_and_changes_nothing_else(key):
    text, arrives = OTHER_VALUES[key]
    changed = config_from_tree({}, (f"{key}={text}",))
    assert value_of(changed, key) == arrives
    assert value_of(changed, key) != value_of(Config(), key)
    expected = config_tree(Config())
    *parents, last = key.split(".")
    branch = expected
    for part in parents:
        branch = branch[part]
    if key == "network.name":
        branch.clear()
    branch[last] = arrives
    assert config_tree(changed) == expected


def test_set_wins_over_the_file_and_the_last_one_over_the_others(tmp_path):
    path = written(tmp_path, "train: {epochs: 5, seed: 3}\n")
    config = load_config(path, ("train.epochs=6", "train.epochs=7"))
    assert (config.train.epochs, config.train.seed) == (7, 3)


def test_set_can_build_a_mapping_key_by_key():
    config = config_from_tree({}, ("data.labels.liver=1", "data.labels.vessels=[2, 3]"))
    assert config.data.labels == {"liver": 1, "vessels": [2, 3]}


def test_set_leaves_the_tree_it_is_given_alone():
    tree = {"train": {"epochs": 5}}
    config_from_tree(tree, ("train.epochs=6", "patch.voxels=5"))
    assert tree == {"train": {"epochs": 5}}


@pytest.mark.parametrize(
    "text, seconds",
    [("90s", 90), ("1.5m", 90), ("2 min", 120), (".5H", 1800), ("1d", 86400), ("45", 45)],
)
def test_times(text, seconds):
    assert config_from_tree({}, (f"train.max_time={text}",)).train.max_time == seconds


@pytest.mark.parametrize(
    "text, size", [("1KiB", 1024), ("2 MB", 2e6), ("8gib", 2**33), ("1TB", 1e12)]
)
def test_sizes(text, size):
    assert config_from_tree({}, (f"data.cache={text}",)).data.cache == size


# Keys without effect


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.momentum=0.9"], []),
        (["train.optimizer=adamw", "train.momentum=0.9"],
         ["train.momentum has no effect: train.optimizer is adamw"]),
        (["train.warmup=0.1"], ["train.warmup has no effect: train.optimizer is sgd"]),
        (["train={warmup: 0.1, epochs: 3}"],
         ["train.warmup has no effect: train.optimizer is sgd"]),
        (["loss.dice=0", "loss.tversky=[0.3, 0.7]"],
         ["loss.tversky has no effect: loss.dice is 0"]),
        (["loss.cross_entropy=0", "loss.class_weights={fault: 3}"],
         ["loss.class_weights.fault has no effect: loss.cross_entropy is 0"]),
        (["probing.rank=8"], ["probing.rank has no effect: probing.sketch is rotated"]),
        (["probing.sketch=orthogonal", "probing.rank=8", "probing.bits=1"],
         ["probing.bits has no effect: probing.sketch is orthogonal"]),
        (["patch.size=[16, 16, 16]", "patch.voxels=9"],
         ["patch.voxels has no effect: patch.size is given"]),
        (["preprocess.percentiles=[1, 99]"], []),
        (["preprocess.intensity=none", "preprocess.percentiles=[1, 99]"],
         ["preprocess.percentiles has no effect: preprocess.intensity is none"]),
        (["augment.noise={prob: 0, std: 1}"],
         ["augment.noise.std has no effect: augment.noise.prob is 0"]),
        (["augment.flip.prob=0", "augment.flip.axes=[2]"], []),
        (["augment.flip.axes=[]", "predict.mirror=true"],
         ["predict.mirror has no effect: augment.flip.axes is empty"]),
        (["train.epochs=3", "train.epochs=4"],
         ["train.epochs has no effect: it is set again after that"]),
        (["train.epochs=3", "train={seed: 4}"],
         ["train.epochs has no effect: it is set again after that"]),
    ],
)  # fmt: skip
def test_keys_that_other_keys_make_useless(overrides: list[str], said: list[str]) -> None:
    config = config_from_tree({}, tuple(overrides))
    expected = [f"--set {one}." for one in said]
    assert ignored_overrides(config, overrides) == expected


def test_every_key_that_may_be_useless_is_a_key() -> None:
    odd = config_from_tree(
        {
            "augment": {name: {"prob": 0} for name in AugmentConfig.model_fields},
            "loss": {"dice": 0},
            "probing": {"sketch": "exact"},
            "train": {"optimizer": "adamw"},
            "patch": {"size": [8, 8, 8]},
            "preprocess": {"intensity": "zscore"},
        }
    )
    useless = [key for key in KEYS if ignored_overrides(odd, [f"{key}={KEYS[key]}"])]
    assert set(useless) == keys_without_effect(odd).keys()


# Networks


def test_another_network_does_not_inherit_arguments():
    tree = {"network": {"name": "monai.SegResNet", "init_filters": 8}}
    unet = config_from_tree(tree, ("network.name=UNet3d",)).network
    assert unet == UNet3dConfig()
    other = config_from_tree(tree, ("network.name=monai.VNet", "network.bias=true")).network
    assert isinstance(other, MonaiNetworkConfig)
    assert other.arguments == {"bias": True}


def test_naming_the_same_network_again_keeps_its_arguments():
    tree = {"network": {"name": "monai.SegResNet", "init_filters": 8}}
    assert config_from_tree(tree, ("network.name=monai.SegResNet",)) == config_from_tree(tree)


@pytest.mark.parametrize("name", MONAI_NETWORKS)
def test_monai_networks_and_their_arguments_survive_storing(tmp_path, name):
    network = {"name": name, "strides": [[2, 2, 2], [1, 2, 2]], "act": ["prelu", {"init": 0.2}]}
    config = config_from_tree({"network": network})
    save_config(config, tmp_path / "stored.yaml")
    assert load_config(tmp_path / "stored.yaml") == config
    assert config_tree(config)["network"] == network


@pytest.mark.parametrize("name", ["monai.Unet", "UNet3D", "5", "null", "[]", "{a: 1}"])
def test_a_network_that_is_not_known(name):
    message = mistakes(f"network.name={name}")
    assert message.startswith(f"--set: network.name\n  given: {name}\n  legal: UNet3d, monai.")
    assert all(known in message for known in MONAI_NETWORKS)


# Files


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_survive_storing(tmp_path, path):
    config = load_config(path)
    save_config(config, tmp_path / "stored.yaml")
    assert load_config(tmp_path / "stored.yaml") == config
    assert config_from_tree(config_tree(config)) == config
    assert [file.name for file in tmp_path.iterdir()] == ["stored.yaml"]


@given(
    folder=st.none() | st.text(min_size=1).filter(lambda text: text.isprintable()),
    labels=st.none()
    | st.dictionaries(
        st.text(), st.integers(-(2**31), 2**31) | st.lists(st.integers(0, 300)), min_size=1
    )
    | st.fixed_dictionaries(
        {"rest": st.sampled_from(["background", "ignore", 7])},
        optional={"liver": st.integers(-(2**40), 2**40)},
    ),
    rate=st.just("auto") | st.floats(1e-300, 1e30),
    spacing=st.sampled_from(["auto", "none"]) | st.tuples(*[st.floats(1e-9, 1e9)] * 3),
)
def test_any_config_survives_storing(tmp_path_factory, folder, labels, rate, spacing):
    config = config_from_tree(
        {
            "data": {"folder": folder, "labels": labels},
            "train": {"learning_rate": rate},
            "preprocess": {"spacing": spacing},
        }
    )
    path = tmp_path_factory.mktemp("stored") / "config.yaml"
    save_config(config, path)
    assert load_config(path) == config


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "train:\n",
        "train:\n  # epochs: 5\npatch:\n",
        "augment:\n  flip:\n",
        "network:\n",
    ],
)
def test_what_is_commented_out_has_its_default(tmp_path, text):
    assert load_config(written(tmp_path, text)) == Config()


@pytest.mark.parametrize("text", ["5", "[1, 2]", "text"])
def test_a_file_without_keys(tmp_path, text):
    with pytest.raises(UserError, match=r"config .*config.yaml holds no keys"):
        load_config(written(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "\ttrain: 5",
        "train: {epochs: 5",
        "train: !!python/object/apply:os.getcwd []",
        "train: &x {epochs: 5}\npatch: *y",
    ],
)
def test_a_file_that_is_not_yaml(tmp_path, text):
    with pytest.raises(
        UserError, match=r"config .*config.yaml is not valid YAML\n  given: (.|\n)*line \d"
    ):
        load_config(written(tmp_path, text))


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match=r"config.yaml is not valid YAML"):
        load_config(tmp_path / "config.yaml")


def test_a_file_that_is_not_there(tmp_path):
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(UserError, match=f"config {path} does not exist or is not a file"):
            load_config(path)


def test_a_key_that_stands_twice(tmp_path):
    with pytest.raises(UserError, match=r"epochs stands there twice\n.*line 3"):
        load_config(written(tmp_path, "train:\n  epochs: 5\n  epochs: 6\n"))


@pytest.mark.parametrize("text", ["off", "on", "yes", "no", "2024-05-01", "2024-13-01", "n"])
def test_words_and_dates_are_text(text):
    assert parse_yaml(f"{{{text}: {text}}}") == {text: text}


@pytest.mark.parametrize("text, value", [("true", True), ("False", False), ("~", None), ("5", 5)])
def test_other_plain_values_are_what_they_look_like(text, value):
    assert parse_yaml(text) is value or parse_yaml(text) == value != text


def test_values_in_one_line():
    value = {"a": [1, 2.5, None, True, "off"], "b": "x" * 200}
    text = in_one_line(value)
    assert "\n" not in text
    assert yaml.safe_load(text) == parse_yaml(text) == value


# Mistakes

LEGAL_LABELS = (
    "mapping of class names to integers or lists of integers, and of rest to background or ignore; "
    "or null, or horizons (see below)"
)


@pytest.mark.parametrize(
    "key, given, legal",
    [
        ("train.epochs", "0", "integer ≥ 1"),
        ("train.epochs", "true", "integer ≥ 1"),
        ("train.epochs", "1.5", "integer ≥ 1"),
        ("train.epochs", "10.0", "integer ≥ 1"),
        ("train.epochs", "'10'", "integer ≥ 1"),
        ("train.epochs", "null", "integer ≥ 1"),
        ("train.epochs", "[1]", "integer ≥ 1"),
        ("train.epochs", "{x: 1}", "integer ≥ 1"),
        ("train.seed", "-1", "integer ≥ 0 and < 4294967296"),
        ("train.seed", "4294967296", "integer ≥ 0 and < 4294967296"),
        ("train.learning_rate", "0", "auto or number > 0"),
        ("train.learning_rate", "-1", "auto or number > 0"),
        ("train.learning_rate", "true", "auto or number > 0"),
        ("train.learning_rate", ".inf", "auto or number > 0"),
        ("train.learning_rate", ".nan", "auto or number > 0"),
        ("train.learning_rate", "1e400", "auto or number > 0"),
        ("train.learning_rate", "fast", "auto or number > 0"),
        ("train.momentum", "1", "number ≥ 0 and < 1"),
        ("train.momentum", ".nan", "number ≥ 0 and < 1"),
        ("train.clip", "0", "number > 0 or null"),
        ("train.amp", "true", "auto, bf16, fp16 or off"),
        ("train.amp", "'on'", "auto, bf16, fp16 or off"),
        ("train.optimizer", "adam", "sgd or adamw"),
        ("train.max_time", "2x", "a time (90s, 30m, 2h) or null"),
        ("train.max_time", "1.2.3h", "a time (90s, 30m, 2h) or null"),
        ("train.max_time", "0s", "a time (90s, 30m, 2h) or null"),
        ("train.max_time", "true", "a time (90s, 30m, 2h) or null"),
        ("data.cache", "lots", "auto or a size (512MiB, 8GiB)"),
        ("data.cache", "8h", "auto or a size (512MiB, 8GiB)"),
        ("data.cache", "true", "auto or a size (512MiB, 8GiB)"),
        ("data.workers", "-1", "auto or integer ≥ 0 and ≤ 1024"),
        ("data.workers", "false", "auto or integer ≥ 0 and ≤ 1024"),
        ("train.batch_size", "1000000000", "integer ≥ 1 and ≤ 4096 or auto"),
        ("train.epochs", "1" + "0" * 30, "integer ≥ 1"),
        ("train.learning_rate", "1e+300", "auto or number > 0"),
        ("network.channels", f"[{10**30}, 16]", "auto or list of two or more integers ≥ 1"),
        ("data.folder", "5", "text or null"),
        ("patch.size", "[64, 64]", "auto, whole or [integer ≥ 1, integer ≥ 1, integer ≥ 1]"),
        ("patch.size", "[64, 64, 0]", "auto, whole or [integer ≥ 1, integer ≥ 1, integer ≥ 1]"),
        ("patch.size", "64", "auto, whole or [integer ≥ 1, integer ≥ 1, integer ≥ 1]"),
        ("patch.size", "large", "auto, whole or [integer ≥ 1, integer ≥ 1, integer ≥ 1]"),
        ("patch.foreground", "1.5", "number ≥ 0 and ≤ 1"),
        ("patch.foreground", ".nan", "number ≥ 0 and ≤ 1"),
        ("patch.foreground", "true", "number ≥ 0 and ≤ 1"),
        ("preprocess.spacing", "[1, 1, -1]", "auto, none or [number > 0, number > 0, number > 0]"),
        (
            "preprocess.spacing",
            "[1, 1, .inf]",
            "auto, none or [number > 0, number > 0, number > 0]",
        ),
        (
            "preprocess.spacing",
            "[1, 1, 1, 1]",
            "auto, none or [number > 0, number > 0, number > 0]",
        ),
        ("preprocess.orientation", "RRS", "three letters, one each of R/L, A/P and S/I, or none"),
        ("preprocess.orientation", "RASL", "three letters, one each of R/L, A/P and S/I, or none"),
        ("preprocess.orientation", "5", "three letters, one each of R/L, A/P and S/I, or none"),
        ("preprocess.percentiles", "[99, 1]", "[smaller, larger], from 0 to 100"),
        ("preprocess.percentiles", "[0, 101]", "[smaller, larger], from 0 to 100"),
        ("augment.flip.axes", "[0, 3]", "list of 0, 1, 2, each at most once"),
        ("augment.flip.axes", "[0, 0]", "list of 0, 1, 2, each at most once"),
        ("augment.affine.zoom", "[1.4, 0.7]", "[smaller, larger], both > 0"),
        ("augment.affine.zoom", "[0, 1]", "[smaller, larger], both > 0"),
        ("network.channels", "[8]", "auto or list of two or more integers ≥ 1"),
        ("network.channels", "[8, 0]", "auto or list of two or more integers ≥ 1"),
        ("network.deep_supervision", "maybe", "true or false"),
        (
            "data.labels",
            "{0: background, 1: liver}",
            LEGAL_LABELS,
        ),
        (
            "data.labels",
            "{liver: 1.5}",
            LEGAL_LABELS,
        ),
        ("data.labels", "{liver: background}", LEGAL_LABELS),
        ("data.labels", "{liver: 1, rest: background, ignore: ignore}", LEGAL_LABELS),
        ("data.labels", "{liver: 1, rest: liver}", LEGAL_LABELS),
        ("data.labels", "{liver: 1, rest: [background]}", LEGAL_LABELS),
        (
            "data.regions_class_order",
            "[]",
            "list of integers, one for each name in data.labels but background, ignore and rest "
            "or null",
        ),
        (
            "train.freeze",
            "[a.*, a.*]",
            "list of parameter names, each once (* stands for anything)",
        ),
        (
            "train.lr_factors",
            "{encoder.*: 0}",
            "mapping of parameter names (* stands for anything) to numbers > 0",
        ),
        ("loss.tversky", "[0, 1]", "[of false alarms, of misses], both > 0"),
        ("loss.class_weights", "{fault: 0}", "mapping of class names to numbers > 0"),
        ("loss", "{dice: 0, cross_entropy: 0}", "dice and cross_entropy should not both be 0"),
        ("augment.flip", "5", "keys prob, axes"),
        ("network", "UNet3d", "keys name, preset, channels, deep_supervision"),
    ],
)
def test_a_wrong_value_is_said_once_with_key_given_and_legal(key, given, legal):
    assert mistakes(f"{key}={given}") == f"--set: {key}\n  given: {given}\n  legal: {legal}"


HORIZONS = {"horizons": ["top.dat", "base.dat"]}


@pytest.mark.parametrize(
    "given",
    [
        HORIZONS,
        HORIZONS | {"layers": ["a", "b", "a"], "columns": ["x", "_", "y", "time"], "scale": -1},
        HORIZONS | {"reach": 0, "columns": ["time", "inline", "crossline"]},
    ],
)
def test_labels_from_horizons(given):
    config = config_from_tree({"data": {"labels": given}})
    assert isinstance(config.data.labels, HorizonsConfig)
    assert config_from_tree(config_tree(config)) == config
    assert config.data.labels.model_dump(exclude_unset=True) == given


@pytest.mark.parametrize("values", ["1", "[1, 2]"])
def test_a_class_may_be_called_horizons(values):
    config = config_from_tree({}, (f"data.labels={{horizons: {values}, faults: 3}}",))
    assert config.data.labels == {"horizons": parse_yaml(values), "faults": 3}


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("horizons", "top.dat", "list of file names, each once"),
        ("horizons", "[]", "list of file names, each once"),
        ("horizons", "[a, a]", "list of file names, each once"),
        ("horizons", "[a, 5]", "list of file names, each once"),
        ("columns", "[x, time]", "list of time and either inline and crossline or x and y, with _ "
         "for other columns or null"),
        ("scale", "0", "number other than 0"),
        ("reach", "-1", "number ≥ 0"),
        ("layers", "5", "list of names or null"),
    ],
)  # fmt: skip
def test_wrong_labels_from_horizons(key, value, said):
    keys = {"horizons": "[a, b]"} | {key: value}
    given = ", ".join(f"{name}: {text}" for name, text in keys.items())
    message = mistakes(f"data.labels={{{given}}}")
    assert message == f"--set: data.labels.{key}\n  given: {value}\n  legal: {said}"


def test_layers_are_one_more_than_horizons():
    message = mistakes("data.labels={horizons: [a, b], layers: [x, y]}")
    assert "data.labels\n" in message and "legal: 3 layers for 2 horizons" in message


@pytest.mark.parametrize("key", KEYS)
def test_every_key_says_its_own_name_when_it_is_wrong(key):
    message = mistakes(f"{key}={{nested: {{too: deep}}}}")
    assert message.startswith(f"--set: {key}\n  given: {{nested: {{too: deep}}}}\n  legal: ")
    assert message.count("legal:") == 1


@pytest.mark.parametrize(
    "key, meant",
    [
        ("train.epoch", "; did you mean train.epochs?"),
        ("trian.epochs", "; did you mean train?"),
        ("network.chanels", "; did you mean network.channels?"),
        ("augment.affine.rotate", ""),
        ("seed", "; did you mean train.seed?"),
        ("train.sketch", "; did you mean probing.sketch?"),
    ],
)
def test_an_unknown_key_is_said_with_the_known_ones(key, meant):
    message = mistakes(f"{key}=5")
    name = key.split(".")[0] if key.startswith("trian") else key
    assert message.startswith(f"--set: {name} is not a key{meant}\n  legal: ")
    beside = [
        known.removeprefix(f"{name.rpartition('.')[0]}.").split(".")[0]
        for known in KEYS
        if known.startswith(f"{name.rpartition('.')[0]}.") or "." not in name
    ]
    assert message.endswith(f"legal: {', '.join(dict.fromkeys(beside))}")


def test_keys_that_are_no_text():
    assert mistakes(tree={"train": {1: 2}}).startswith("c.yaml: train.1 is not a key\n  legal: ")


def test_several_mistakes_are_said_together():
    message = mistakes(tree={"train": {"epochs": "x", "seed": -1}, "patch": {"siz": 3}})
    assert message.count("legal:") == 3
    assert all(key in message for key in ("train.epochs", "train.seed", "patch.siz"))


@pytest.mark.parametrize(
    "override", ["train", "=5", "train.=5", ".epochs=5", "train..epochs=5", ""]
)
def test_set_that_is_not_understood(override):
    assert mistakes(override) == (
        f"--set is not understood\n  given: {override}\n  legal: key.sub=value"
    )


def test_set_of_a_value_that_is_not_yaml():
    assert mistakes("train.epochs=[1").startswith("--set train.epochs: the value is not valid YAML")


def test_set_of_a_key_below_a_value():
    assert mistakes("train.epochs.x=1", tree={"train": {"epochs": 5}}) == (
        "--set train.epochs.x: epochs has no keys below it\n  given: 5"
    )


def test_of_many_mistakes_the_first_are_said() -> None:
    with pytest.raises(UserError, match="and 92 more mistakes") as caught:
        config_from_tree({"patch": {f"key{number}": 1 for number in range(100)}})
    assert len(str(caught.value)) < 1000


# The reference


def test_the_reference_has_every_key_once_with_its_default_and_what_is_legal():
    rows = documented_keys()
    assert set(OTHER_VALUES) == set(KEYS)
    assert len(rows) == len(KEYS)
    for key, default, legal, _ in rows:
        assert parse_yaml(default) == value_of(Config(), key), key
        assert legal, key
