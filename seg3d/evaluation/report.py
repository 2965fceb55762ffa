"""What `seg3d.evaluation` found, for people (a table) and programs (JSON, CSV)."""

from __future__ import annotations

import csv
import json
import math
from contextlib import AbstractContextManager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from seg3d.common.errors import UserError
from seg3d.common.files import atomic_write, require_folder
from seg3d.common.plain_text import printable
from seg3d.common.sole_writer import sole_writer
from seg3d.common.version import __version__
from seg3d.evaluation.pairs import some_names
from seg3d.evaluation.results import Evaluation, Overlap, Summary
from seg3d.io import is_plain_folder

# Longer lists of single cases are for metrics.csv, not for a terminal.
PRINTED_CASES = 20
PRINTED_ROWS = 100

DEFINITIONS = {
    "dice": "2 |P ∩ R| / (|P| + |R|) in voxels of one class in one case; null (empty in the "
    "CSV) if the class is in neither the prediction P nor the reference R, 0 if it is in one "
    "of them only",
    "labels": "by label value; of regions, which may overlap, by their number",
    "iou": "|P ∩ R| / |P ∪ R|; null and 0 as the Dice",
    "precision, recall": "|P ∩ R| / |P| and |P ∩ R| / |R|; null where that is empty",
    "volume_difference_ml": "of P minus that of R",
    "hd_mm, hd95_mm": "Hausdorff distance: the largest distance, mm, from a surface voxel of "
    "either to the surface of the other, and the 95th percentile in its place, the larger one of "
    "the two directions; surface voxels have a face in common with one that is not of the class; "
    "null if P or R is empty, and for surveys",
    "assd_mm": "average symmetric surface distance: mean over the surface voxels of both; null "
    "as hd_mm",
    "surface_dice": "share of the surface voxels of both that lie within "
    "'surface_tolerance_mm' of the other surface; null if P and R are empty, 0 if one of them is",
    "lesions": "connected components, voxels touching by faces, edges or corners, none dilated "
    "and none too small; of the reference those are found that have a voxel of P, and of the "
    "prediction those are false that have no voxel of R",
    "lesion_f1": "2 TP / (2 TP + FP + FN) with TP the lesions found, FN the others of the "
    "reference, FP the false ones; null if there are none",
    "mean, std, median": "over the cases in which the measure of the class is defined ('cases'); "
    "std is the sample standard deviation (n - 1), null for fewer than two cases",
    "low, high": "95 % confidence interval of the mean, by 2000 draws of as many cases with "
    "replacement (percentile bootstrap)",
    "foreground_mean_dice": "mean over the classes of their mean Dice; classes without a "
    "defined Dice and the background (0) do not count",
    "volumes": "number of voxels times the volume of a voxel, in ml; null for surveys, whose "
    "axes are not in mm",
    "ignore": "voxels whose reference has a value of the class named 'ignore' count nowhere, "
    "nor do traces that are missing in a SEG-Y file",
    "missing": "references without a prediction; they are in no number of this file",
    "unreferenced": "predictions without a reference; they are in no number of this file",
    "failed": "cases whose files cannot be compared; they are in no number of this file",
    "tolerance_precision, tolerance_recall": "share of the predicted voxels of a class that have "
    "a voxel of it in the reference within 'tolerance_voxels', and the other way round; null if "
    "there are none",
    "tolerance_dice": "their harmonic mean, which without tolerance is the Dice; null and 0 as "
    "there",
    "average_precision": "of 1 - P(background), or of regions the largest P, from "
    "NAME_probabilities, against every class but 0: mean of the precision over the recall that "
    "each threshold adds; thresholds are multiples of 1/4096, and nothing is interpolated",
}
MEASURES = (
    "dice", "iou", "precision", "recall", "volume_difference_ml", "hd95_mm", "hd_mm", "assd_mm",
    "surface_dice", "lesion_f1",
)  # fmt: skip
TOLERANCE_MEASURES = ("tolerance_dice", "tolerance_precision", "tolerance_recall")
COUNTS = (
    *(one.name for one in fields(Overlap) if one.name not in ("near", "surface", "lesions")),
    *(f"lesions_{name}" for name in ("reference", "predicted", "found", "false")),
)


def output_folder(predictions: Path) -> Path:
    """Where metrics go unless told otherwise: to the predictions."""
    return predictions if is_plain_folder(predictions) else predictions.parent


def sole_writer_of_metrics(folder: Path) -> AbstractContextManager[None]:
    """Keep other processes from writing metrics to a folder, from before they are computed on.

    Raises:
        UserError: if one does already, or the folder cannot be written to.
    """
    require_folder(folder, "--output")
    return sole_writer(folder / "metrics.json")


def write_metrics(evaluation: Evaluation, folder: Path) -> tuple[Path, Path]:
    """Write ``metrics.json`` and ``metrics.csv`` (one row per case and class) and return them.

    Raises:
        UserError: if the folder cannot be written to.
    """
    require_folder(folder, "--output")
    json_path, csv_path = folder / "metrics.json", folder / "metrics.csv"
    try:
        with atomic_write(json_path) as temporary:
            text = json.dumps(_as_json(evaluation), indent=2, ensure_ascii=False, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        with (
            atomic_write(csv_path) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            columns = ["case", "label", "name", *_measures(evaluation), *COUNTS]
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            for pair, overlaps in evaluation.cases.items():
                for value, overlap in overlaps.items():
                    entry = _entry(evaluation, value, overlap)
                    writer.writerow({"case": pair.case, "label": value, **entry})
    except OSError as error:
        raise UserError(
            f"metrics cannot be written to {folder}",
            given=str(error),
            fix="name another folder with --output",
        ) from error
    return json_path, csv_path


def table(evaluation: Evaluation) -> Group:
    """What a person wants to read: each case if there are few, then the classes, then gaps."""
    parts: list[Table | Text] = []
    cases = len(evaluation.cases)
    if cases <= PRINTED_CASES and cases * len(evaluation.names) <= PRINTED_ROWS:
        parts.append(_case_table(evaluation))
    parts += [_class_table(evaluation, *dice) for dice in _dices(evaluation).items()]
    if _surfaces(evaluation):
        parts.append(_surface_table(evaluation))
    if evaluation.scores:
        summary = evaluation.average_precision()
        parts.append(
            Text(
                f"average precision {_shown(summary.mean)} ± {_shown(summary.std)} "
                f"({summary.cases} of {len(evaluation.cases)} cases)"
            )
        )
    for names, what in (
        (evaluation.missing, "reference(s) without a prediction"),
        (evaluation.unreferenced, "prediction(s) without a reference"),
    ):
        if names:
            text = f"{len(names)} {what}, not in these numbers: {some_names(names)}"
            parts.append(Text(printable(text, kept=""), style="yellow"))
    for case, reason in evaluation.failed.items():
        parts.append(Text(printable(f"{case} cannot be compared: {reason}"), style="red"))
    return Group(*parts)


def _as_json(evaluation: Evaluation) -> dict[str, Any]:
    summary: dict[int, dict[str, Any]] = {
        value: {"name": name} for value, name in evaluation.names.items()
    }
    for measure in _measures(evaluation):
        for value, numbers in evaluation.summary(measure).items():
            summary[value][measure] = _numbers(numbers)
    return {
        "seg3d_version": __version__,
        "foreground_mean_dice": _or_none(evaluation.foreground_mean_dice()),
        "tolerance_voxels": evaluation.tolerance,
        "surface_tolerance_mm": {
            name: evaluation.surface_tolerance.of(name) for name in evaluation.names.values()
        },
        "average_precision": _numbers(evaluation.average_precision()),
        "summary": {str(value): entry for value, entry in summary.items()},
        "missing": list(evaluation.missing),
        "unreferenced": list(evaluation.unreferenced),
        "failed": evaluation.failed,
        "cases": {
            pair.case: {
                "prediction": str(pair.prediction),
                "reference": str(pair.reference),
                "average_precision": _or_none(evaluation.scores[pair].average_precision)
                if pair in evaluation.scores
                else None,
                "labels": {
                    str(value): _entry(evaluation, value, overlap)
                    for value, overlap in overlaps.items()
                },
            }
            for pair, overlaps in evaluation.cases.items()
        },
        "definitions": DEFINITIONS,
    }


def _entry(evaluation: Evaluation, value: int, overlap: Overlap) -> dict[str, Any]:
    return (
        {"name": evaluation.names[value]}
        | {name: _or_none(getattr(overlap, name)) for name in _measures(evaluation)}
        | {name: _or_none(getattr(overlap, name)) for name in COUNTS}
    )


def _measures(evaluation: Evaluation) -> tuple[str, ...]:
    """What is known of every class in every case, besides counts."""
    return (*MEASURES, *(TOLERANCE_MEASURES if evaluation.tolerance is not None else ()))


def _dices(evaluation: Evaluation) -> dict[str, str]:
    """The measures that are summarised, and their headings."""
    if evaluation.tolerance is None:
        return {"dice": "Dice"}
    return {"dice": "Dice", "tolerance_dice": f"Dice ± {evaluation.tolerance} voxels"}


def _numbers(summary: Summary) -> dict[str, float | None]:
    return {name: _or_none(number) for name, number in asdict(summary).items()}


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else number


def _case_table(evaluation: Evaluation) -> Table:
    dices = _dices(evaluation)
    surfaces = _surfaces(evaluation)
    overlaps_of_all = [one for overlaps in evaluation.cases.values() for one in overlaps.values()]
    unit = "voxels" if any(math.isnan(one.reference_ml) for one in overlaps_of_all) else "ml"
    sizes = [f"reference_{unit}", f"predicted_{unit}"]
    headings = [size.replace("_", "\n") for size in sizes]
    rows = _table("case", "class", *dices.values(), *surfaces.values(), *headings)
    for pair, overlaps in evaluation.cases.items():
        case = pair.case
        for value, overlap in overlaps.items():
            rows.add_row(
                _cell(case),
                _cell(evaluation.names[value]),
                *(_shown(getattr(overlap, measure)) for measure in dices),
                *(_size(getattr(overlap, measure)) for measure in surfaces),
                *(_size(getattr(overlap, size)) for size in sizes),
            )
            case = ""
        rows.add_section()
    return rows


def _class_table(evaluation: Evaluation, measure: str, heading: str) -> Table:
    rows = _table("class", f"{heading} (mean ± std)", "95 % interval", "median", "cases")
    for value, summary in evaluation.summary(measure).items():
        rows.add_row(
            _cell(evaluation.names[value]),
            f"{_shown(summary.mean)} ± {_shown(summary.std)}",
            f"{_shown(summary.low)} to {_shown(summary.high)}" if summary.cases > 1 else "–",
            _shown(summary.median),
            f"{summary.cases} of {len(evaluation.cases)}",
        )
    rows.add_section()
    rows.add_row("foreground mean", _shown(evaluation.foreground_mean_dice(measure)))
    return rows


def _surface_table(evaluation: Evaluation) -> Table:
    """Means over the cases in which each is defined."""
    columns = _surfaces(evaluation) | {"assd_mm": "ASSD\nmm", "lesion_f1": "lesion\nF1"}
    means = [evaluation.summary(measure) for measure in columns]
    rows = _table("class", *columns.values())
    for value, name in evaluation.names.items():
        rows.add_row(_cell(name), *(_size(of_class[value].mean) for of_class in means))
    return rows


def _surfaces(evaluation: Evaluation) -> dict[str, str]:
    """What is shown of surfaces, and the headings; nothing if none was measured."""
    known = any(one.surface for overlaps in evaluation.cases.values() for one in overlaps.values())
    tolerances = {evaluation.surface_tolerance.of(name) for name in evaluation.names.values()}
    within = f" {tolerances.pop():g} mm" if len(tolerances) == 1 else ""
    return {"hd95_mm": "HD95\nmm", "surface_dice": f"surface\nDice{within}"} if known else {}


def _table(*columns: str) -> Table:
    rows = Table(box=box.SIMPLE)
    for column in columns:
        if column in ("case", "class"):
            rows.add_column(column, overflow="fold")
        else:
            rows.add_column(column, justify="right", no_wrap=True)
    return rows


def _cell(name: str) -> Text:
    return Text(printable(name, kept=""))


def _size(number: float) -> str:
    """Of voxels all digits, of ml, mm and shares the first ones."""
    if math.isnan(number):
        return "–"
    return f"{number:.4g}" if isinstance(number, float) else f"{number}"


def _shown(number: float) -> str:
    return "–" if math.isnan(number) else f"{number:.3f}"
