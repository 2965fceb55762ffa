"""Checkpoints are whole or absent, run no code, and bring back every random state."""

from __future__ import annotations

import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seg3d.common.errors import UserError
from seg3d.plan import ChannelIntensity, build_network
from seg3d.runs.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    restore_random_states,
    save_checkpoint,
    seed_random_states,
    trained_network,
)
from tests.full_disk import files_no_longer_than
from tests.plans import classes, small_config, small_plan

CONFIG = small_config(
    data={"labels": {"background": 0, "liver": [1, 7]}, "cache": "2GiB"},
    network={"name": "monai.SegResNet", "init_filters": 8},
    train={"max_time": "2h"},
)
PLAN = small_plan(
    spacing=(0.75, 1 / 3, 5.0),
    classes=classes([0, 9], [-3], [300]),
    channels=[ChannelIntensity(name="CT", kind="ct", low=-1.5, high=2e3, mean=0.1, std=1e-6)],
)


def store(path: Path, **state: Any) -> Path:
    save_checkpoint(path, CONFIG, PLAN, {"network": {"weight": torch.arange(300.0)}} | state)
    return path


def drawn() -> tuple[Any, ...]:
    return random.random(), random.gauss(0, 1), np.random.normal(), torch.rand(3).tolist()


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    path = store(tmp_path / "deep" / "er" / "last.pt", position={"step": 3, "sums": {"dice": 0.1}})
    config, plan, content = load_checkpoint(path)
    assert config == CONFIG and plan == PLAN
    assert torch.equal(content["network"]["weight"], torch.arange(300.0))
    assert content["position"] == {"step": 3, "sums": {"dice": 0.1}}
    assert set(content["versions"]) == {"seg3d", "python", "torch", "monai", "numpy"}
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    stored = []
    # A text of its own, as if it had been read.
    for name, word in (("one/last.pt", "liver"), ("other/best.pt", "".join(["li", "ver"]))):
        drawn()
        seed_random_states(7)
        path = store(tmp_path / name, bits={"liver": [word, {word: (word,)}]})
        stored.append(path.read_bytes())
    assert stored[0] == stored[1]


def test_random_states_are_restored_exactly(tmp_path: Path) -> None:
    # An odd number of Gaussians leaves a cached one in each generator.
    random.gauss(0, 1), np.random.normal(), torch.rand(1)
    path = store(tmp_path / "last.pt")
    expected = [drawn() for _ in range(3)]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    restore_random_states(load_checkpoint(path)[2])
    assert [drawn() for _ in range(3)] == expected


def test_saving_and_loading_draw_nothing(tmp_path: Path) -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = drawn()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    load_checkpoint(store(tmp_path / "last.pt"))
    assert drawn() == expected


def test_a_failure_leaves_the_last_checkpoint_as_it_was(tmp_path: Path) -> None:
    path = store(tmp_path / "last.pt")
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        # The tensor is written before the function turns out not to be storable.
        store(path, network={"weight": torch.zeros(10**5)}, position=lambda: None)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


class Payload:
    """Pickled, it would write a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.target, "executed")


@pytest.mark.parametrize("plain", [True, False])
def test_code_in_a_file_is_not_run(tmp_path: Path, plain: bool) -> None:
    evil, target = tmp_path / "evil.pt", tmp_path / "target"
    content = {"format": 1, "network": Payload(target)}
    if plain:
        evil.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, evil)
    with pytest.raises(UserError, match=r"evil\.pt is damaged or not a checkpoint") as caught:
        load_checkpoint(evil)
    assert not target.exists()
    # torch's advice to switch the safety off is not passed on.
    assert "weights_only" not in str(caught.value) and len(str(caught.value).splitlines()) == 2
    pickle.loads(pickle.dumps(content))
    assert target.exists()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store(tmp_path_factory.mktemp("good") / "last.pt")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_files(tmp_path: Path, good: Path, share: float) -> None:
    content = good.read_bytes()
    path = tmp_path / "part.pt"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"part\.pt is damaged"):
        load_checkpoint(path)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=200))
def test_random_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bytes.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bytes\.pt is damaged"):
        load_checkpoint(path)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_flipped_bytes_are_read_or_explained(tmp_path: Path, good: Path, data: Any) -> None:
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 10))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "flipped.pt"
    path.write_bytes(bytes(content))
    try:
        load_checkpoint(path)
    except UserError as error:
        assert "flipped.pt" in str(error)


@pytest.mark.parametrize(
    "content",
    [3, "text", [1, 2], None, torch.zeros(3), {}, {"weight": torch.zeros(3)}, {"format": 1}],
)
def test_other_peoples_files(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt is damaged or not a checkpoint of seg3d"):
        load_checkpoint(tmp_path / "other.pt")


def test_another_format(tmp_path: Path) -> None:
    path = store(tmp_path / "last.pt", format=99, versions={"seg3d": "9.9"})
    with pytest.raises(UserError, match=r"is of format 99(.|\n)*wrote it \(9\.9\)"):
        load_checkpoint(path)


def test_which_checkpoint_to_predict_with(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        find_checkpoint(tmp_path / "nothing")
    with pytest.raises(UserError, match="does not exist"):
        load_checkpoint(tmp_path / "nothing.pt")
    with pytest.raises(UserError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)
    last = store(tmp_path / "checkpoints" / "last.pt")
    assert find_checkpoint(tmp_path) == last
    best = store(tmp_path / "checkpoints" / "best.pt")
    assert find_checkpoint(tmp_path) == best
    assert find_checkpoint(last) == last


def repacked(source: Path, target: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    return target


def test_packed_records_are_refused_before_they_are_unpacked(tmp_path: Path, good: Path) -> None:
    assert load_checkpoint(repacked(good, tmp_path / "same.pt"))[0] == CONFIG
    big = store(tmp_path / "big.pt", network={"weight": torch.zeros(10**6)})
    bomb = repacked(big, tmp_path / "bomb.pt", zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 50_000
    with pytest.raises(UserError, match=r"bomb\.pt is damaged.*\n.*its records are packed"):
        load_checkpoint(bomb)


@pytest.mark.parametrize(
    "weight, what",
    [
        (torch.tensor([1.0, float("nan")]), "not finite"),
        (torch.tensor([1.0, -float("inf")], dtype=torch.float16), "not finite"),
        (torch.arange(3), "floating-point"),
        ([1.0, 2.0], "floating-point"),
        (torch.zeros(1).expand(10**6, 10**6), "larger than what is stored"),
    ],
)
def test_weights_that_are_none(tmp_path: Path, weight: Any, what: str) -> None:
    path = store(tmp_path / "last.pt", network={"conv.weight": weight})
    with pytest.raises(UserError, match=rf"is damaged.*\n.*conv\.weight .*{what}"):
        load_checkpoint(path)


def test_a_config_that_stands_for_billions_of_values(tmp_path: Path) -> None:
    value: Any = ["x"]
    for _ in range(20):
        value = [value] * 10
    path = store(tmp_path / "last.pt")
    content = torch.load(path, weights_only=True)
    torch.save(content | {"config": {"network": {"name": "monai.UNet", "act": value}}}, path)
    with pytest.raises(UserError, match=r"is damaged.*\n.*there are more than 1000000 parts"):
        load_checkpoint(path)


NETWORK_CONFIG = small_config(network={"channels": [3, 4], "deep_supervision": False})
NETWORK_PLAN = small_plan()


def trained(**changes: Any) -> dict[str, Any]:
    network = build_network(NETWORK_CONFIG, NETWORK_PLAN)
    return {"network": network.state_dict() | changes}


def test_the_network_of_a_checkpoint(tmp_path: Path) -> None:
    content = trained()
    network = trained_network(tmp_path, NETWORK_CONFIG, NETWORK_PLAN, content)
    assert network.state_dict().keys() == content["network"].keys()
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, content["network"][name])


def test_weights_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    name, *_ = trained()["network"]
    for content, what in (
        (trained(**{name: torch.zeros(7)}), rf"the weight {name} has shape \(7,\)"),
        (trained(other=torch.zeros(7)), "of another network, such as other"),
        ({"network": {}}, "of another network"),
        ({"network": None}, "is damaged"),
    ):
        with pytest.raises(UserError, match=what) as caught:
            trained_network(path, NETWORK_CONFIG, NETWORK_PLAN, content)
        assert len(str(caught.value)) < 500


def test_a_plan_of_a_network_that_no_memory_holds(tmp_path: Path) -> None:
    plan = NETWORK_PLAN.model_copy(update={"features": [10**7, 10**8]})
    with pytest.raises(UserError, match=r"the weight \S+ has shape"):
        trained_network(tmp_path / "last.pt", NETWORK_CONFIG, plan, trained())


def test_a_plan_of_patches_that_the_network_does_not_take(tmp_path: Path) -> None:
    plan = NETWORK_PLAN.model_copy(update={"patch_size": (16, 16, 17)})
    with pytest.raises(UserError, match="is damaged.*\n.*patches are no multiples of its strides"):
        trained_network(tmp_path / "last.pt", NETWORK_CONFIG, plan, trained())


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": []},
        {"classes": [{"name": "background", "values": [0]}, {"name": "a", "values": []}]},
        {"classes": [{"name": "background", "values": [0]}, {"name": "a", "values": [10**30]}]},
        {"channels": []},
        {"channels": [{"name": "CT", "kind": "ct", "std": 0}]},
        {"channels": [{"name": "CT", "kind": "ct", "mean": float("nan")}]},
        {"orientation": "RAR"},
        {"spacing": [0, 1, 1]},
        {"typical_spacing": [1, 1, float("inf")]},
        {"patch_size": [-16, 16, 16]},
        {"kernels": []},
        {"strides": [[0, 1, 1]]},
        {"features": [3.5]},
        {"ignore": ["x"]},
    ],
    ids=str,
)
def test_a_damaged_plan(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = store(tmp_path / "last.pt", plan=PLAN.model_dump(mode="json") | changes)
    with pytest.raises(UserError, match=r"last\.pt is damaged"):
        load_checkpoint(path)


def test_a_full_disk_is_explained_and_leaves_what_was_there(tmp_path: Path) -> None:
    path = store(tmp_path / "last.pt")
    before = path.read_bytes()
    with (
        pytest.raises(UserError, match=r"last\.pt: no more space on the disk"),
        files_no_longer_than(20_000),
    ):
        store(path, network={"weight": torch.zeros(10**5)})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]
