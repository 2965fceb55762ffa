"""``seg3d check`` as people type it: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.broken import fingerprint_of, image, label, moved, write_case, write_good
from tests.conftest import Cli


def test_from_a_broken_dataset_to_a_clean_copy(cli: Cli, tmp_path: Path) -> None:
    root = write_good(tmp_path / "data")
    voxels = image().astype("float32")
    voxels[0, 0, 0] = np.nan
    write_case(root, "x", voxels, label() * 255, label_affine=moved(3, 0, 0))
    before = fingerprint_of(root)

    report = tmp_path / "out" / "report.json"
    copy = tmp_path / "copy"
    done = cli("check", root, "--json", report, "--fix", copy, "--nan", "0")
    for words in (
        "cases: 4 with label", "8 × 9 × 10", "1 × 1 × 2 mm", "RAS", "255: ", " ml",
        "error: image and label do not lie on the same voxels (1)",
        "error: voxels that are NaN or infinite (1)",
        "warning: masks of 0 and 255 (1)",
        "4 cases: 2 errors, 1 warning",
        f"repaired copy: {copy}",
        "labels/x.nii.gz: affine of the image copied; 255 replaced by 1",
        "images/x.nii.gz: NaN and infinities replaced by 0",
        "the copy: 4 cases: nothing is wrong",
    ):  # fmt: skip
        assert words in done.stdout
    content = json.loads(report.read_text())
    assert content["errors"] == 2 and content["repairs"]["left"] == []
    assert fingerprint_of(root) == before

    # Without FILE, JSON is all that is printed. The status tells errors from nothing.
    printed = cli("check", root, "--json", status=2)
    assert json.loads(printed.stdout)["problems"] == content["problems"]
    cli("check", copy)


def test_warnings_have_a_status_of_their_own(cli: Cli, tmp_path: Path) -> None:
    root = write_good(tmp_path / "data")
    write_case(root, "x", labels=label() * 0)
    done = cli("check", root, "--set", "data.labels={liver: 1}", status=1)
    assert "warning: nothing but background in the label (1)" in done.stdout
    assert "liver 1: " in done.stdout
    refused = cli("check", root, "--nan", "0", status=2)
    assert "--nan says what a repaired copy holds" in refused.stderr and not refused.stdout
