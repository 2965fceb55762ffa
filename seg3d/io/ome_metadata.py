"""What OME-Zarr says about axes, units and resolution levels, and what it means as an affine.

Read are versions 0.4 and 0.5, written is 0.5 (https://ngff.openmicroscopy.org/0.5/).

OME-Zarr knows where voxels lie along the axes x, y and z, but not how these lie in the world. They
are taken to be NIfTI's (RAS+): x to the right, y to the front, z up. What seg3d writes of a volume
whose axes lie otherwise says so in an attribute of its own, ``seg3d: {to_ras: ...}``, a `(4, 4)`
matrix from the physical x, y, z in mm to RAS+; other programs see spacing and units.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, Field, ValidationError, model_validator

from seg3d.common.errors import UserError
from seg3d.geometry import Grid

SPACE = ("x", "y", "z")
MILLIMETRES = {
    "angstrom": 1e-7, "nanometer": 1e-6, "micrometer": 1e-3, "millimeter": 1.0,
    "centimeter": 10.0, "decimeter": 100.0, "meter": 1e3, "kilometer": 1e6,
    "inch": 25.4, "foot": 304.8, "yard": 914.4, "mile": 1_609_344.0,
}  # fmt: skip


class Axis(BaseModel):
    name: str
    type: str | None = None
    unit: str | None = None

    @property
    def key(self) -> str:
        """One of x, y, z and c, or the name of an axis that a volume does not have."""
        return "c" if self.type == "channel" else self.name.lower()

    @model_validator(mode="after")
    def _known_unit(self) -> Self:
        if self.key in SPACE and self.unit is not None and self.unit not in MILLIMETRES:
            raise ValueError(f"unit {self.unit!r} is none of {', '.join(MILLIMETRES)}")
        return self


class Scale(BaseModel):
    type: Literal["scale"]
    factors: list[float] = Field(alias="scale")


class Translation(BaseModel):
    type: Literal["translation"]
    offsets: list[float] = Field(alias="translation")


class Identity(BaseModel):
    type: Literal["identity"]


Transforms = list[Annotated[Scale | Translation | Identity, Field(discriminator="type")]]
Row = tuple[float, float, float, float]


class Level(BaseModel):
    path: str
    coordinateTransformations: Transforms = []


class Multiscale(BaseModel):
    """An image, as the attributes of its group describe it."""

    axes: list[Axis]
    datasets: list[Level] = Field(min_length=1)
    coordinateTransformations: Transforms = []
    to_ras: tuple[Row, Row, Row, Row] = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))

    def affine(self, level: Level) -> np.ndarray:
        """`(4, 4)`, from the index along x, y and z to RAS+ mm."""
        # Numbers that are not finite go through to where affines are checked.
        with np.errstate(invalid="ignore"):
            return self._affine(level)

    def _affine(self, level: Level) -> np.ndarray:
        scale, offset = np.ones(len(self.axes)), np.zeros(len(self.axes))
        for step in (*level.coordinateTransformations, *self.coordinateTransformations):
            if isinstance(step, Scale):
                scale, offset = scale * step.factors, offset * step.factors
            elif isinstance(step, Translation):
                offset = offset + step.offsets
        physical = np.eye(4)
        for axis, factor, shift in zip(self.axes, scale, offset, strict=True):
            if axis.key in SPACE:
                row, millimetres = SPACE.index(axis.key), MILLIMETRES[axis.unit or "millimeter"]
                physical[row, row] = factor * millimetres
                physical[row, 3] = shift * millimetres
        return np.array(self.to_ras) @ physical

    @model_validator(mode="after")
    def _a_number_for_each_axis(self) -> Self:
        every_level = itertools.chain(*(level.coordinateTransformations for level in self.datasets))
        for step in (*every_level, *self.coordinateTransformations):
            if isinstance(step, Identity):
                continue
            numbers = step.factors if isinstance(step, Scale) else step.offsets
            if len(numbers) != len(self.axes):
                raise ValueError(f"{step.type} {numbers} has not one number for each axis")
        return self


def multiscale_of(path: Path, attributes: dict[str, Any]) -> Multiscale | None:
    """The first image that a group's attributes describe, or None if they describe none.

    Args:
        path: of the group, for messages.
        attributes: of the group.

    Raises:
        UserError: if the description is not as OME-Zarr 0.4 or 0.5 has it.
    """
    try:
        described = attributes.get("ome", attributes)
        if "multiscales" not in described:
            return None
        image = described["multiscales"][0] | attributes.get("seg3d", {})
        return Multiscale.model_validate(image)
    except (LookupError, TypeError) as error:
        problems = f"{type(error).__name__}: {error}"
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()
        )
    raise UserError(
        f"{path}: its multiscales metadata cannot be understood",
        given=problems,
        legal="OME-Zarr 0.4 or 0.5",
    )


def attributes_of(name: str, grid: Grid, axes: str) -> dict[str, Any]:
    """What the attributes of a group say about an image of one level, the array ``0``.

    Args:
        name: of the image.
        grid: its shape and position.
        axes: of the array, a letter each, such as ``czyx``.
    """
    to_ras = np.eye(4)
    to_ras[:3, :3] = grid.affine[:3, :3] / grid.spacing
    origin = np.linalg.solve(to_ras[:3, :3], grid.affine[:3, 3])
    scale = dict(zip(SPACE, grid.spacing, strict=True))
    offset = dict(zip(SPACE, origin.tolist(), strict=True))
    ome = {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "axes": [
                    {"name": axis, "type": "channel"}
                    if axis == "c"
                    else {"name": axis, "type": "space", "unit": "millimeter"}
                    for axis in axes
                ],
                "datasets": [
                    {
                        "path": "0",
                        "coordinateTransformations": [
                            {"type": "scale", "scale": [scale.get(axis, 1.0) for axis in axes]},
                            {
                                "type": "translation",
                                "translation": [offset.get(axis, 0.0) for axis in axes],
                            },
                        ],
                    }
                ],
            }
        ],
    }
    if np.array_equal(to_ras, np.eye(4)):
        return {"ome": ome}
    return {"ome": ome, "seg3d": {"to_ras": to_ras.tolist()}}
