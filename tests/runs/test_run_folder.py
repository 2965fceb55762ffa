"""Starting and resuming a run: what is stored, and what may change."""

from __future__ import annotations

from pathlib import Path

import pytest

from seg3d.common.errors import UserError
from seg3d.config import Config, config_from_tree, save_config
from seg3d.runs.run_folder import (
    FIXED_KEYS,
    Run,
    changed_keys,
    require_new_run,
    resume_run,
    sole_user,
)


def config(*overrides: str) -> Config:
    return config_from_tree({}, overrides)


@pytest.fixture
def stored(tmp_path: Path) -> Run:
    """A run that has a checkpoint."""
    run = Run(tmp_path / "runs" / "one")
    save_config(config("train.epochs=5", "data.labels={liver: 1}"), run.config)
    run.last.parent.mkdir()
    run.last.touch()
    return run


def test_a_run_that_never_had_a_checkpoint_may_be_started_again(stored):
    stored.last.unlink()
    require_new_run(stored)


def test_a_run_is_not_started_over(stored):
    before = stored.config.read_bytes()
    with pytest.raises(UserError, match=r"already holds a run\n  to do: --resume"):
        require_new_run(stored)
    assert stored.config.read_bytes() == before


@pytest.mark.parametrize("folder", ["file", "file/below", "file/far/below"])
def test_a_run_cannot_lie_in_a_file(tmp_path, folder):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"--run .*{folder}: .*file is a file"):
        require_new_run(Run(tmp_path / folder))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_a_run_cannot_lie_where_nothing_can_be_written():
    # Nor can root.
    with (
        pytest.raises(UserError, match="/proc/run: nothing can be written there"),
        sole_user(Run(Path("/proc/run"))),
    ):
        raise AssertionError


def test_nothing_to_resume(tmp_path):
    with pytest.raises(UserError, match=r"--resume: .* holds no checkpoint to continue from"):
        resume_run(Run(tmp_path), config(), ())


def test_a_resumed_run_keeps_its_config_and_says_where_it_differs(stored):
    asked = config("train.epochs=9", "data.labels={liver: 1}", "predict.mirror=true")
    resumed, differing = resume_run(stored, asked, ())
    assert resumed == config("train.epochs=5", "data.labels={liver: 1}")
    assert differing == ["train.epochs", "predict.mirror"]


def test_keys_that_the_file_leaves_out_do_not_differ(stored):
    assert resume_run(stored, config("data.labels={liver: 1}"), ())[1] == []


def test_a_run_without_its_config(stored):
    stored.config.unlink()
    with pytest.raises(UserError, match=r"config.yaml is missing\n  to do: put it back"):
        resume_run(stored, config(), ())


def test_set_changes_a_resumed_run_for_good(stored):
    overrides = ("train.epochs=9", "loss.dice=0.5")
    resumed, differing = resume_run(stored, config("data.labels={liver: 1}", *overrides), overrides)
    assert (resumed.train.epochs, resumed.loss.dice) == (9, 0.5)
    assert differing == []


@pytest.mark.parametrize(
    "override, key, was, asked",
    [
        ("patch.foreground=0.25", "patch.foreground", "0.5", "0.25"),
        ("preprocess.spacing=none", "preprocess.spacing", "auto", "none"),
        ("train.seed=3", "train.seed", "0", "3"),
        ("train.batch_size=3", "train.batch_size", "2", "3"),
        ("data.labels={liver: 2}", "data.labels.liver", "1", "2"),
        ("data.labels=null", "data.labels", r"\{liver: 1\}", "null"),
        ("data.fold=1", "data.fold", "0", "1"),
        ("network.name=monai.VNet", "network.name", "UNet3d", "monai.VNet"),
    ],
)
def test_what_the_weights_depend_on_stays(stored, override, key, was, asked):
    before = stored.config.read_bytes()
    with pytest.raises(UserError) as raised:
        resume_run(stored, config(), (override,))
    assert raised.match(
        f"{key} cannot change when a run is resumed\n  given: {asked}\n  legal: {was}\n"
    )
    assert stored.config.read_bytes() == before


def test_setting_a_fixed_key_to_what_it_is_changes_nothing(stored):
    assert resume_run(stored, config(), ("train.seed=0",))[0].train.seed == 0


def test_a_mistake_in_set_leaves_the_run_as_it_was(stored):
    before = stored.config.read_bytes()
    with pytest.raises(UserError, match=r"train.epochs\n  given: 0"):
        resume_run(stored, config(), ("train.epochs=0",))
    assert stored.config.read_bytes() == before


def test_changed_keys_are_named_in_dots_wherever_they_are():
    assert changed_keys(config(), config()) == []
    one = config("data.labels={liver: 1, spleen: 2}", "augment.flip.axes=[0]")
    other = config("data.labels={liver: 1, kidney: 2}")
    assert set(changed_keys(one, other)) == {
        "data.labels.spleen",
        "data.labels.kidney",
        "augment.flip.axes",
    }


def test_fixed_keys_are_keys():
    tree = config().model_dump()
    for key in FIXED_KEYS:
        branch = tree
        for part in key.split("."):
            assert part in branch, key
            branch = branch[part]


def test_a_start_removes_what_a_killed_process_was_writing(stored):
    kept = sorted(stored.folder.rglob("*"))
    for path in (stored.last, stored.best, stored.cases, stored.log):
        (path.parent / f".{path.name}.ab12_xyz").touch()
    (stored.folder / ".splits.json.ab12_xyz.json").touch()
    mine = stored.folder / ".notes.txt.ab12_xyz"
    mine.touch()
    with sole_user(stored):
        pass
    assert sorted(stored.folder.rglob("*")) == sorted([*kept, mine, stored.folder / ".lock"])


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    run = Run(tmp_path / "runs" / "one")
    with (
        sole_user(run),
        pytest.raises(UserError, match="another process is training in .*one"),
        sole_user(run),
    ):
        raise AssertionError
    assert not run.folder.exists()
    with sole_user(run):
        run.config.touch()
    with sole_user(run):
        assert run.config.exists()
