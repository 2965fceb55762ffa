"""Commands that meet another process at their output: one line, and nothing written or removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from seg3d.cli import main
from tests.volumes import write_nifti
from tests.writers import another_writer


@pytest.mark.parametrize("command", ["convert", "synth", "evaluate"])
def test_an_output_that_is_being_written(tmp_path: Path, command: str) -> None:
    labels = [write_nifti(tmp_path / name / "a.nii.gz", (4, 5, 6)) for name in ("one", "other")]
    out = tmp_path / "new" / "out"
    survey = ["faults", "--out", out, "--count", 1, "--shape", 16, 16, 16]
    arguments, output = {
        "convert": ([labels[0], out / "a.nrrd"], out / "a.nrrd"),
        "synth": (survey, out / "dataset.json"),
        "evaluate": ([*labels, "--output", out], out / "metrics.json"),
    }[command]

    def run() -> tuple[int, str]:
        done = CliRunner().invoke(main, [command, *map(str, arguments)])
        return done.exit_code, done.stderr

    with another_writer(output):
        status, said = run()
        assert status == 2
        assert said.startswith(f"error: {output} is being written by another process")
        assert said.count("\n") == 1
    assert not out.exists()
    assert run() == (0, "")
    assert output.exists() and not any(one.name.startswith(".") for one in out.iterdir())
