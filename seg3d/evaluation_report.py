"""What `seg3d.evaluate` found, for people (a table) and programs (JSON, CSV)."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from seg3d import __version__
from seg3d.errors import UserError
from seg3d.evaluate import Evaluation, Overlap, some_names
from seg3d.files import atomic_write
from seg3d.io import is_plain_folder

# Longer lists of single cases are for metrics.csv, not for a terminal.
PRINTED_CASES = 20
PRINTED_ROWS = 100

DEFINITIONS = {
    "dice": "2 |P ∩ R| / (|P| + |R|) in voxels of one class in one case; null (empty in the "
    "CSV) if the class is in neither the prediction P nor the reference R, 0 if it is in one "
    "of them only",
    "mean, std, median": "over the cases in which the Dice of the class is defined ('cases'); "
    "std is the sample standard deviation (n - 1), null for fewer than two cases",
    "foreground_mean_dice": "mean over the classes of their mean Dice; classes without a "
    "defined Dice and the background (0) do not count",
    "volumes": "number of voxels times the volume of a voxel, in ml",
    "ignore": "voxels whose reference has the class named 'ignore' in dataset.json count nowhere",
    "missing": "references without a prediction; they are in no number of this file",
    "unreferenced": "predictions without a reference; they are in no number of this file",
}


def output_folder(predictions: Path) -> Path:
    """Where metrics go unless told otherwise: to the predictions."""
    return predictions if is_plain_folder(predictions) else predictions.parent


def write_metrics(evaluation: Evaluation, folder: Path) -> tuple[Path, Path]:
    """Write ``metrics.json`` and ``metrics.csv`` (one row per case and class) and return them.

    Raises:
        UserError: if the folder cannot be written to.
    """
    json_path, csv_path = folder / "metrics.json", folder / "metrics.csv"
    try:
        with atomic_write(json_path) as temporary:
            text = json.dumps(_as_json(evaluation), indent=2, ensure_ascii=False, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        with (
            atomic_write(csv_path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            columns = ["case", "label", "name", "dice", *(field.name for field in fields(Overlap))]
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            for pair, overlaps in evaluation.cases.items():
                for value, overlap in overlaps.items():
                    entry = _entry(evaluation.names[value], overlap)
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
    parts.append(_class_table(evaluation))
    for names, what in (
        (evaluation.missing, "reference(s) without a prediction"),
        (evaluation.unreferenced, "prediction(s) without a reference"),
    ):
        if names:
            text = f"{len(names)} {what}, not in these numbers: {some_names(names)}"
            parts.append(Text(text, style="yellow"))
    return Group(*parts)


def _as_json(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "seg3d_version": __version__,
        "foreground_mean_dice": _or_none(evaluation.foreground_mean_dice()),
        "summary": {
            str(value): {
                "name": evaluation.names[value],
                "dice": {name: _or_none(number) for name, number in asdict(summary).items()},
            }
            for value, summary in evaluation.summary().items()
        },
        "missing": list(evaluation.missing),
        "unreferenced": list(evaluation.unreferenced),
        "cases": {
            pair.case: {
                "prediction": str(pair.prediction),
                "reference": str(pair.reference),
                "labels": {
                    str(value): _entry(evaluation.names[value], overlap)
                    for value, overlap in overlaps.items()
                },
            }
            for pair, overlaps in evaluation.cases.items()
        },
        "definitions": DEFINITIONS,
    }


def _entry(name: str, overlap: Overlap) -> dict[str, Any]:
    return {"name": name, "dice": _or_none(overlap.dice), **asdict(overlap)}


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else number


def _case_table(evaluation: Evaluation) -> Table:
    rows = _table("case", "class", "Dice", "reference ml", "predicted ml")
    for pair, overlaps in evaluation.cases.items():
        case = pair.case
        for value, overlap in overlaps.items():
            rows.add_row(
                Text(case),
                Text(evaluation.names[value]),
                _shown(overlap.dice),
                f"{overlap.reference_ml:.4g}",
                f"{overlap.predicted_ml:.4g}",
            )
            case = ""
        rows.add_section()
    return rows


def _class_table(evaluation: Evaluation) -> Table:
    rows = _table("class", "Dice (mean ± std)", "median", "cases")
    for value, summary in evaluation.summary().items():
        rows.add_row(
            Text(evaluation.names[value]),
            f"{_shown(summary.mean)} ± {_shown(summary.std)}",
            _shown(summary.median),
            f"{summary.cases} of {len(evaluation.cases)}",
        )
    rows.add_section()
    rows.add_row("foreground mean", _shown(evaluation.foreground_mean_dice()))
    return rows


def _table(*columns: str) -> Table:
    rows = Table(box=box.SIMPLE)
    for column in columns:
        if column in ("case", "class"):
            rows.add_column(column, overflow="fold")
        else:
            rows.add_column(column, justify="right", no_wrap=True)
    return rows


def _shown(number: float) -> str:
    return "–" if math.isnan(number) else f"{number:.3f}"
