"""Which files belong to which case, and where its prediction goes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seg3d.common.errors import UserError
from seg3d.common.files import require_folder
from seg3d.common.ranks import Ranks
from seg3d.io import (
    SEGY,
    SUFFIXES,
    WRITTEN,
    header_of,
    images_in,
    is_plain_folder,
    stem,
    suffix,
    volumes_by_case,
    written_suffix,
)
from seg3d.io.folders import folders_below
from seg3d.plan import Plan
from seg3d.prediction.legend import LEGEND

FIRST_CHANNEL = "_0000"
# What the class probabilities have behind the name of the labels beside them.
PROBABILITIES = "_probabilities"


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


def plan_jobs(
    inputs: Sequence[str | Path],
    output: str | Path,
    *,
    recursive: bool = False,
    patterns: Sequence[str] = (),
) -> list[Job]:
    """Which files belong to which case, and where its prediction goes.

    Files ``NAME_0000``, ``NAME_0001``, ... of one folder are the channels of NAME; a number
    without such a beginning is part of the name.

    Args:
        inputs: files, and folders whose volumes are taken.
        output: a folder; or, for a single case, the file to write.
        recursive: take the volumes in folders of these folders too; predictions lie in folders of
            the same names.
        patterns: of the images of each channel in the folders, see `seg3d.io.patterns`, in place of
            all volumes; predictions are named after the cases.

    Raises:
        UserError: if there is nothing to predict, or outputs would collide with each other or with
            inputs.
    """
    output, sources = Path(output), [Path(one) for one in inputs]
    if recursive and patterns:
        raise UserError("--recursive and --pattern are both given", fix="give one of them")
    if patterns:
        cases = [case for one in sources for case in _cases_by_pattern(one, patterns)]
    else:
        volumes = {path: Path() for one in sources for path in _volumes(one)}
        if recursive:
            volumes |= _volumes_below(sources, output)
        cases = list(_cases(volumes))
    if not cases:
        raise UserError(
            f"no volume in {', '.join(map(str, inputs))}",
            legal=f"{', '.join(SUFFIXES)}, or folders of DICOM files",
            fix=None if recursive or patterns else "add --recursive to look into folders in them",
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
            legal=f"a folder, or a name ending in {', '.join(WRITTEN)}",
        )
    require_folder(output.parent, "--output")
    jobs = [
        Job(images, output)
        if as_file
        else Job(images, output / f"{name}{written_suffix(images[0])}", True)
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


def shared_out(windows: Sequence[int], ranks: Ranks) -> tuple[list[int], list[int]]:
    """Which of several jobs all processes make together, and which this one makes alone.

    As many as go round are dealt out, so that all get about as much; the largest that are left
    over, of fewer jobs than processes all, are made together, each process doing some windows.

    Args:
        windows: of each job.
        ranks: the processes; each of them gets the same jobs as its common ones.

    Returns:
        The numbers of the common jobs, and those of this process's own.
    """
    largest_first = sorted(range(len(windows)), key=lambda number: -windows[number])
    common = len(windows) % ranks.count
    own = []
    for turn, place in enumerate(range(common, len(windows), ranks.count)):
        dealt = largest_first[place : place + ranks.count]
        # To and fro, or the first one would always get the largest.
        own.append(dealt[ranks.rank if turn % 2 == 0 else -1 - ranks.rank])
    return sorted(largest_first[:common]), sorted(own)


def require_room_for_probabilities(jobs: Sequence[Job], plan: Plan) -> None:
    """Require that class probabilities can be written in the formats of the outputs.

    Raises:
        UserError: if one of them is SEG-Y, and there are more than two classes, or two regions.
    """
    for job in jobs:
        if suffix(job.probabilities) in SEGY and len(plan.sought) > 1:
            raise UserError(
                "--probabilities: SEG-Y holds one number for each sample",
                given=f"{job.probabilities}, classes {', '.join(plan.class_names)}",
                legal="two classes, of which the second one's probability is written",
                fix="name another format, survey by survey: --output NAME.nii.gz",
            )


def _cases(volumes: Mapping[Path, Path]) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """Name, in the output's folder, and channels of every case, sorted.

    Args:
        volumes: and the folder, in the output's, for their predictions.
    """
    used: set[Path] = set()
    for path in sorted(volumes):
        if path in used:
            continue
        name, channels = stem(path), [path]
        ending = path.name.removeprefix(name)
        if name.endswith(FIRST_CHANNEL):
            name = name.removesuffix(FIRST_CHANNEL)
            others = (path.with_name(f"{name}_{number:04d}{ending}") for number in range(1, 10_000))
            channels += itertools.takewhile(volumes.__contains__, others)
        used.update(channels)
        yield volumes[path] / name, tuple(channels)


def _volumes(path: Path) -> list[Path]:
    if is_plain_folder(path):
        return images_in(path)
    if not path.exists():
        raise UserError(f"{path} does not exist", legal="volumes, or folders of volumes")
    volume = header_of(path)
    suffix(volume)
    return [volume]


def _volumes_below(inputs: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Volumes in the folders of folders, each with the way to it; predictions are no inputs."""
    return {
        path: way
        for one in inputs
        for folder, way in folders_below(one, but=output)
        for path in images_in(folder)
    }


def _cases_by_pattern(
    folder: Path, patterns: Sequence[str]
) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """Name and channels of every case in a folder, sorted."""
    if not is_plain_folder(folder):
        raise UserError(f"--pattern: {folder} is not a folder of cases", legal="a folder")
    channels = [volumes_by_case(folder, pattern) for pattern in patterns]
    for case in sorted(set().union(*channels)):
        for pattern, found in zip(patterns, channels, strict=True):
            if case not in found:
                raise UserError(
                    f"--pattern {pattern}: there is no such volume of {case} in {folder}",
                    fix="complete the case, or move it elsewhere",
                )
        yield Path(case), tuple(found[case] for found in channels)
