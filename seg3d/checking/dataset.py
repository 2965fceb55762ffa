"""Looking at a whole dataset: every case, and what can only be seen between cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from seg3d.checking.case import CaseLook, Expected, look_at_case
from seg3d.checking.problems import REMEDIES, Kind, Level, Problem
from seg3d.common.errors import UserError
from seg3d.common.progress import progress_bar
from seg3d.common.threads import in_threads
from seg3d.config import Config
from seg3d.data.cases import Case, Dataset
from seg3d.data.fingerprint import require_foreground, with_other_channels
from seg3d.data.notes import other_files
from seg3d.data.reference import label_rest
from seg3d.plan import IGNORE_NAME, background_values, label_counts, named_labels, rest_of


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        dataset: that was looked at.
        names: of the classes by their label values, if they have some.
        rest: whether labels may hold other values, which were read as background or not at all.
        looks: at every case, those for testing last.
        problems: of all cases, then those of the dataset.
    """

    dataset: Dataset
    names: dict[int, str]
    rest: bool
    looks: tuple[CaseLook, ...]
    problems: tuple[Problem, ...]

    @property
    def level(self) -> Level:
        """That of the worst problem."""
        return max((one.kind.level for one in self.problems), default=Level.HARMLESS)


def check_dataset(
    dataset: Dataset, config: Config, advance: Callable[[], object] = lambda: None
) -> Report:
    """Look at every case, labelled or not, in threads; volumes are read once, in slabs.

    Args:
        dataset: the cases.
        config: says what the labels are called, and how intensities would be normalised.
        advance: called after each case, for a progress bar.

    Raises:
        UserError: if what names the classes contradicts itself.
    """
    labels = named_labels(config, dataset)
    legal = None if labels is None else set().union(*labels.values())
    expected = Expected(
        legal=legal,
        background=background_values(labels),
        ignore=set((labels or {}).get(IGNORE_NAME, [])),
        rest=label_rest(legal or set(), rest_of(config)),
        channels=dataset.channels,
        hounsfield=config.preprocess.intensity == "auto" and dataset.channels is None,
    )

    def look(case: Case) -> CaseLook:
        try:
            return look_at_case(case, expected)
        finally:
            advance()

    looks = tuple(in_threads(look, (*dataset.cases, *dataset.test)))
    problems = [problem for one in looks for problem in one.problems]
    problems += _between_cases(dataset, looks, expected)
    problems += _on_classes(looks[: len(dataset.cases)], labels or {}, dataset, expected)
    problems += [
        Problem(Kind.LEFT_OUT, "", f"{what}: {why}", fix=REMEDIES[Kind.LEFT_OUT])
        for what, why in dataset.left_out
    ]
    names: dict[int, str] = {}
    for name, values in (labels or {}).items():
        for value in values:
            # A voxel may be in several regions.
            names[value] = f"{names[value]}, {name}" if value in names else name
    return Report(dataset, names, expected.rest is not None, looks, tuple(problems))


def look_at_all(dataset: Dataset, config: Config, console: Console) -> Report:
    """`check_dataset` with a bar."""
    cases = len(dataset.cases) + len(dataset.test)
    with progress_bar(console, "reading the volumes", cases) as bar:
        return check_dataset(dataset, config, bar.advance)


def _on_classes(
    looks: Sequence[CaseLook],
    labels: dict[str, list[int]],
    dataset: Dataset,
    expected: Expected,
) -> Iterator[Problem]:
    """What no labelled case has."""
    counted = {one.case.name: one for one in looks if one.labels}
    if len(counted) < len(looks):
        # It may be where nothing could be counted.
        return
    try:
        require_foreground(dataset, counted, expected.background)
    except UserError as error:
        yield Problem.of_error(Kind.NOTHING, "", error)
        return
    found = label_counts(counted)
    for name, values in labels.items():
        if not set(values) <= expected.background and not any(one in found for one in values):
            yield Problem(
                Kind.ABSENT,
                "",
                f"no labelled case contains {name}",
                given=f"value {', '.join(map(str, values))} in no label file",
                fix="look at data.labels, or at the labels of dataset.json",
            )


def _between_cases(
    dataset: Dataset, looks: Sequence[CaseLook], expected: Expected
) -> Iterator[Problem]:
    counts = {one.case.name: one.channels for one in looks if one.channels is not None}
    labelled = {case.name: counts[case.name] for case in dataset.cases if case.name in counts}
    odd, error = with_other_channels(dataset.cases, labelled, expected.channels)
    if error is not None:
        for name, has in odd.items():
            yield Problem(Kind.CHANNELS, name, error.problem, has, error.legal, error.fix)
    for note in other_files(dataset):
        yield Problem.of_note(Kind.OTHER_FILES, note.where, note)
    yield from _mirrored(looks)
    yield from _same_voxels(looks)


def _mirrored(looks: Sequence[CaseLook]) -> Iterator[Problem]:
    """Cases whose affine has another handedness than most; surveys have none to speak of."""
    right = {
        one.case.name: float(np.linalg.det(one.image.grid.affine[:3, :3])) > 0
        for one in looks
        if one.image is not None and set(one.image.grid.units) == {"mm"}
    }
    usual = 2 * sum(right.values()) >= len(right)
    for one in looks:
        if right.get(one.case.name, usual) != usual:
            assert one.image is not None
            yield Problem(
                Kind.MIRRORED,
                one.case.name,
                f"{one.case.images[0]} is mirrored against most other cases, by its affine",
                f"orientation {one.image.grid.orientation}",
                fix="look whether left is left; if it is, nothing, unless "
                "preprocess.orientation=none",
            )


def _same_voxels(looks: Sequence[CaseLook]) -> Iterator[Problem]:
    first: dict[tuple[str, ...], str] = {}
    for one in looks:
        if one.channels != len(one.digests):
            continue
        if (twin := first.setdefault(tuple(one.digests), one.case.name)) != one.case.name:
            yield Problem(
                Kind.SAME_VOXELS,
                one.case.name,
                f"the image holds the same voxels as that of {twin}",
                fix="take one of the cases out, or put both into one part of the data",
            )
