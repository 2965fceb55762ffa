"""What a person should know about the training data, though they can be used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from seg3d.common.notes import Note, in_lines
from seg3d.config import Config
from seg3d.data.cases import Dataset
from seg3d.data.splits import Fold
from seg3d.plan import CaseFingerprint, Plan

# No other intensities are usually so far below zero: air has -1000 Hounsfield units.
LIKE_HOUNSFIELD = -500


def notes_on(
    dataset: Dataset,
    fingerprints: Mapping[str, CaseFingerprint],
    config: Config,
    plan: Plan,
    fold: Fold,
) -> list[str]:
    """What is odd about the cases, a line for everything that is.

    Args:
        dataset: the cases.
        fingerprints: of those that have been looked at, by name.
        config: of the run.
        plan: of the run.
        fold: which cases train and which validate.
    """
    notes = [note for one in fingerprints.values() for note in one.notes]
    background = {*plan.parts[0].values, *plan.ignore}
    channels = [channel.name for channel in plan.channels]
    for name, one in fingerprints.items():
        notes += only_background(name, one.labels, background, {*plan.ignore})
        notes += constant_channels(name, channels, one.lowest, one.highest)
        if config.preprocess.intensity == "auto" and dataset.channels is None:
            notes += like_hounsfield(name, one.lowest, one.units)
        if config.patch.size != "auto":
            notes += _smaller_than_patch(name, one, plan)
    notes += _on_both_sides(fingerprints, fold)
    notes += other_files(dataset)
    return in_lines(notes)


def only_background(
    name: str, labels: Mapping[int, int], background: set[int], ignore: set[int]
) -> Iterator[Note]:
    """On a case without anything to be found.

    Args:
        name: of the case.
        labels: voxels of every label value.
        background: values that mark nothing to be found, those to be ignored among them.
        ignore: values to be ignored.
    """
    if labels.keys() <= ignore:
        yield Note("no voxel has a label, and no patch is drawn", name)
    elif labels.keys() <= background:
        yield Note("nothing but background in the label", name)


def constant_channels(
    name: str, channels: Sequence[str], lowest: Sequence[float], highest: Sequence[float]
) -> Iterator[Note]:
    """On channels of a case in which there is nothing to be seen."""
    for channel, low, high in zip(channels, lowest, highest, strict=True):
        if low == high:
            yield Note(f"all voxels of {channel} have the same value", f"{name} ({low:g})")


def like_hounsfield(name: str, lowest: Sequence[float], units: Sequence[str]) -> Iterator[Note]:
    """On intensities of CT in a case whose channels have no name."""
    if min(lowest) < LIKE_HOUNSFIELD and set(units) == {"mm"}:
        yield Note(
            f"values below {LIKE_HOUNSFIELD}, as of CT, and no name of the channel",
            f"{name} ({min(lowest):g})",
            "If it is CT, preprocess.intensity=ct keeps Hounsfield units comparable.",
        )


def other_files(dataset: Dataset) -> Iterator[Note]:
    """On cases for testing with another number of image files than those to train on."""
    files = len(dataset.cases[0].images)
    for case in dataset.test:
        if len(case.images) != files:
            yield Note(f"for testing, and without the {files} image files of the others", case.name)


def _smaller_than_patch(name: str, one: CaseFingerprint, plan: Plan) -> Iterator[Note]:
    shape = np.array(one.shape)
    if plan.spacing is not None:
        shape = np.rint(shape * one.spacing / np.array(plan.spacing)).astype(int)
    if not plan.whole and (shape < plan.patch_size).any():
        yield Note(
            f"patch.size, {list(plan.patch_size)}, is larger than the volume, which is padded",
            f"{name} ({shape.tolist()})",
        )


def _on_both_sides(fingerprints: Mapping[str, CaseFingerprint], fold: Fold) -> Iterator[Note]:
    """Volumes that train under one name and validate under another."""
    trained: dict[str, list[str]] = {}
    for name in fold["train"]:
        if name in fingerprints:
            trained.setdefault(fingerprints[name].digest, []).append(name)
    for name in fold["val"]:
        if name in fingerprints:
            for twin in trained.get(fingerprints[name].digest, []):
                if twin != name:
                    yield Note(
                        "the same voxels in training and in validation",
                        f"{twin} and {name}",
                        "Validation scores say less about new volumes.",
                    )
