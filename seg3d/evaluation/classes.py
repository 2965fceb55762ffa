"""Which label values make a class, what it is called, and where that is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from seg3d.common.errors import UserError
from seg3d.config import REST_NAME, Rest
from seg3d.data.layouts import label_values, read_json, regions_class_order
from seg3d.io import UNLABELLED, LabelRest, is_plain_folder
from seg3d.io.folders import folders_below
from seg3d.plan import IGNORE_NAME, is_of_regions, regions_in
from seg3d.prediction.jobs import legend_name
from seg3d.prediction.legend import LEGEND, ORDER, legend
from seg3d.runs.checkpoint import find_checkpoint, load_checkpoint


@dataclass(frozen=True)
class Classes:
    """How label values are compared.

    Attributes:
        names: of the classes, by the value that stands for each; of regions, by their number, from
            1 on.
        merged: every other value of a class, to the value that stands for it.
        ignored: the value of reference voxels that count nowhere, if there is one; more of them
            are in ``merged``.
        rest: what values are that have no name; None if each is a class of its own.
        source: where all this is said, in words; empty if it is said nowhere.
        regions: the values of each region by its number, if regions are compared, which may
            overlap; a value in none of them is background.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    merged: Mapping[int, int] = field(default_factory=dict)
    ignored: int | None = None
    rest: Rest | None = None
    source: str = ""
    regions: Mapping[int, frozenset[int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, labels: Mapping[str, Any], source: str = "", order: Sequence[int] | None = None
    ) -> Classes:
        """Classes from ``labels``: a value, or several, by the class's name.

        The class that holds 0 is background, and the one named ``ignore`` is left out. Where names
        share values, they are regions.

        Args:
            labels: by name.
            source: where they are from.
            order: values that are written for regions, if that is said: then they are regions.
        """
        lists = {
            name: [value] if isinstance(value, int) else list(value)
            for name, value in labels.items()
            if not isinstance(value, str)
        }
        regions = regions_in(lists) if is_of_regions(lists, order) else {}
        by_number = dict(enumerate(regions, 1))
        lists = {name: values for name, values in lists.items() if name not in regions}
        first = {name: 0 if 0 in values else values[0] for name, values in lists.items()}
        rest = labels.get(REST_NAME)
        return cls(
            names=by_number or {first[name]: name for name in lists if name != IGNORE_NAME},
            merged={
                value: first[name]
                for name, values in lists.items()
                for value in values
                if value != first[name]
            },
            ignored=first.get(IGNORE_NAME),
            rest=rest if rest in get_args(Rest) else None,
            source=source,
            regions={number: frozenset(regions[name]) for number, name in by_number.items()},
        )

    @property
    def label_rest(self) -> LabelRest | None:
        """How files are to be read."""
        if self.rest is None:
            return None
        values = {0}.union(*self.regions.values()) if self.regions else self.names
        named = {*values, *self.merged, *(() if self.ignored is None else (self.ignored,))}
        return LabelRest(frozenset(named), 0 if self.rest == "background" else UNLABELLED)


def find_classes(
    predictions: str | Path,
    references: str | Path,
    *,
    run: str | Path | None = None,
    labels: str | Path | None = None,
    recursive: bool = False,
) -> Classes:
    """The classes of what is to be compared.

    Args:
        predictions: folder or file. ``seg3d predict`` leaves `LEGEND` there.
        references: folder or file. A ``dataset.json`` (MSD or nnU-Net) there, or in the folder
            above, is used if the predictions say nothing.
        run: a run or checkpoint that says it instead.
        labels: a JSON file that says it instead, in the form of either.
        recursive: look into folders of ``predictions`` too.

    Raises:
        UserError: if a file that should say it does not, or two of them say different things.
    """
    if labels is not None:
        return _stated(Path(labels))
    if run is not None:
        plan = load_checkpoint(find_checkpoint(Path(run)))[1]
        said = legend(plan)
        return Classes.of(said["labels"], str(run), said.get(ORDER))
    predictions, references = Path(predictions), Path(references)
    ours = _folder(predictions)
    alone = [] if is_plain_folder(predictions) else [ours / legend_name(predictions)]
    for path in (*alone, ours / LEGEND):
        if path.is_file():
            return _stated(path)
    if recursive and (legends := _legends_below(ours)):
        return legends[0]
    theirs = _folder(references)
    for path in (theirs / "dataset.json", theirs.parent / "dataset.json"):
        if path.is_file():
            return _classes_in(path) or Classes()
    return Classes()


def _legends_below(folder: Path) -> list[Classes]:
    found = [
        _stated(inner / LEGEND) for inner, _ in folders_below(folder) if (inner / LEGEND).is_file()
    ]
    for one in found[1:]:
        if replace(one, source="") != replace(found[0], source=""):
            raise UserError(
                "predictions of different classes cannot be evaluated together",
                given=f"{found[0].source} and {one.source}",
                fix="evaluate their folders one by one, or say what the classes are with --labels",
            )
    return found


def _folder(path: Path) -> Path:
    return (path if is_plain_folder(path) else path.parent).resolve()


def _stated(path: Path) -> Classes:
    if not path.is_file():
        raise UserError(f"{path} does not exist", legal="a JSON file with labels")
    found = _classes_in(path)
    if found is None:
        raise UserError(
            f'{path} has no "labels"', legal='{"labels": {"background": 0, "liver": 1}}'
        )
    return found


def _classes_in(path: Path) -> Classes | None:
    content = read_json(path)
    labels = content.get("labels") if isinstance(content, dict) else None
    rest = labels.get(REST_NAME) if isinstance(labels, dict) else None
    order = regions_class_order(path, content) if isinstance(content, dict) else None
    if rest not in get_args(Rest):
        found = label_values(path, content) if isinstance(content, dict) else None
        return None if found is None else Classes.of(found, str(path), order)
    assert isinstance(labels, dict)
    named = {name: value for name, value in labels.items() if name != REST_NAME}
    found = label_values(path, {"labels": named})
    return Classes.of({**(found or {}), REST_NAME: rest}, str(path), order)
