"""What can be repaired in a file without a doubt, and how it is written."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from seg3d.checking.case import WHITE, CaseLook
from seg3d.checking.dataset import Report
from seg3d.checking.problems import Kind
from seg3d.common.errors import UserError
from seg3d.geometry import Grid
from seg3d.io import Header, create_volume, open_volume, portions, target_suffix
from seg3d.io.convert import PLACELESS
from seg3d.io.formats import store_of
from seg3d.io.reoriented import AS_STORED, Reoriented, turn_between

Recode = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Repair:
    """What is to be done to a file.

    Attributes:
        path: of the volume.
        done: what is done, in words.
        like: header of the volume whose grid it gets: its voxels are put in that order where they
            are the same, and stay in theirs where only the shape agrees; None: its own.
        recode: values `(C, x, y, z)` to others; may be left out.
        dtype: of what is written; by default that of the file.
    """

    path: Path
    done: tuple[str, ...]
    like: Header | None = None
    recode: Recode | None = None
    dtype: np.dtype | None = None

    def write(self, target: Path) -> None:
        """Write the repaired volume, slab by slab.

        Raises:
            UserError: if the file cannot be read, or the target not be written.
        """
        with open_volume(self.path) as reader:
            header = reader.header
            voxels = reader
            if self.like is not None:
                turn = turn_between(header.grid, self.like.grid)
                if turn is not None and turn != AS_STORED:
                    voxels = Reoriented(reader, turn)
                header = replace(self.like, channels=header.channels)
            dtype = self.dtype or reader.dtype
            with create_volume(target, header, dtype, header.channels) as writer:
                for region in portions(header.grid.shape, voxels.slow_axis):
                    block = voxels.read(region)
                    if self.recode is not None:
                        block = self.recode(block)
                    writer.write(region, block.astype(dtype, copy=False))


def find_repairs(report: Report, nan: float | None) -> dict[Path, Repair]:
    """The repairs that are safe, by file; of a file that several cases share, none.

    Args:
        report: what is wrong.
        nan: what is written in place of NaN and infinities; None: they stay.
    """
    white = _meant_by_white(report)
    # What cannot be read to its end cannot be written anew.
    whole = [
        look
        for look in report.looks
        if Kind.UNREADABLE not in {problem.kind for problem in look.problems}
    ]
    used = Counter(path for look in report.looks for path in look.case.files)
    found = {}
    for look in whole:
        for repair in (_of_label(look, white, report.rest), *_of_images(look, nan)):
            if repair is not None and repair.done and used[repair.path] == 1:
                found[repair.path] = repair
    return found


def _of_label(look: CaseLook, white: int | None, rest: bool) -> Repair | None:
    path, kinds = look.case.label, {one.kind for one in look.problems}
    if not isinstance(path, Path) or look.label is None or look.image is None:
        return None
    done: list[str] = []
    like = None
    turned = Kind.AXES in kinds
    apart = Kind.APART in kinds or _needs_affine(look.label.grid, look.image.grid)
    if (turned or apart) and _keeps_geometry(path):
        like = look.image
        done.append(
            "axes put in the order of the image's" if turned else "affine of the image copied"
        )
    recode: Recode | None = None
    dtype = None
    if Kind.FLOATS in kinds:
        done.append("whole numbers stored as integers")
        recode = np.rint
        # Where values may have no name, the largest is not known.
        dtype = np.dtype(np.int32) if rest else np.min_scalar_type(max(look.labels))
    if Kind.MASK_255 in kinds and white is not None:
        done.append(f"{WHITE} replaced by {white}")
        recode = _with_mark(white)
    return Repair(path, tuple(done), like, recode, dtype) if _is_written(path) else None


def _of_images(look: CaseLook, nan: float | None) -> list[Repair]:
    """For each of its files; only channels that do not lie on the first one's grid get another."""
    repairs = []
    wrong = iter(look.not_finite)
    first = look.headers[0]
    for path, header in zip(look.case.images, look.headers, strict=True):
        done: list[str] = []
        like = recode = None
        if _keeps_geometry(path) and _needs_affine(header.grid, first.grid):
            like = first
            done.append("affine of the first channel copied")
        if sum(itertools.islice(wrong, header.channels)) and nan is not None:
            recode = _without_nan(nan)
            done.append(f"NaN and infinities replaced by {nan:g}")
        if _is_written(path):
            repairs.append(Repair(path, tuple(done), like, recode))
    return repairs


def _needs_affine(grid: Grid, wanted: Grid) -> bool:
    """Whether a file has not the voxels that are wanted, but would have with their affine."""
    return turn_between(grid, wanted) is None and _same_order(grid, wanted)


def _with_mark(value: int) -> Recode:
    def recode(labels: np.ndarray) -> np.ndarray:
        marked: np.ndarray = np.where(np.rint(labels) == WHITE, value, 0)
        return marked

    return recode


def _without_nan(value: float) -> Recode:
    def recode(voxels: np.ndarray) -> np.ndarray:
        finite: np.ndarray = np.where(np.isfinite(voxels), voxels, voxels.dtype.type(value))
        return finite

    return recode


def _same_order(grid: Grid, wanted: Grid) -> bool:
    """Whether voxels of the same number are the same, though the affines say otherwise.

    So it is if the axes run the same way, or if the affine is one of those that say nothing.
    """
    says_nothing = np.array_equal(np.abs(grid.affine), np.eye(4))
    same = grid.orientation == wanted.orientation or says_nothing
    return grid.shape == wanted.shape and same


def _meant_by_white(report: Report) -> int | None:
    """The one value that 255 can stand for; None if there is none or more."""
    others = set(report.names) or {1}.union(*(one.labels for one in report.looks))
    others -= {0, WHITE}
    return others.pop() if len(others) == 1 else None


def _is_written(path: Path) -> bool:
    try:
        target_suffix(path)
    except UserError:
        return False
    return store_of(path) == path


def _keeps_geometry(path: Path) -> bool:
    return not path.name.lower().endswith(PLACELESS)
