"""What a SEG-Y file holds, in words."""

from __future__ import annotations

from pathlib import Path

from seg3d.common.errors import UserError
from seg3d.io.segy.layout import BIG_ENDIAN
from seg3d.io.segy.lines import Positions
from seg3d.io.segy.reader import SegyReader
from seg3d.io.segy.samples import FORMATS
from seg3d.io.segy.survey import Domain, Survey, read_survey


def report(
    path: str | Path, positions: Positions | None = None, domain: Domain | None = None
) -> str:
    """Format, geometry and oddities of a survey, one line each; see `read_survey`.

    Raises:
        UserError: if it is no post-stack 3D survey in SEG-Y, or is cut short or inconsistent.
    """
    survey = read_survey(path, positions, domain)
    layout, grid, at = survey.layout, survey.grid, survey.positions
    inlines, crosslines, samples = grid.shape
    units = " × ".join(
        f"{spacing:.6g} {unit}" for spacing, unit in zip(grid.spacing, grid.units, strict=True)
    )
    order = "big-endian" if layout.order == BIG_ENDIAN else "little-endian"
    line = ("inline", "crossline")[survey.slow_axis]
    missing = int((~survey.mask).sum())
    first = grid.affine[2, 3]
    last = first + (samples - 1) * grid.spacing[2]
    rows = [
        ("file", path),
        ("format", f"SEG-Y revision {layout.revision[0]}.{layout.revision[1]}, {order}, "
                   f"{FORMATS[layout.code].name} (format {layout.code})"),
        ("shape", f"{inlines} inlines × {crosslines} crosslines × {samples} samples"),
        ("inlines", f"{survey.inline} (bytes {at.inline} to {at.inline + 3})"),
        ("crosslines", f"{survey.crossline} (bytes {at.crossline} to {at.crossline + 3})"),
        (grid.axes[2], f"{first:g} to {last:g} {grid.units[2]}"),
        ("spacing", units),
        ("position", _position(survey)),
        ("sorted by", line if survey.in_order else "nothing"),
        ("traces", f"{layout.traces}, {missing} missing in the grid"),
        ("amplitudes", _amplitudes(survey)),
        *(("note", note) for note in survey.notes),
    ]  # fmt: skip
    return "\n".join(f"{name:10} {value}" for name, value in rows)


def _position(survey: Survey) -> str:
    fit, at = survey.fit, survey.positions
    if fit is None:
        return "not known"
    x, y = survey.grid.affine[:2, 3]
    return (
        f"first inline and crossline at {x:.2f}, {y:.2f} (bytes {at.x} and {at.y}); "
        f"95 % of the traces lie within {fit.misfit:.2g} bins of the grid"
    )


def _amplitudes(survey: Survey) -> str:
    """Smallest and largest on one line: enough to see samples of the wrong format."""
    line = [slice(0, length) for length in survey.grid.shape]
    middle = survey.grid.shape[survey.slow_axis] // 2
    line[survey.slow_axis] = slice(middle, middle + 1)
    x, y, z = line
    try:
        samples = SegyReader(survey).read((x, y, z))
    except UserError as error:
        # A file of another format than it says may hold anything; the report is to show that.
        return error.problem
    name = ("inline", "crossline")[survey.slow_axis]
    return f"{samples.min():.6g} to {samples.max():.6g} on the middle {name}"
