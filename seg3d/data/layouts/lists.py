"""Tables of seg3d's own: CSV, and JSON lists with the same keys."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from seg3d.common.errors import UserError
from seg3d.data.layouts.entries import (
    LEGAL_KEYS,
    Entry,
    check_keys,
    check_object,
    entry,
    listed_cases,
)
from seg3d.data.layouts.found import Found


def csv_table(path: Path) -> Found:
    """Cases in a table with the columns image, image2, ..., label, split, name.

    Commas, semicolons and tabs separate; upper case in the header does not matter.

    Args:
        path: of the table; what it lists is relative to its folder.

    Raises:
        UserError: naming the line, if the table is malformed or lists files that are not there.
    """
    return Found("CSV list", path, *listed_cases(path, _rows(path)))


def json_list(path: Path, rows: list[Any]) -> Found:
    """Cases in a list of objects with the same keys as the columns of a CSV table.

    Args:
        path: of the list; what it lists is relative to its folder.
        rows: its content.

    Raises:
        UserError: naming the object, if it is malformed or lists files that are not there.
    """
    entries = []
    for number, row in enumerate(rows):
        where = f"{path}, [{number}]"
        check_object(where, row)
        check_keys(where, list(row))
        entries.append(entry(where, row))
    return Found("JSON list", path, *listed_cases(path, entries))


def _rows(path: Path) -> list[Entry]:
    """The lines of a table below its header."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not a text file", given=str(error), legal="a table in UTF-8"
        ) from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        lines = [(rows.line_num, [cell.strip() for cell in row]) for row in rows]
    except csv.Error as error:
        raise UserError(
            f"{path}, line {rows.line_num} is not valid CSV", given=str(error)
        ) from error
    lines = [(number, row) for number, row in lines if any(row)]
    if not lines:
        raise UserError(f"{path} is empty", legal=f"a header of {LEGAL_KEYS}, and a line per case")
    (first, header), *rest = lines
    header = [column.lower() for column in header]
    check_keys(f"{path}, line {first}", header)
    for number, row in rest:
        if len(row) != len(header):
            raise UserError(
                f"{path}, line {number} does not fit the header",
                given=f"{len(row)} cells: {delimiter.join(row)}",
                legal=f"{len(header)} cells: {delimiter.join(header)}",
                fix="put a cell that contains the separator in double quotes",
            )
    return [
        entry(f"{path}, line {number}", dict(zip(header, row, strict=True))) for number, row in rest
    ]
