"""Looking at one case: a problem keeps nobody from looking for the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from seg3d.checking.problems import Kind, Problem
from seg3d.common.errors import UserError
from seg3d.common.files import in_plain_words
from seg3d.data.cases import Case
from seg3d.data.images import ImageReader, require_finite
from seg3d.data.looking import (
    Intensities,
    count_labels,
    look_at_intensities,
    require_few,
    require_named,
)
from seg3d.data.notes import constant_channels, like_hounsfield, only_background
from seg3d.io import (
    SEGY,
    Header,
    Interpretation,
    LabelReader,
    LabelRest,
    NotLabels,
    suffix,
)
from seg3d.io.dicom.stack import MissingSlices
from seg3d.io.reoriented import AS_STORED, require_same_voxels

# Farther apart than rounding in headers puts them, in the units of the grid.
SILENT_DISTANCE = 1e-3
# What many programs write for 1 in a mask.
WHITE = 255


@dataclass(frozen=True)
class Expected:
    """What all cases should be like.

    Attributes:
        legal: label values that have a name; None if they need none.
        background: label values that mark nothing to be found.
        ignore: those of them that are to be ignored.
        rest: how values without a name are read.
        channels: names, if the dataset gives them.
        hounsfield: whether CT without a name would be normalised as if it were none.
    """

    legal: set[int] | None
    background: set[int]
    ignore: set[int]
    rest: LabelRest | None
    channels: tuple[str, ...] | None
    hounsfield: bool


@dataclass
class CaseLook:
    """What was seen in a case.

    Attributes:
        case: its files.
        problems: all that were found.
        headers: of the image files, those that can be read.
        channels: of all its files; None if not all can be read.
        label: header of the label.
        labels: voxels of every label value; empty if they could not be counted.
        seen: what was seen in the image, or in each of its files if these do not fit each other.
    """

    case: Case
    problems: list[Problem] = field(default_factory=list)
    headers: list[Header] = field(default_factory=list)
    channels: int | None = None
    label: Header | None = None
    labels: dict[int, int] = field(default_factory=dict)
    seen: list[Intensities] = field(default_factory=list)

    @property
    def image(self) -> Header | None:
        """That of the first image file that can be read."""
        return self.headers[0] if self.headers else None

    @property
    def not_finite(self) -> list[int]:
        """Values that are NaN or infinite, in each channel that could be read."""
        return [count for one in self.seen for count in one.not_finite]

    @property
    def lowest(self) -> list[float]:
        """Of each channel that could be read."""
        return [low for one in self.seen for low in one.lowest]

    @property
    def highest(self) -> list[float]:
        """Of each channel that could be read."""
        return [high for one in self.seen for high in one.highest]

    @property
    def digests(self) -> list[str]:
        """Of each channel that could be read."""
        return [digest for one in self.seen for digest in one.digests]

    def add(self, kind: Kind, what: str, given: str | None = None, fix: str | None = None) -> None:
        """Write down a problem that nobody raises."""
        self.problems.append(Problem(kind, self.case.name, what, given, fix=fix))

    @contextmanager
    def recorded(self, kind: Kind) -> Iterator[None]:
        """Write an error down as a problem of this kind, unless it says itself of which it is."""
        try:
            yield
        except (UserError, OSError, MemoryError) as error:
            said = error if isinstance(error, UserError) else _explained(error)
            if isinstance(error, MissingSlices):
                kind = Kind.SLICES
            elif isinstance(error, NotLabels):
                kind = Kind.LABEL_VALUES
            self.problems.append(Problem.of_error(kind, self.case.name, said))


def look_at_case(case: Case, expected: Expected) -> CaseLook:
    """Read image and label, once each, in slabs, and write down all that is wrong or odd."""
    look = CaseLook(case)
    with ExitStack() as opened:
        images = _open_images(look, opened)
        if case.label is not None:
            _look_at_label(look, opened, images, expected)
        for image in images:
            _look_at_image(look, image)
    _look_at_values(look, expected)
    return look


def _open_images(look: CaseLook, opened: ExitStack) -> list[ImageReader]:
    """All images as one, or one by one if they do not fit each other."""
    alone = []
    for path in look.case.images:
        with look.recorded(Kind.UNREADABLE):
            alone.append(opened.enter_context(ImageReader((path,))))
    for reader in alone:
        look.headers.append(reader.header)
        _add_header_notes(look, reader.header)
    if len(alone) == len(look.case.images) > 1:
        with look.recorded(Kind.CHANNELS):
            alone = [opened.enter_context(ImageReader(look.case.images))]
    if len(alone) == 1:
        look.channels = alone[0].header.channels
    return alone


def _look_at_label(
    look: CaseLook, opened: ExitStack, images: Sequence[ImageReader], expected: Expected
) -> None:
    path = look.case.label
    assert path is not None
    label = None
    with look.recorded(Kind.UNREADABLE):
        label = opened.enter_context(LabelReader(path, expected.rest))
    if label is None:
        return
    look.label = label.header
    _add_header_notes(look, label.header)
    if images:
        with look.recorded(Kind.GRID):
            _compare_grids(look, images[0], label.header)
    with look.recorded(Kind.UNREADABLE):
        look.labels = count_labels(path, label)
        with look.recorded(Kind.UNNAMED):
            require_named(path, look.labels, expected.legal)
        require_few(path, look.labels)
        if label.stored_dtype.kind == "f" and not _is_survey(path):
            look.add(
                Kind.FLOATS,
                f"{path} holds whole numbers, stored as floating point",
                fix="store them as integers",
            )
        _look_at_labels(look, expected)


def _is_survey(path: Path | Interpretation) -> bool:
    """SEG-Y is floating point more often than not."""
    return not isinstance(path, Path) or suffix(path) in SEGY


def _compare_grids(look: CaseLook, opened: ImageReader, label: Header) -> None:
    assert look.case.label is not None
    path, image = opened.images[0], opened.header
    turn = require_same_voxels(path, image.grid, look.case.label, label.grid)
    if turn != AS_STORED:
        look.add(
            Kind.AXES,
            f"{look.case.label} has the voxels of {path}, along other axes",
            f"{image.grid.orientation} and {label.grid.orientation}",
            "nothing: it is harmless, seg3d puts them in order",
        )
    apart = image.grid.distance(turn.grid(label.grid).affine)
    if apart > SILENT_DISTANCE:
        look.add(
            Kind.APART,
            f"{path} and {look.case.label} lie a little apart",
            f"up to {apart:.3g} {image.grid.units[0]}, less than a hundredth of a voxel",
            "nothing, if headers were rounded: voxels still meet",
        )


def _look_at_labels(look: CaseLook, expected: Expected) -> None:
    found = look.labels.keys() - {0}
    if found == {WHITE} and WHITE not in (expected.legal or ()):
        look.add(
            Kind.MASK_255,
            f"{look.case.label} marks with {WHITE}",
            fix=f"write 1 in its place, or name {WHITE} in data.labels",
        )
    for note in only_background(look.case.name, look.labels, expected.background, expected.ignore):
        look.problems.append(Problem.of_note(Kind.EMPTY, look.case.name, note))


def _look_at_image(look: CaseLook, image: ImageReader) -> None:
    with look.recorded(Kind.UNREADABLE):
        seen = look_at_intensities(image)
        look.seen.append(seen)
        with look.recorded(Kind.NOT_FINITE):
            require_finite(image.images, sum(seen.not_finite))


def _look_at_values(look: CaseLook, expected: Expected) -> None:
    """What is odd about the intensities, of which all channels may have been read or some."""
    name, lowest, digests = look.case.name, look.lowest, look.digests
    if not lowest:
        return
    channels = expected.channels
    if channels is None or len(channels) != len(lowest):
        channels = tuple(f"channel {number}" for number in range(len(lowest)))
    for note in constant_channels(name, channels, lowest, look.highest):
        look.problems.append(Problem.of_note(Kind.CONSTANT, name, note))
    assert look.image is not None
    if expected.hounsfield:
        for note in like_hounsfield(name, lowest, look.image.grid.units):
            look.problems.append(Problem.of_note(Kind.HOUNSFIELD, name, note))
    first: dict[str, str] = {}
    for channel, digest in zip(channels, digests, strict=True):
        if (twin := first.setdefault(digest, channel)) != channel:
            look.add(
                Kind.SAME_VOXELS,
                f"{channel} holds the same voxels as {twin}",
                fix="look whether a file was copied in place of another",
            )


def _add_header_notes(look: CaseLook, header: Header) -> None:
    for note in header.notes:
        look.problems.append(Problem.of_note(Kind.HEADER, look.case.name, note))


def _explained(error: OSError | MemoryError) -> UserError:
    if isinstance(error, MemoryError):
        return UserError("a slice of the volume does not fit into the memory", given=error)
    return in_plain_words(error) or UserError("a file cannot be read", given=error)
