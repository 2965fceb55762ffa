"""Pictures of seismic volumes: an inline, a crossline and a time slice, with labels in colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from seg3d.io import Header, segy
from seg3d.pictures.planes import class_colours

# Inches; 100 pixels each.
WIDTH, TALLEST_ROW = 9.0, 4.0
MARGINS = 1.1  # of all axes' numbers and names, side by side
ROW_MARGIN, TITLE, LEGEND = 0.55, 0.35, 0.3
# Amplitudes beyond this percentile of their absolute values are drawn as black and white.
CLIP = 99


class Scale(NamedTuple):
    """What is written along an axis.

    Attributes:
        name: of the axis.
        first: number of the first voxel.
        step: from one voxel to the next.
        unit: of the numbers, if they have one.
    """

    name: str
    first: float = 0.0
    step: float = 1.0
    unit: str = ""

    def at(self, place: int) -> str:
        """What a voxel is called."""
        return f"{self.name} {self.first + place * self.step:g} {self.unit}".rstrip()

    def edges(self, count: int) -> tuple[float, float]:
        """Where the first of so many voxels begins and the last one ends."""
        return self.first - self.step / 2, self.first + (count - 0.5) * self.step

    def __str__(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


Scales = tuple[Scale, Scale, Scale]
VOXELS: Scales = (Scale("inline"), Scale("crossline"), Scale("sample"))


def scales_of(header: Header) -> Scales:
    """The line numbers and times (or depths) of a survey; of other volumes, numbers of voxels."""
    survey = header.native
    if not isinstance(survey, segy.Survey):
        return VOXELS
    grid = survey.grid
    down = Scale(grid.axes[2], float(grid.affine[2, 3]), grid.spacing[2], grid.units[2])
    return (
        Scale("inline", survey.inline.first, survey.inline.step),
        Scale("crossline", survey.crossline.first, survey.crossline.step),
        down,
    )


# A name with dollar signs is no formula.
@rc_context({"text.parse_math": False})
def seismic_sections(
    image: np.ndarray,
    overlays: dict[str, np.ndarray],
    class_names: Sequence[str],
    scales: Scales = VOXELS,
    title: str = "",
    opacity: float = 0.8,
) -> np.ndarray:
    """Draw the amplitudes alone and under each overlay, in three planes through the middle.

    (The planes with most labels would be those that run along a fault.) Sections have time
    downwards, the time slice inlines to the right. Voxels are drawn as squares, as sections are
    usually exaggerated; grey is an amplitude of zero.

    Args:
        image: `(inline, crossline, time)`.
        overlays: one or more class numbers of that shape by the name of their row; 0 and negative
            numbers are not drawn.
        class_names: background first.
        scales: of the three axes.
        title: above the picture.
        opacity: of the overlays.

    Returns:
        `(H, 900, 3)` uint8.
    """
    rows: dict[str, np.ndarray | None] = {"amplitude": None, **overlays}
    inlines, crosslines, samples = image.shape
    wide = crosslines, inlines, inlines
    row_height = (WIDTH - MARGINS) * max(samples, crosslines) / sum(wide)
    row_height = min(row_height, TALLEST_ROW) + ROW_MARGIN
    figure = Figure(
        figsize=(WIDTH, row_height * len(rows) + TITLE + LEGEND), dpi=100, layout="constrained"
    )
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), 3, squeeze=False, gridspec_kw={"width_ratios": wide})
    limit = float(np.percentile(np.abs(image), CLIP)) or 1.0
    colours = class_colours(len(class_names))
    for row, (name, labels) in zip(panels, rows.items(), strict=True):
        for axis, panel in enumerate(row):
            place = image.shape[axis] // 2
            shown = _plane(image, axis, place)
            placed = _axes(panel, axis, place, image.shape, scales)
            panel.imshow(shown, cmap="gray", vmin=-limit, vmax=limit, **placed)
            if labels is not None:
                panel.imshow(
                    np.ma.masked_less_equal(_plane(labels, axis, place), 0),
                    cmap=colours, vmin=-0.5, vmax=len(class_names) - 0.5, alpha=opacity,
                    interpolation="nearest", **placed,
                )  # fmt: skip
        row[0].set_ylabel(f"{name}\n{row[0].get_ylabel()}", fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.legend(
        handles=[
            Patch(color=colours(number), label=name)
            for number, name in enumerate(class_names)
            if number
        ],
        loc="outside lower center", ncols=len(class_names), frameon=False, fontsize=9,
    )  # fmt: skip
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _plane(volume: np.ndarray, axis: int, place: int) -> np.ndarray:
    """`(down, across)`."""
    return np.take(volume, place, axis).T


def _axes(
    panel: Axes, axis: int, place: int, shape: tuple[int, ...], scales: Scales
) -> dict[str, object]:
    """Write names and numbers to a panel; returns how images are to be put into it."""
    across, down = (other for other in range(3) if other != axis)
    panel.set_title(scales[axis].at(place), fontsize=9)
    panel.set_xlabel(str(scales[across]), fontsize=8)
    panel.set_ylabel(str(scales[down]), fontsize=8)
    panel.tick_params(labelsize=7)
    left, right = scales[across].edges(shape[across])
    first, last = scales[down].edges(shape[down])
    in_time = down == 2
    return {
        "extent": (left, right, *((last, first) if in_time else (first, last))),
        "origin": "upper" if in_time else "lower",
        "aspect": scales[across].step / scales[down].step,
    }
