"""Pictures of segmentations: the three planes through a point, with labels in colour."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from seg3d.geometry import Vector3

OPACITY = 0.45


def three_planes(
    image: np.ndarray,
    overlays: dict[str, np.ndarray],
    class_names: Sequence[str],
    spacing: Vector3,
    title: str = "",
) -> np.ndarray:
    """Draw the image alone and under each overlay, in the three planes where labels are densest.

    Args:
        image: `(X, Y, Z)`, in an orientation such as RAS.
        overlays: class numbers `(X, Y, Z)` by the name of their row; 0 is not drawn.
        class_names: background first.
        spacing: mm, so that the planes have their true proportions.
        title: above the picture.

    Returns:
        `(H, W, 3)` uint8.
    """
    centre = _densest_planes(next(iter(overlays.values())))
    low, high = np.percentile(image, (1, 99.5))
    rows: dict[str, np.ndarray | None] = {"image": None, **overlays}
    figure = Figure(figsize=(9, 2.7 * len(rows) + 0.8), dpi=100, facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 3, squeeze=False)
    colours = _colours(len(class_names))
    for row, (name, labels) in zip(axes, rows.items(), strict=True):
        for axis, panel in enumerate(row):
            across, up = (other for other in range(3) if other != axis)
            aspect = spacing[up] / spacing[across]
            panel.imshow(
                np.take(image, centre[axis], axis).T,
                cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", aspect=aspect,
            )  # fmt: skip
            if labels is not None:
                plane = np.take(labels, centre[axis], axis).T
                panel.imshow(
                    np.ma.masked_less_equal(plane, 0),
                    cmap=colours, vmin=-0.5, vmax=len(class_names) - 0.5,
                    alpha=OPACITY, origin="lower", aspect=aspect, interpolation="nearest",
                )  # fmt: skip
            panel.set_xticks([])
            panel.set_yticks([])
            for side in panel.spines.values():
                side.set_visible(False)
        row[0].set_ylabel(name, color="white", fontsize=11)
    patches = [
        Patch(color=colours(number), label=name)
        for number, name in enumerate(class_names)
        if number > 0
    ]
    figure.legend(
        handles=patches[:12], loc="lower center", ncols=min(len(patches), 6), frameon=False,
        labelcolor="white", fontsize=10,
    )  # fmt: skip
    figure.suptitle(title, color="white", fontsize=12)
    figure.tight_layout(rect=(0, 0.05, 1, 0.99))
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]


def _densest_planes(labels: np.ndarray) -> list[int]:
    """Per axis, the plane that cuts most labelled voxels; the middle one if there are none."""
    labelled = labels > 0
    planes = []
    for axis in range(3):
        counts = labelled.sum(tuple(other for other in range(3) if other != axis))
        planes.append(int(counts.argmax()) if counts.any() else labels.shape[axis] // 2)
    return planes


def _colours(classes: int) -> ListedColormap:
    base = mpl.colormaps["tab10" if classes <= 10 else "tab20"]
    return ListedColormap(["black", *[base(number % base.N) for number in range(classes - 1)]])
