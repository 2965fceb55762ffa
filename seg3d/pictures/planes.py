"""Pictures of segmentations: the three planes through a point, with labels in colour."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from seg3d.geometry import Vector3

OPACITY = 0.45
OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))
# Inches; 100 pixels each.
WIDTH, MARGIN, TITLE, LEGEND_ROW = 9.0, 0.35, 0.45, 0.26
TALLEST_ROW = 4.0
LEGEND_COLUMNS = 6


# A name with dollar signs is no formula.
@rc_context({"text.parse_math": False})
def three_planes(
    image: np.ndarray,
    overlays: dict[str, np.ndarray],
    class_names: Sequence[str],
    spacing: Vector3,
    title: str = "",
    orientation: str = "none",
    centre: Sequence[int] | None = None,
) -> np.ndarray:
    """Draw the image alone and under each overlay, in three planes.

    All panels are to one scale. The legend names the classes that can be seen.

    Args:
        image: `(X, Y, Z)`.
        overlays: one or more class numbers `(X, Y, Z)` by the name of their row; 0 and negative
            numbers are not drawn.
        class_names: background first.
        spacing: mm, so that the planes have their true proportions.
        title: above the picture.
        orientation: where the axes point, such as ``RAS``, for letters at the edges; or ``none``.
        centre: voxel that the planes go through; None for where labels of the first overlay are
            densest.

    Returns:
        `(H, 900, 3)` uint8.
    """
    if centre is None:
        centre = _densest_planes(next(iter(overlays.values())))
    rows: dict[str, np.ndarray | None] = {"image": None, **overlays}
    seen = sorted({
        int(number)
        for labels in overlays.values()
        for axis in range(3)
        for number in np.unique(np.take(labels, centre[axis], axis))
        if number > 0
    })  # fmt: skip
    x, y, z = (size * step for size, step in zip(image.shape, spacing, strict=True))
    row_height = min((WIDTH - 2 * MARGIN) * max(y, z) / (y + x + x), TALLEST_ROW)
    legend = LEGEND_ROW * math.ceil(len(seen) / LEGEND_COLUMNS) + 0.15
    height = row_height * len(rows) + TITLE + legend

    figure = Figure(figsize=(WIDTH, height), dpi=100, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(
        len(rows), 3, squeeze=False,
        gridspec_kw={
            "width_ratios": (y, x, x), "wspace": 0.03, "hspace": 0.03,
            "left": MARGIN / WIDTH, "right": 1 - MARGIN / WIDTH,
            "bottom": legend / height, "top": 1 - TITLE / height,
        },
    )  # fmt: skip
    low, high = np.percentile(image, (1, 99.5))
    colours = class_colours(len(class_names))
    for row, (name, labels) in zip(panels, rows.items(), strict=True):
        for axis, panel in enumerate(row):
            across, up = (other for other in range(3) if other != axis)
            placed = {
                "origin": "lower",
                "extent": (
                    0,
                    image.shape[across] * spacing[across],
                    0,
                    image.shape[up] * spacing[up],
                ),
            }
            panel.imshow(
                np.take(image, centre[axis], axis).T, cmap="gray", vmin=low, vmax=high, **placed
            )
            if labels is not None:
                plane = np.take(labels, centre[axis], axis).T
                panel.imshow(
                    np.ma.masked_less_equal(plane, 0),
                    cmap=colours, vmin=-0.5, vmax=len(class_names) - 0.5, alpha=OPACITY,
                    interpolation="nearest", **placed,
                )  # fmt: skip
            panel.set_axis_off()
            if orientation != "none":
                _write_directions(panel, orientation[across], orientation[up])
        middle = row[0].get_subplotspec().get_position(figure).y0 + row_height / height / 2
        figure.text(
            MARGIN / WIDTH / 2, middle, name, color="white", fontsize=11, rotation="vertical",
            ha="center", va="center",
        )  # fmt: skip
    figure.legend(
        handles=[Patch(color=colours(number), label=class_names[number]) for number in seen],
        loc="lower center", ncols=LEGEND_COLUMNS, frameon=False, labelcolor="white", fontsize=10,
        borderaxespad=0.3, labelspacing=0.4,
    )  # fmt: skip
    figure.text(
        0.5, 1 - TITLE / height / 2, title, color="white", fontsize=12, ha="center", va="center"
    )
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _write_directions(panel: Axes, right: str, top: str) -> None:
    """Letters at the edges of a panel, as radiologists expect them."""
    for x, y, letter, horizontal, vertical in (
        (0.02, 0.5, OPPOSITE[right], "left", "center"),
        (0.98, 0.5, right, "right", "center"),
        (0.5, 0.02, OPPOSITE[top], "center", "bottom"),
        (0.5, 0.98, top, "center", "top"),
    ):
        _write(panel, x, y, letter, horizontal, vertical)


def _write(panel: Axes, x: float, y: float, text: str, horizontal: str, vertical: str) -> None:
    """Text that can be read on any image; x and y from 0 to 1."""
    panel.text(
        x, y, text, ha=horizontal, va=vertical, transform=panel.transAxes,
        color="white", fontsize=9, path_effects=[withStroke(linewidth=2, foreground="black")],
    )  # fmt: skip


def _densest_planes(labels: np.ndarray) -> list[int]:
    """Per axis, the plane that cuts most labelled voxels; the middle one if there are none."""
    labelled = labels > 0
    planes = []
    for axis in range(3):
        counts = labelled.sum(tuple(other for other in range(3) if other != axis))
        planes.append(int(counts.argmax()) if counts.any() else labels.shape[axis] // 2)
    return planes


def class_colours(classes: int) -> ListedColormap:
    """Bright colours, so that none is mistaken for the image; neighbours are far apart in hue."""
    golden = (5**0.5 - 1) / 2
    return ListedColormap(
        [(0.0, 0.0, 0.0)]
        + [
            tuple(hsv_to_rgb((number * golden % 1, 0.7, 1.0 - 0.15 * (number // 8 % 3))))
            for number in range(classes - 1)
        ]
    )
