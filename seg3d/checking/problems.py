"""What a problem is: of which kind, in which case, how bad, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Self

from seg3d.common.errors import BAD_INPUT, DONE, FAILED, UserError
from seg3d.common.notes import Note


class Level(IntEnum):
    """How bad something is; the exit status of a check that finds nothing worse."""

    HARMLESS = DONE
    WARNING = FAILED
    ERROR = BAD_INPUT

    @property
    def word(self) -> str:
        """For people and programs."""
        return self.name.lower()


class Kind(Enum):
    """What can be wrong: its name for programs, how bad it is, and a title for people."""

    UNREADABLE = "unreadable", Level.ERROR, "files that are missing, cut short or damaged"
    SLICES = "slices", Level.ERROR, "slices are missing"
    CHANNELS = "channels", Level.ERROR, "channels that disagree"
    GRID = "grid", Level.ERROR, "image and label do not lie on the same voxels"
    NOT_FINITE = "not-finite", Level.ERROR, "voxels that are NaN or infinite"
    LABEL_VALUES = "label-values", Level.ERROR, "values that are no labels"
    UNNAMED = "unnamed", Level.ERROR, "label values that the dataset does not name"
    NOTHING = "nothing", Level.ERROR, "nothing to be found in the whole dataset"
    APART = "apart", Level.WARNING, "image and label lie a little apart"
    HEADER = "header", Level.WARNING, "headers that contradict themselves or need to be guessed"
    MIRRORED = "mirrored", Level.WARNING, "affines that mirror, unlike those of other cases"
    EMPTY = "empty", Level.WARNING, "nothing but background in the label"
    ABSENT = "absent", Level.WARNING, "classes that no labelled case contains"
    FLOATS = "float-labels", Level.WARNING, "labels that are stored as floating point"
    MASK_255 = "mask-255", Level.WARNING, "masks of 0 and 255"
    CONSTANT = "constant", Level.WARNING, "all voxels have the same value"
    HOUNSFIELD = "hounsfield", Level.WARNING, "values as of CT, and no name of the channel"
    SAME_VOXELS = "same-voxels", Level.WARNING, "the same voxels under two names"
    OTHER_FILES = "other-files", Level.WARNING, "cases for testing with other files"
    LEFT_OUT = "left-out", Level.WARNING, "files and entries that no case uses"
    AXES = "axes", Level.HARMLESS, "label and image have their axes in another order"

    level: Level
    title: str

    def __new__(cls, value: str, level: Level, title: str) -> Self:
        one = object.__new__(cls)
        one._value_ = value
        one.level = level
        one.title = title
        return one


# Where nobody who says that something is odd says what to do.
REMEDIES = {
    Kind.HEADER: "look whether the volume lies where it should; if not, convert it anew from where "
    "it comes from",
    Kind.EMPTY: "nothing, if there is nothing in it to be found; else look at the label file",
    Kind.CONSTANT: "take the case out, unless it is meant to be empty",
    Kind.OTHER_FILES: "add the files that are missing, or take the case out",
    Kind.LEFT_OUT: "name them as those of the cases are named, or move them elsewhere",
}


@dataclass(frozen=True)
class Problem:
    """One problem of one case, or of the dataset.

    Attributes:
        kind: of the problem.
        case: its name; empty if it is about the dataset.
        what: is wrong, naming the file.
        given, legal: what was found there, and what would be right.
        fix: what to do about it.
    """

    kind: Kind
    case: str
    what: str
    given: str | None = None
    legal: str | None = None
    fix: str | None = None

    @classmethod
    def of_error(cls, kind: Kind, case: str, error: UserError) -> Self:
        """What training would refuse, in the words in which it would."""
        return cls(kind, case, error.problem, error.given, error.legal, error.fix)

    @classmethod
    def of_note(cls, kind: Kind, case: str, note: Note) -> Self:
        """What training would note; a case is not named twice."""
        own = bool(case) and note.where.startswith(case)
        where = note.where.removeprefix(case) if own else f": {note.where}"
        return cls(kind, case, note.what + where, fix=note.advice or REMEDIES.get(kind))
