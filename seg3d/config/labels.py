"""The keys under ``data.labels``: values of label files, or horizons."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from seg3d.config.section import Section
from seg3d.config.values import Integer, NonNegativeFloat, Number, distinct

Rest = Literal["background", "ignore"]
REST_NAME = "rest"


def _words_for_the_rest_alone(labels: dict[str, Any]) -> dict[str, Any]:
    if any(isinstance(value, str) for name, value in labels.items() if name != REST_NAME):
        raise ValueError("should be numbers")
    return labels


Labels = Annotated[
    dict[str, Integer | list[Integer] | Rest], AfterValidator(_words_for_the_rest_alone)
]


def _columns_of_picks(columns: list[str]) -> list[str]:
    if sorted(set(columns) - {"_"}) not in (["crossline", "inline", "time"], ["time", "x", "y"]):
        raise ValueError("should say where each pick lies")
    return columns


def _not_zero(value: float) -> float:
    if value == 0:
        raise ValueError("should not be 0")
    return value


class HorizonsConfig(Section):
    """Labels made from the picks of horizons."""

    horizons: Annotated[
        list[str], Field(min_length=1), AfterValidator(distinct),
        "list of file names, each once",
    ] = Field(
        description="files in horizons/SURVEY/, from top to bottom; each row has inline, crossline "
        "and time (or depth)",
    )  # fmt: skip
    layers: Annotated[list[str], "list of names"] | None = Field(
        None,
        description="names of the layers from top to bottom, one more than horizons; those of one "
        "name are one class, background and ignore may be among them; null makes names of the "
        "files",
    )
    columns: Annotated[
        list[Literal["inline", "crossline", "x", "y", "time", "_"]],
        AfterValidator(_columns_of_picks),
        "list of time and either inline and crossline or x and y, with _ for other columns",
    ] | None = Field(
        None, description="of the files; null goes by the names above the numbers"
    )  # fmt: skip
    scale: Annotated[Number, AfterValidator(_not_zero), "number other than 0"] = Field(
        1.0,
        description="what turns times in the files into ms (or m) downwards: 1000 for seconds, -1 "
        "for heights",
    )
    reach: NonNegativeFloat = Field(
        10.0, description="bins from the nearest pick up to which gaps are filled; the rest is "
        "ignored"
    )  # fmt: skip

    @model_validator(mode="after")
    def _a_name_for_each_layer(self) -> HorizonsConfig:
        if self.layers is not None and len(self.layers) != len(self.horizons) + 1:
            raise ValueError(f"{len(self.horizons) + 1} layers for {len(self.horizons)} horizons")
        return self


def _labels_kind(value: Any) -> str:
    """A class may be called horizons too; it has integers."""
    if isinstance(value, dict):
        given = value.get("horizons", 0)
        integers = given if isinstance(given, list) and given else [given]
        return "classes" if all(isinstance(one, int) for one in integers) else "horizons"
    return "horizons" if isinstance(value, HorizonsConfig) else "classes"


LabelsConfig = Annotated[
    Annotated[Labels | None, Tag("classes")] | Annotated[HorizonsConfig, Tag("horizons")],
    Discriminator(_labels_kind),
    "mapping of class names to integers or lists of integers, and of rest to background or ignore; "
    "or null, or horizons (see below)",
]
