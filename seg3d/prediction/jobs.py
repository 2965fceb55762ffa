"""Which files belong to which case, and where its prediction goes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seg3d.common.errors import UserError
from seg3d.common.files import require_folder
from seg3d.io import SEGY, SUFFIXES, is_plain_folder, is_volume, stem, suffix
from seg3d.prediction.legend import LEGEND

FIRST_CHANNEL = "_0000"
# What the class probabilities have behind the name of the labels beside them.
PROBABILITIES = "_probabilities"
# What the prediction of a DICOM series is.
WITHOUT_SUFFIX = ".nii.gz"


@dataclass(frozen=True)
class Job:
    """One prediction to be made.

    Attributes:
        images: one file per channel, or one with all channels.
        output: the label file to write.
        folder_of_many: the output lies in a folder that was made for predictions.
    """

    images: tuple[Path, ...]
    output: Path
    folder_of_many: bool = field(default=False, compare=False)

    @property
    def probabilities(self) -> Path:
        """Where the class probabilities go if they are asked for."""
        ending = suffix(self.output)
        return self.output.with_name(f"{stem(self.output)}{PROBABILITIES}{ending}")

    @property
    def legend(self) -> Path:
        """Where it is written what the label values mean."""
        return self.output.with_name(LEGEND if self.folder_of_many else legend_name(self.output))


def legend_name(output: Path) -> str:
    """Name of the legend of a prediction that is alone."""
    return f"{stem(output)}_{LEGEND}"


def plan_jobs(inputs: Sequence[str | Path], output: str | Path) -> list[Job]:
    """Which files belong to which case, and where its prediction goes.

    Files ``NAME_0000``, ``NAME_0001``, ... of one folder are the channels of NAME; a number
    without such a beginning is part of the name.

    Args:
        inputs: files, and folders whose volumes are taken.
        output: a folder; or, for a single case, the file to write.

    Raises:
        UserError: if there is nothing to predict, or outputs would collide with each other or with
            inputs.
    """
    output = Path(output)
    cases = list(_cases({path for one in inputs for path in _volumes(Path(one))}))
    if not cases:
        raise UserError(
            f"no volume in {', '.join(map(str, inputs))}",
            legal=f"{', '.join(SUFFIXES)}, or folders of DICOM files",
        )
    as_file = output.name.lower().endswith(SUFFIXES) and not is_plain_folder(output)
    if as_file and len(cases) > 1:
        raise UserError(
            f"--output {output} is one file, but there are {len(cases)} cases to predict",
            fix="give a folder",
        )
    if not as_file and output.is_file():
        raise UserError(
            f"--output {output} is a file",
            legal=f"a folder, or a name ending in {', '.join(SUFFIXES)}",
        )
    require_folder(output.parent, "--output")
    jobs = [
        Job(images, output)
        if as_file
        else Job(images, output / (name + (suffix(images[0]) or WITHOUT_SUFFIX)), True)
        for name, images in cases
    ]
    written = [job.output.resolve() for job in jobs]
    if len(set(written)) < len(written):
        twice = next(path for path in written if written.count(path) > 1)
        raise UserError(f"two inputs would both be written to {twice}", fix="predict them apart")
    # A level that is read lies in the store that would be overwritten.
    read = {
        place
        for job in jobs
        for path in job.images
        for place in (path.resolve(), *path.resolve().parents)
    }
    if overwritten := read.intersection(written):
        raise UserError(
            f"the prediction would overwrite its input {overwritten.pop()}",
            fix="give another --output",
        )
    return jobs


def require_room_for_probabilities(jobs: Sequence[Job], class_names: Sequence[str]) -> None:
    """Require that class probabilities can be written in the formats of the outputs.

    Raises:
        UserError: if one of them is SEG-Y, and there are more than two classes.
    """
    for job in jobs:
        if suffix(job.probabilities) in SEGY and len(class_names) > 2:
            raise UserError(
                "--probabilities: SEG-Y holds one number for each sample",
                given=f"{job.probabilities}, classes {', '.join(class_names)}",
                legal="two classes, of which the second one's probability is written",
                fix="name another format, survey by survey: --output NAME.nii.gz",
            )


def _cases(files: set[Path]) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Name and channels of every case, sorted."""
    used: set[Path] = set()
    for path in sorted(files):
        if path in used:
            continue
        name, channels = stem(path), [path]
        ending = path.name.removeprefix(name)
        if name.endswith(FIRST_CHANNEL):
            name = name.removesuffix(FIRST_CHANNEL)
            others = (path.with_name(f"{name}_{number:04d}{ending}") for number in range(1, 10_000))
            channels += itertools.takewhile(files.__contains__, others)
        used.update(channels)
        yield name, tuple(channels)


def _volumes(path: Path) -> list[Path]:
    if is_plain_folder(path):
        return sorted(
            file for file in path.iterdir() if is_volume(file) and not file.name.startswith(".")
        )
    if not path.exists():
        raise UserError(f"{path} does not exist", legal="volumes, or folders of volumes")
    suffix(path)
    return [path]
