"""The wheel, installed where the clone is not, is the same program."""

from __future__ import annotations

import email
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from seg3d.config.shipped import shipped_configs
from tests.conftest import ROOT, environment
from tests.volumes import write_nifti

TINY = [
    "patch.size=[16, 16, 16]",
    "network.channels=[4, 8]",
    "train.epochs=1",
    "train.iterations_per_epoch=1",
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of the clone, and the wheel that was made from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def modules(folder: str) -> set[str]:
    """The Python files below a folder of the clone."""
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")}


class Installed:
    """A new environment that holds the wheel, and sees the dependencies of this one.

    Args:
        folder: for the environment, and to stand in.
        wheel: to be installed.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self._programs = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
        venv.create(folder / "env", symlinks=os.name != "nt")
        self.packages = Path(
            self.run("python", "-c", "import site; print(site.getsitepackages()[0])")
        )
        dependencies = [path for path in sys.path if path.endswith("-packages")]
        # As paths alone: a link to a clone among those packages is not followed.
        (self.packages / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
        pip = [sys.executable, "-m", "pip", "--python", str(self._programs / "python"), "install"]
        subprocess.run([*pip, "--quiet", "--no-index", "--no-deps", str(wheel)], check=True)

    @property
    def environment(self) -> dict[str, str]:
        return {name: text for name, text in environment().items() if name != "PYTHONPATH"}

    def command(self, program: str, *arguments: object) -> list[str]:
        return [str(self._programs / program), *map(str, arguments)]

    def run(self, program: str, *arguments: object, status: int = 0) -> str:
        done = subprocess.run(
            self.command(program, *arguments), cwd=self.folder, env=self.environment,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == status, f"{done.args}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Installed:
    return Installed(tmp_path_factory.mktemp("elsewhere"), wheel)


def test_the_sdist_holds_the_project_and_nothing_of_its_tools(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {"LICENSE", "README.md", "constraints.txt", "PKG-INFO"}
    assert names >= {f"configs/{name}.yaml" for name in shipped_configs()}
    assert names >= modules("seg3d") | modules("tests")
    tops = {name.split("/")[0] for name in names}
    assert tops.isdisjoint({".git", ".ci", ".venv", "runs", "build", "dist", "shared"})


def test_what_the_wheel_says_of_itself(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        said = email.message_from_bytes(archive.read(metadata))
    assert {*names} >= modules("seg3d") | {"seg3d/py.typed"}
    assert {name.split("/")[0] for name in names} == {"seg3d", metadata.split("/")[0]}
    assert said["License-Expression"] == "Apache-2.0" and "Project-URL" not in said
    assert "Typing :: Typed" in said.get_all("Classifier", [])


def test_the_dockerfile_copies_what_the_wheel_is_made_of(wheel: Path, tmp_path: Path) -> None:
    source, allowed = tmp_path / "source", (ROOT / ".dockerignore").read_text().split()
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            *copied, target = line.split()[1:]
            for name in copied:
                assert f"!{name}" in allowed
                whole = ROOT / name
                if whole.is_dir():
                    shutil.copytree(whole, source / target)
                else:
                    (source / target).mkdir(parents=True, exist_ok=True)
                    shutil.copy(whole, source / target)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*build, str(source)], check=True, capture_output=True, text=True)
    (made,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(made) as one, zipfile.ZipFile(wheel) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
    assert (source / "constraints.txt").is_file()


def test_the_clone_is_not_what_runs(installed: Installed) -> None:
    file = installed.run("python", "-c", "import seg3d; print(seg3d.__file__)")
    assert Path(file).is_relative_to(installed.packages)


def test_shipped_configs_are_there(installed: Installed) -> None:
    listed = installed.run("seg3d", "config", "list").splitlines()
    assert [line.split()[0] for line in listed] == list(shipped_configs())
    for name, path in shipped_configs().items():
        assert installed.run("seg3d", "config", "show", name) == path.read_text().strip()


def test_the_commands_of_the_help_text(installed: Installed) -> None:
    """``seg3d --help`` shows the way from a dataset to scores; here it is gone."""
    shown = installed.run("seg3d", "--help")
    train = "seg3d train medical_ct --data Task09_Spleen"
    predict = "seg3d predict runs/medical_ct new_scans/ --output predictions/"
    evaluate = "seg3d evaluate predictions/ references/"
    assert all(line in shown for line in (train, predict, evaluate))
    data = installed.folder / "Task09_Spleen"
    for number, name in enumerate(["images/a", "labels/a", "images/b", "labels/b"]):
        write_nifti(data / f"{name}.nii.gz", (20, 24, 16), seed=number)
    for folder in ("new_scans", "references"):
        write_nifti(installed.folder / folder / "c.nii.gz", (20, 24, 16))
    settings = [word for one in TINY for word in ("--set", one)]
    assert "finished: runs/medical_ct" in installed.run(*train.split(), *settings)
    installed.run(*predict.split())
    assert "mean" in installed.run(*evaluate.split())
    scores = json.loads((installed.folder / "predictions" / "metrics.json").read_text())
    assert len(scores["cases"]) == 1


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_the_demo_begins(installed: Installed) -> None:
    """What it needs is there: it makes its data, plans, and comes to the first step."""
    demo = subprocess.Popen(
        installed.command("seg3d", "demo", "brain"), cwd=installed.folder,
        env=installed.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert demo.stdout
    try:
        for line in demo.stdout:
            if line.startswith("training step 1 "):
                break
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=60)
    finally:
        demo.kill()
    assert demo.returncode == 130 and "interrupted" in errors, errors
    assert (installed.folder / "runs" / "demo_brain" / "checkpoints" / "last.pt").is_file()
