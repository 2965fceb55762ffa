"""Predictions come back on the grid of their input, voxel by voxel; which files make a job."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, inv_ornt_aff
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from seg3d.common.errors import UserError
from seg3d.geometry import Grid
from seg3d.io import Header, read_volume, write_volume
from seg3d.plan import ChannelIntensity, Plan, build_network
from seg3d.prediction.jobs import Job, plan_jobs
from seg3d.prediction.predictor import Predictor
from seg3d.runs.checkpoint import save_checkpoint
from tests.conftest import Cli
from tests.plans import classes, small_config, small_plan
from tests.volumes import write_nifti

CPU = torch.device("cpu")
VALUES = (0, 7, 300)
CODES = [a + b + c for a in "RL" for b in "AP" for c in "SI"]
CODES += [code[1] + code[2] + code[0] for code in CODES] + [code[::-1] for code in CODES]


class Nearest(nn.Module):
    """Scores highest the class whose number is nearest to the intensity."""

    def forward(self, x: Tensor) -> Tensor:
        numbers = torch.arange(float(len(VALUES)), device=x.device).view(1, -1, 1, 1, 1)
        return -20 * (x[:, :1] - numbers) ** 2


class First(nn.Module):
    """Only so many channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.channels]


def plan_for(**changes: Any) -> Plan:
    return small_plan(
        **{
            "classes": classes([0, 5], [7], [300]),
            "orientation": "RAS",
            "patch_size": (12, 16, 8),
        }
        | changes
    )


def predictor(plan: Plan | None = None, **sections: Any) -> Predictor:
    return Predictor(Nearest(), small_config(**sections), plan or plan_for(), CPU)


def random_classes(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


def smooth_classes(shape: tuple[int, int, int], spacing: tuple[float, ...]) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(0).normal(size=shape), 8 / np.array(spacing))
    return np.digitize(noise, np.quantile(noise, (0.5, 0.8))).astype(np.uint8)


def stored_as(code: str, spacing: tuple[float, ...]) -> np.ndarray:
    """The affine of a volume whose axes point to where ``code`` says."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-40, 13, 7)
    return affine @ inv_ornt_aff(axcodes2ornt(tuple(code)), (9, 10, 11))


OBLIQUE = stored_as("RAS", (1, 1, 1))
OBLIQUE[:3, :3] = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0] * (0.9, 1.1, 2.5)
SHEARED = stored_as("LAS", (1.0, 1.2, 2.0)) @ np.array(
    [[1, 0.2, -0.1, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
)
AFFINES = {code: stored_as(code, (0.8, 1.0, 2.5)) for code in CODES}
AFFINES |= {"oblique": OBLIQUE, "sheared": SHEARED}


def write(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.nifti1.Nifti1Image(voxels, affine), path)
    return path


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


# --- geometry ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AFFINES)
def test_labels_come_back_exactly(tmp_path: Path, name: str) -> None:
    voxels = random_classes((9, 10, 11))
    image = write(tmp_path / "image.nii.gz", voxels, AFFINES[name])
    predictor().run(Job((image,), tmp_path / "out.nii.gz"), probabilities=True)
    done = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(done.dataobj), np.array(VALUES)[voxels])
    np.testing.assert_array_equal(done.affine, nib.load(image).affine)
    probable = nib.load(tmp_path / "out_probabilities.nii.gz")
    assert probable.shape == (9, 10, 11, 3) and probable.get_data_dtype() == np.float32
    np.testing.assert_array_equal(probable.affine, nib.load(image).affine)
    np.testing.assert_allclose(probable.get_fdata().sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(probable.get_fdata().argmax(-1), voxels)


def test_probabilities_in_segy_are_those_of_the_second_of_two_classes(tmp_path: Path) -> None:
    voxels = random_classes((9, 10, 11)).clip(max=1)
    grid = Grid((9, 10, 11), np.diag([25.0, 25.0, 4.0, 1.0]))
    write_volume(tmp_path / "in.sgy", voxels[None].astype(np.float32), Header(grid, 1, None))
    two = plan_for(classes=classes([0], [7]), orientation="none")
    job = Job((tmp_path / "in.sgy",), tmp_path / "out.sgy")
    Predictor(nn.Sequential(Nearest(), First(2)), small_config(), two, CPU).run(
        job, probabilities=True
    )
    np.testing.assert_array_equal(read_volume(job.output).array[0], 7 * voxels)
    np.testing.assert_allclose(read_volume(job.probabilities).array[0], voxels, atol=1e-5)

    job = Job((tmp_path / "in.sgy",), tmp_path / "three.sgy")
    with pytest.raises(UserError, match="three_probabilities.sgy, classes"):
        predictor(plan_for(orientation="none")).run(job, probabilities=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.sgy", "out.sgy", "out_labels.json", "out_probabilities.sgy",
    ]  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 30)] * 3),
    code=st.sampled_from(CODES),
    overlap=st.sampled_from([0.0, 0.3, 0.5]),
    mirror=st.booleans(),
)
def test_any_shape_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    code: str,
    overlap: float,
    mirror: bool,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    voxels = random_classes(shape)
    image = write(folder / "image.nii", voxels, stored_as(code, (1.0, 1.5, 2.0)))
    one = predictor(predict={"overlap": overlap, "mirror": mirror, "window_batch": 3})
    told: list[int] = []
    job = Job((image,), folder / "out.nii")
    one.run(job, advance=told.append)
    np.testing.assert_array_equal(
        np.asanyarray(nib.load(job.output).dataobj), np.array(VALUES)[voxels]
    )
    assert one.windows(job) == sum(told)


@pytest.mark.parametrize("orientation", ["none", "LPI", "SAR"])
def test_any_working_orientation(tmp_path: Path, orientation: str) -> None:
    voxels = random_classes((9, 10, 11))
    image = write(tmp_path / "image.nii", voxels, stored_as("PSL", (1, 2, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = predictor(plan_for(orientation=orientation)).probabilities([image])
    np.testing.assert_array_equal(found.argmax(0), voxels)


@pytest.mark.parametrize("name", ["RAS", "LPI", "SAL", "oblique", "sheared"])
@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (0.7, 1.3, 2.0)])
def test_resampling_there_and_back(
    tmp_path: Path, name: str, spacing: tuple[float, float, float]
) -> None:
    affine = AFFINES[name]
    shape = (47, 38, 29)
    voxels = smooth_classes(shape, tuple(nib.affines.voxel_sizes(affine)))
    image = write(tmp_path / "image.nii", voxels, affine)
    one = predictor(plan_for(spacing=spacing, patch_size=(32, 32, 32)))
    told: list[int] = []
    probable = one.probabilities([image], told.append)
    assert probable.shape == (3, *shape)
    np.testing.assert_allclose(probable.sum(0), 1, atol=1e-4)
    assert probable.min() >= -1e-6 and probable.max() <= 1 + 1e-5
    for number in range(3):
        # Between 0 and 2 the interpolated intensity passes 1: a thin false shell.
        assert dice(probable.argmax(0) == number, voxels == number) > 0.97 or number == 1
    assert dice(probable.argmax(0) > 0, voxels > 0) > 0.97
    assert one.windows(Job((image,), tmp_path / "out.nii")) == sum(told)


# --- what else the file says -------------------------------------------------------------------


def test_the_header_of_the_input_is_kept(tmp_path: Path) -> None:
    voxels = random_classes((9, 10, 11))
    image = nib.nifti1.Nifti1Image(voxels.astype(np.float32), None)
    image.set_qform(stored_as("LAS", (1, 2, 3)), 1)
    image.set_sform(stored_as("LAS", (1, 2, 3)), 4)
    image.header.set_xyzt_units("micron", "sec")
    nib.save(image, tmp_path / "image.nii.gz")
    predictor().run(Job((tmp_path / "image.nii.gz",), tmp_path / "out.nii.gz"))
    before, after = (nib.load(tmp_path / f"{name}.nii.gz").header for name in ("image", "out"))
    assert int(after["qform_code"]) == 1 and int(after["sform_code"]) == 4
    np.testing.assert_array_equal(after.get_qform(), before.get_qform())
    np.testing.assert_array_equal(after.get_sform(), before.get_sform())
    assert after.get_xyzt_units()[0] == "micron"
    assert after.get_data_dtype() == np.int16
    np.testing.assert_array_equal(
        np.asanyarray(nib.load(tmp_path / "out.nii.gz").dataobj), np.array(VALUES)[voxels]
    )


def test_a_file_with_scaled_integers(tmp_path: Path) -> None:
    voxels = random_classes((9, 10, 11))
    image = nib.nifti1.Nifti1Image(voxels * np.int16(1000), np.eye(4))
    image.header.set_slope_inter(0.001, 0)
    nib.save(image, tmp_path / "image.nii")
    predictor().run(Job((tmp_path / "image.nii",), tmp_path / "out.nii"))
    done = nib.load(tmp_path / "out.nii")
    np.testing.assert_array_equal(np.asanyarray(done.dataobj), np.array(VALUES)[voxels])
    assert done.get_data_dtype() == np.int16


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ((0, 1, 255), np.uint8),
        ((0, 1, 256), np.int16),
        ((0, -1, 3), np.int16),
        ((0, 40000, 3), np.int32),
    ],
)
def test_the_smallest_integer_type(values: tuple[int, ...], dtype: type) -> None:
    one = predictor(plan_for(classes=classes(*([value] for value in values))))
    labels = one.labels(np.arange(3).reshape(1, 3, 1, 1))
    assert labels.dtype == dtype and labels.ravel().tolist() == list(values)
    assert labels.shape == (1, 3, 1, 1)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_other_formats(tmp_path: Path, ending: str) -> None:
    voxels = random_classes((11, 10, 9))
    image = sitk.GetImageFromArray(voxels.astype(np.float32))
    image.SetSpacing((1.0, 2.0, 0.5))
    image.SetOrigin((3.0, -4.0, 5.0))
    image.SetDirection((0, 1, 0, 0, 0, -1, -1, 0, 0))
    sitk.WriteImage(image, str(tmp_path / f"scan{ending}"))
    (job,) = plan_jobs([tmp_path / f"scan{ending}"], tmp_path / "out")
    assert job.output == tmp_path / "out" / f"scan{ending}"
    predictor().run(job)
    done = sitk.ReadImage(str(job.output))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(done), np.array(VALUES)[voxels])
    assert done.GetSpacing() == image.GetSpacing() and done.GetOrigin() == image.GetOrigin()
    assert done.GetDirection() == image.GetDirection()
    assert done.GetPixelID() == sitk.sitkInt16


def test_channels_from_several_files_or_from_one(tmp_path: Path) -> None:
    plan = plan_for(channels=[ChannelIntensity(name=name, kind="none") for name in ("T1", "T2")])
    voxels, other = random_classes((9, 10, 11)), random_classes((9, 10, 11), seed=1)
    affine = stored_as("LPS", (1, 2, 3))
    apart = (write(tmp_path / "a_0000.nii", voxels, affine),
             write(tmp_path / "a_0001.nii", other, affine))  # fmt: skip
    whole = (write(tmp_path / "b.nii", np.stack([voxels, other], -1), affine),)
    for images in (apart, whole):
        predictor(plan).run(Job(images, tmp_path / "out.nii"))
        done = nib.load(tmp_path / "out.nii")
        np.testing.assert_array_equal(np.asanyarray(done.dataobj), np.array(VALUES)[voxels])


def test_a_wrong_number_of_channels_is_explained(tmp_path: Path) -> None:
    image = write(tmp_path / "a.nii", random_classes((5, 5, 5, 2)), np.eye(4))
    job = Job((image,), tmp_path / "out.nii")
    with pytest.raises(UserError, match=r"needs 1 channels \(T1\)\n  given: 2 in a.nii"):
        predictor().run(job)
    assert not job.output.exists()


def test_channels_on_different_grids_are_explained(tmp_path: Path) -> None:
    plan = plan_for(channels=[ChannelIntensity(name=name, kind="none") for name in ("T1", "T2")])
    images = (
        write(tmp_path / "a_0000.nii", random_classes((5, 5, 5)), np.eye(4)),
        write(tmp_path / "a_0001.nii", random_classes((5, 5, 5)), np.diag([1, 1, 2, 1])),
    )
    with pytest.raises(UserError, match="same grid"):
        predictor(plan).run(Job(images, tmp_path / "out.nii"))


@pytest.mark.parametrize("harm", ["nan", "truncated"])
def test_a_volume_that_cannot_be_used_is_named_and_leaves_nothing(
    tmp_path: Path, harm: str, capfd: pytest.CaptureFixture[str]
) -> None:
    voxels = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    if harm == "nan":
        voxels[3, 3, 3] = np.nan
    image = write(tmp_path / "image.nii.gz", voxels, np.eye(4))
    if harm == "truncated":
        image.write_bytes(image.read_bytes()[:-9000])
    with pytest.raises(UserError, match=r"image\.nii\.gz"):
        predictor().run(Job((image,), tmp_path / "out" / "label.nii.gz"))
    assert not (tmp_path / "out").exists()
    assert capfd.readouterr() == ("", "")


# --- from a checkpoint -------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config, plan = small_config(), plan_for(patch_size=(16, 16, 16))
    torch.manual_seed(0)
    state = {"network": build_network(config, plan).state_dict()}
    save_checkpoint(tmp_path / "last.pt", config, plan, state)
    return tmp_path / "last.pt"


def test_a_checkpoint_is_all_it_takes(tmp_path: Path, checkpoint: Path) -> None:
    image = write(tmp_path / "a.nii", random_classes((20, 17, 9)), stored_as("LIP", (1, 2, 3)))
    one = Predictor.from_checkpoint(checkpoint, CPU)
    found = one.probabilities([image])
    assert found.shape == (3, 20, 17, 9) and found.std() > 0
    again = Predictor.from_checkpoint(checkpoint, CPU)
    assert not again.network.training
    np.testing.assert_array_equal(found, again.probabilities([image]))


def test_keys_under_predict_can_be_set_and_no_others(checkpoint: Path) -> None:
    one = Predictor.from_checkpoint(checkpoint, CPU, ("predict.overlap=0.2",))
    assert one.config.predict.overlap == 0.2
    for other in ("patch.size=[8,8,8]", "train.epochs=250", "predict={overlap: 0}", "loss.dice=1"):
        if other.startswith("predict"):
            Predictor.from_checkpoint(checkpoint, CPU, (other,))
            continue
        with pytest.raises(UserError, match="--set .*: predictions go by what the network was"):
            Predictor.from_checkpoint(checkpoint, CPU, (other,))


# --- which files make a job --------------------------------------------------------------------


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def jobs(inputs: list[Path], output: Path) -> dict[str, list[str]]:
    """Names of the images by the name of their output."""
    return {
        str(job.output.relative_to(output)): [path.name for path in job.images]
        for job in plan_jobs(inputs, output)
    }


def test_numbered_files_are_the_channels_of_a_case(tmp_path: Path) -> None:
    folder = touch(
        tmp_path / "in", "b_0001.nii.gz", "b_0000.nii.gz", "a_0000.nii.gz", "c.mha", "notes.txt",
        ".hidden.nii.gz", "._b_0000.nii.gz",
    )  # fmt: skip
    assert jobs([folder], tmp_path / "out") == {
        "a.nii.gz": ["a_0000.nii.gz"],
        "b.nii.gz": ["b_0000.nii.gz", "b_0001.nii.gz"],
        "c.mha": ["c.mha"],
    }
    backwards = [folder / "b_0001.nii.gz", folder / "b_0000.nii.gz"]
    assert jobs(backwards, tmp_path / "out") == {"b.nii.gz": ["b_0000.nii.gz", "b_0001.nii.gz"]}


def test_a_number_may_be_part_of_the_name(tmp_path: Path) -> None:
    folder = touch(tmp_path / "in", "mr_2023.nii", "mr_2024.nii", "p_0001.nii", "q_00000.nii")
    assert jobs([folder], tmp_path / "out") == {
        f"{name}.nii": [f"{name}.nii"] for name in ("mr_2023", "mr_2024", "p_0001", "q_00000")
    }


def test_files_of_one_name_in_two_formats_are_two_cases(tmp_path: Path) -> None:
    folder = touch(tmp_path / "in", "a.nii", "a.mha")
    assert jobs([folder], tmp_path / "out") == {"a.nii": ["a.nii"], "a.mha": ["a.mha"]}


def test_a_file_that_is_given_twice_is_one_case(tmp_path: Path) -> None:
    folder = touch(tmp_path / "in", "a.nii")
    assert len(plan_jobs([folder, folder / "a.nii", folder / "a.nii"], tmp_path / "out")) == 1


def test_a_single_case_may_be_written_to_a_file(tmp_path: Path) -> None:
    folder = touch(tmp_path / "in", "a_0000.nii", "a_0001.nii")
    (job,) = plan_jobs([folder], tmp_path / "label.nii.gz")
    assert job.output == tmp_path / "label.nii.gz" and len(job.images) == 2
    assert job.probabilities == tmp_path / "label_probabilities.nii.gz"
    touch(folder, "b.nii")
    with pytest.raises(UserError, match="is one file, but there are 2 cases"):
        plan_jobs([folder], tmp_path / "label.nii.gz")


def test_what_would_be_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = touch(tmp_path / "in", "a.nii")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    for output in (
        folder, folder / "a.nii", Path("in"), Path("link"), tmp_path / "x" / ".." / "in",
    ):  # fmt: skip
        with pytest.raises(UserError, match="would overwrite its input"):
            plan_jobs([folder / "a.nii"], output)
    # A new name beside the input is fine, and so are channels, whose prediction has another name.
    plan_jobs([folder / "a.nii"], folder / "b.nii")
    touch(folder, "c_0000.nii")
    plan_jobs([folder / "c_0000.nii"], folder)


def test_what_cannot_be_predicted(tmp_path: Path) -> None:
    one, two = touch(tmp_path / "1", "a.nii"), touch(tmp_path / "2", "a.nii")
    empty = touch(tmp_path / "empty", "notes.txt")
    with pytest.raises(UserError, match="two inputs would both be written"):
        plan_jobs([one, two], tmp_path / "out")
    with pytest.raises(UserError, match=r"no volume in .*\n.*\.nii, .*, or folders of DICOM files"):
        plan_jobs([empty], tmp_path / "out")
    with pytest.raises(UserError, match=r"notes\.txt"):
        plan_jobs([empty / "notes.txt"], tmp_path / "out")
    with pytest.raises(UserError, match=r"b\.nii does not exist"):
        plan_jobs([one / "b.nii"], tmp_path / "out")
    with pytest.raises(UserError, match="nowhere does not exist"):
        plan_jobs([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(UserError, match="is a file"):
        plan_jobs([one], empty / "notes.txt")
    for below in ("out", "out.nii", "far/out"):
        with pytest.raises(UserError, match=r"--output .*: .*notes\.txt is a file"):
            plan_jobs([one], empty / "notes.txt" / below)


def test_folders_within_folders_give_folders_of_the_same_names(tmp_path):
    for name in ("a.nii", "p/x_0000.nii", "p/x_0001.nii", "p/q/y.nii", ".hidden/z.nii"):
        write_nifti(tmp_path / "in" / name)
    (tmp_path / "in" / "p" / "q" / "circle").symlink_to(tmp_path / "in")
    output = tmp_path / "in" / "out"
    write_nifti(output / "earlier.nii")
    jobs = plan_jobs([tmp_path / "in"], output, recursive=True)
    assert [str(job.output.relative_to(output)) for job in jobs] == [
        "a.nii", "p/q/y.nii", "p/x.nii",
    ]  # fmt: skip
    assert len(jobs[2].images) == 2
    assert len(plan_jobs([tmp_path / "in"], output)) == 1


def test_cases_by_pattern_have_the_name_of_the_case(tmp_path):
    for case in ("Müller 1", "b"):
        for name in ("t1.nii.gz", "t2.nii.gz", "seg.nii.gz"):
            write_nifti(tmp_path / "in" / case / name)
    jobs = plan_jobs(
        [tmp_path / "in"], tmp_path / "out", patterns=["CASE/t2.nii.gz", "CASE/t1.nii.gz"]
    )
    assert [job.output.name for job in jobs] == ["Müller 1.nii.gz", "b.nii.gz"]
    assert [path.name for path in jobs[0].images] == ["t2.nii.gz", "t1.nii.gz"]
    (tmp_path / "in" / "b" / "t1.nii.gz").unlink()
    with pytest.raises(UserError, match=r"--pattern CASE/t1.nii.gz: there is no such volume of b"):
        plan_jobs([tmp_path / "in"], tmp_path, patterns=["CASE/t2.nii.gz", "CASE/t1.nii.gz"])
    with pytest.raises(UserError, match="--recursive and --pattern are both given"):
        plan_jobs([tmp_path / "in"], tmp_path, recursive=True, patterns=["CASE/t2.nii.gz"])
    with pytest.raises(UserError, match="add --recursive"):
        plan_jobs([tmp_path / "in"], tmp_path / "out")


def test_formats_that_are_only_read_give_another_ending(tmp_path):
    nib.save(nib.nifti1.Nifti1Pair(np.zeros((3, 3, 3), "int16"), np.eye(4)), tmp_path / "a.img")
    (job,) = plan_jobs([tmp_path / "a.img", tmp_path / "a.hdr"], tmp_path / "out")
    assert (job.images, job.output.name) == ((tmp_path / "a.hdr",), "a.nii.gz")


def test_what_is_odd_about_scans_is_said(tmp_path: Path, checkpoint: Path, cli: Cli) -> None:
    """Once for all scans, on standard error, in the words of training."""
    for name in ("a", "b"):
        image = nib.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4))
        image.header.set_xyzt_units("micron")
        (tmp_path / "scans").mkdir(exist_ok=True)
        nib.save(image, tmp_path / "scans" / f"{name}.nii.gz")
    done = cli("predict", checkpoint, tmp_path / "scans", "--output", tmp_path / "out")
    (line,) = done.stderr.splitlines()
    assert line.startswith("note: the header gives lengths in micrometres, not in mm: ")
    assert "a.nii.gz" in line and "b.nii.gz" in line
