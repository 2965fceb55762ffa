"""Long predictions through the command line: killed and resumed, shared, and bounded in RAM."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from rich.console import Console

from seg3d.common.errors import UserError
from seg3d.io import read_header
from seg3d.io.convert import convert_volume
from seg3d.plan import build_network
from seg3d.prediction.jobs import Job
from seg3d.prediction.predictor import Predictor
from seg3d.prediction.tiling import choose_tiling
from seg3d.runs.checkpoint import save_checkpoint
from tests.conftest import Cli, command, environment
from tests.plans import classes, small_config, small_plan
from tests.ram import peak_growth, sparse_nifti

SHAPE = (20, 16, 100)
# Volumes whose last step takes long or has several parts; killed there, and gone on with or not.
PACKED = (".nii.gz", ".ome.zarr")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and a long volume."""
    folder = tmp_path_factory.mktemp("inputs")
    plan = small_plan(classes=classes([0], [1], [2]), patch_size=(16, 16, 16))
    torch.manual_seed(0)
    state = {"network": build_network(small_config(), plan).state_dict()}
    save_checkpoint(folder / "network.pt", small_config(), plan, state)
    noise = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    nib.save(nib.nifti1.Nifti1Image(noise, np.eye(4)), folder / "scan.nii")
    return folder


def arguments(inputs: Path, folder: Path) -> list[object]:
    return [
        "predict", inputs / "network.pt", inputs / "scan.nii", "--output", folder / "scan.nii",
        "--probabilities", "--device", "cpu", "--set", "predict.overlap=0.7",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cli: Cli, inputs: Path) -> dict[str, bytes]:
    """What an uninterrupted process writes."""
    folder = tmp_path_factory.mktemp("whole")
    cli(*arguments(inputs, folder))
    return written(folder)


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_killed_prediction_goes_on_to_the_same_bytes(
    tmp_path: Path, cli: Cli, inputs: Path, whole: dict[str, bytes]
) -> None:
    process = subprocess.Popen(command(*arguments(inputs, tmp_path)), env=environment(), text=True)
    wait_for_notes(process, tmp_path)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not names(tmp_path)
    cli(*arguments(inputs, tmp_path), "--resume")
    assert written(tmp_path) == whole


def test_a_second_prediction_is_refused_and_a_terminated_one_says_how_to_go_on(
    tmp_path: Path, cli: Cli, inputs: Path
) -> None:
    process = subprocess.Popen(
        command(*arguments(inputs, tmp_path)), env=environment(), stderr=subprocess.PIPE, text=True
    )
    wait_for_notes(process, tmp_path)
    # That the second one tries to go on makes no difference.
    process.send_signal(signal.SIGSTOP)
    refused = cli(*arguments(inputs, tmp_path), "--resume", status=2).stderr
    assert refused.startswith(f"error: {tmp_path / 'scan.nii'} is being written by another process")
    assert refused.count("\n") == 1
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    assert process.communicate()[1] == "interrupted\n  --resume continues it\n"
    assert process.returncode == 130
    assert [path.name for path in tmp_path.iterdir()] == [".scan.nii.unfinished"]


def wait_for_notes(process: subprocess.Popen[str], folder: Path) -> None:
    """Until some, but not all, of a prediction is done."""
    notes = folder / ".scan.nii.unfinished" / "done_0.jsonl"
    while process.poll() is None and not (notes.is_file() and notes.read_text().count("\n") > 2):
        time.sleep(0.01)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


# For each output a process of its own, killed when all is packed but nothing has its name yet.
KILLED_AT_THE_END = """
import os, signal, sys
from pathlib import Path
import torch
from seg3d.common import files
from seg3d.prediction.jobs import Job
from seg3d.prediction.predictor import Predictor

def end(self):
    if self.path.name.startswith("scan"):
        os.kill(os.getpid(), signal.SIGKILL)
    finish(self)

finish = files.UnfinishedFile.finish
files.UnfinishedFile.finish = files.UnfinishedFolder.finish = end
checkpoint, scan, *outputs = map(Path, sys.argv[1:])
for output in outputs:
    if os.fork():
        assert os.wait()[1] == signal.SIGKILL
    else:
        Predictor.from_checkpoint(checkpoint, torch.device("cpu")).run(Job((scan,), output))
"""


def written_there(output: Path) -> set[str]:
    return {path.name for path in output.parent.iterdir()}


def test_a_prediction_killed_while_it_is_packed_leaves_nothing_behind(
    tmp_path: Path, inputs: Path
) -> None:
    outputs = [tmp_path / str(n) / f"scan{end}" for n, end in enumerate(PACKED)]
    program = [sys.executable, "-c", KILLED_AT_THE_END, inputs / "network.pt", inputs / "scan.nii"]
    subprocess.run([*program, *outputs], env=environment(), check=True)
    one = Predictor.from_checkpoint(inputs / "network.pt", torch.device("cpu"))
    for number, output in enumerate(outputs):
        assert not names(output.parent)
        one.run(Job((inputs / "scan.nii",), output), resume=number == 0)
        assert written_there(output) == {output.name, "scan_labels.json"}
        assert read_header(output).grid.shape == SHAPE


def test_a_prediction_killed_while_it_tidies_up_is_finished(tmp_path: Path, inputs: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(b"whole")
    rest = tmp_path / ".scan.nii.unfinished"
    rest.mkdir()
    (rest / "labels.npy").touch()
    one = Predictor.from_checkpoint(inputs / "network.pt", torch.device("cpu"))
    one.run(Job((inputs / "scan.nii",), tmp_path / "scan.nii"), resume=True)
    # And evaluation is told what its values mean.
    assert written_there(tmp_path / "scan.nii") == {"scan.nii", "scan_labels.json"}
    assert (tmp_path / "scan.nii").read_bytes() == b"whole"


@pytest.mark.parametrize("name", ["scan.nii", "scan.ome.zarr"])
def test_what_cannot_be_replaced_is_said_before_the_work(
    tmp_path: Path, inputs: Path, name: str
) -> None:
    """And so before anything that lies there is touched."""
    output = tmp_path / name
    output.mkdir()
    (output / "notes.txt").touch()
    one = Predictor.from_checkpoint(inputs / "network.pt", torch.device("cpu"))
    with pytest.raises(UserError, match=name):
        one.run(Job((inputs / "scan.nii",), output), advance=lambda _: pytest.fail("too late"))
    assert list(tmp_path.iterdir()) == [output]


def test_two_processes_write_the_bytes_of_one(
    tmp_path: Path, inputs: Path, whole: dict[str, bytes]
) -> None:
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*two, "-m", "seg3d", *map(str, arguments(inputs, tmp_path))],
        env=environment(), check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert written(tmp_path) == whole


def test_an_interrupted_prediction_has_noted_each_plane_once(
    tmp_path: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few slices it writes at once; and it goes on with the batch it was begun with."""
    monkeypatch.setattr(
        "seg3d.prediction.streaming.choose_tiling",
        lambda *given: replace(choose_tiling(*given), slices_written=1),
    )
    job = Job((inputs / "scan.nii",), tmp_path / "scan.nii")
    settings = ("predict.overlap=0.5", "predict.window_batch=2")
    one = Predictor.from_checkpoint(inputs / "network.pt", torch.device("cpu"), settings)
    done = 0

    def interrupt(windows: int) -> None:
        nonlocal done
        done += windows
        if done > one.windows(job) / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.run(job, advance=interrupt)
    folder = tmp_path / ".scan.nii.unfinished"
    notes = [json.loads(line)[0] for line in (folder / "done_0.jsonl").read_text().splitlines()]
    # Windows of 16 slices begin at 0, 8, 16, ...
    assert notes == [[start, start + 8] for start in range(0, 8 * len(notes), 8)]
    assert len(notes) >= 5
    assert json.loads((folder / "task.json").read_text())["tiling"]["window_batch"] == 2
    one.run(job, resume=True)
    again = Job(job.images, tmp_path / "again.nii")
    one.run(again)
    assert job.output.read_bytes() == again.output.read_bytes()


def test_no_scores_are_held_beyond_a_window(tmp_path: Path, inputs: Path) -> None:
    """Of all classes, over more than the thickness of a window, while the network works."""
    one = Predictor.from_checkpoint(
        inputs / "network.pt", torch.device("cpu"), ("predict.overlap=0",)
    )
    most = 0

    def look(*ignored: object) -> None:
        nonlocal most
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in gc.get_objects()
            if type(tensor) is torch.Tensor and tensor.ndim == 4 and len(tensor) == 3
        }
        most = max(most, sum(storages.values()))

    one.network.register_forward_pre_hook(look)
    one.run(Job((inputs / "scan.nii",), tmp_path / "scan.nii"))
    assert 0 < most <= 16 * 3 * 4 * SHAPE[0] * SHAPE[1]


def test_too_little_memory_says_how_much_would_do(tmp_path: Path, inputs: Path) -> None:
    job = Job((inputs / "scan.nii",), tmp_path / "out" / "scan.nii")
    one = Predictor.from_checkpoint(inputs / "network.pt", torch.device("cpu"), memory=2**20)
    with pytest.raises(UserError, match=r"given: 1\.00 MiB .*\n  legal: at least 6\d\d\.\d+ MiB"):
        one.run(job)
    assert not job.output.parent.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".ome.zarr", ".sgy"])
def test_a_folder_that_cannot_be_written_to(inputs: Path, ending: str) -> None:
    job = Job((inputs / "scan.nii",), Path("/proc/new") / f"scan{ending}")
    with pytest.raises(UserError, match="/proc/new: nothing can be written there"):
        Predictor.from_checkpoint(inputs / "network.pt", torch.device("cpu")).run(job)
    with pytest.raises(UserError, match="/proc/new: nothing can be written there"):
        convert_volume(inputs / "scan.nii", job.output, Console(quiet=True))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_what_is_written_in_the_end_is_never_mapped_whole(tmp_path: Path) -> None:
    """Mapped pages count as RAM of the process: 128 MiB of labels take a few blocks of 16 MiB."""
    sparse_nifti(tmp_path / "scan.nii", (256, 256, 2048))
    program = (
        "import numpy as np\n"
        "from seg3d.data.case_reader import CaseReader\n"
        "from seg3d.prediction.predictor import _write\n"
        "from seg3d.prediction.tiling import Tiling\n"
        "from seg3d.prediction.unfinished import Task, Unfinished\n"
        "from tests.plans import small_plan\n"
        "unfinished = Unfinished(Path('labels.nii'))\n"
        "with CaseReader([Path('scan.nii')], small_plan()) as case:\n"
        "    arrays = {'labels': (np.dtype(np.uint8), 1)}\n"
        "    tiling = Tiling((2, 2, 2), ((0, 1), (0, 1)), 1, False, 1, 1)\n"
        "    unfinished.begin(Task({}, tiling, []), case.grid_map.stored, arrays)\n"
        "    unfinished.write('labels', (slice(5, 6), slice(7, 8), slice(9, 10)), 1)\n"
        "    begin()\n    _write(Path('labels.nii'), unfinished, 'labels', case, "
        "np.zeros(1, np.uint8))"
    )
    assert peak_growth(program, folder=tmp_path) < 4 * 16 + 16
    labels = np.asarray(nib.load(tmp_path / "labels.nii").dataobj)
    assert labels.sum() == labels[9, 7, 5] == 1
