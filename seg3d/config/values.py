"""What the value of a key may be."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from seg3d.common.choices import BITS
from seg3d.config.quantities import as_bytes, as_seconds

MOST, LARGEST = 2**40, 1e30
MOST_PATCHES = 4096


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


def _of_this_world(value: float) -> float:
    # What is computed from several of them still fits 64 bits, or float32.
    if abs(value) > (MOST if isinstance(value, int) else LARGEST):
        raise ValueError("should be a number of this world")
    return value


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("should be given as [smaller, larger]")
    return pair


def distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("should be given once each")
    return values


def _orientation(code: str) -> str:
    if code != "none" and sorted(code.translate(str.maketrans("LPI", "RAS"))) != ["A", "R", "S"]:
        raise ValueError("should be an orientation")
    return code


def _bits(bits: float) -> float:
    if bits not in BITS:
        raise ValueError("should be a number of bits that there is")
    return bits


# A text among the annotations says what is legal, where types and bounds would say it badly.
Integer = Annotated[int, Field(strict=True), AfterValidator(_of_this_world)]
Number = Annotated[
    float, BeforeValidator(_number), Field(allow_inf_nan=False), AfterValidator(_of_this_world)
]
Probability = Annotated[Number, Field(ge=0, le=1)]
BelowOne = Annotated[Number, Field(ge=0, lt=1)]
PositiveFloat = Annotated[Number, Field(gt=0)]
NonNegativeFloat = Annotated[Number, Field(ge=0)]
PositiveInt = Annotated[Integer, Field(ge=1)]
BatchSize = Annotated[PositiveInt, Field(le=MOST_PATCHES)]
Seconds = Annotated[PositiveFloat, BeforeValidator(as_seconds), "a time (90s, 30m, 2h)"]
Bytes = Annotated[PositiveFloat, BeforeValidator(as_bytes), "a size (512MiB, 8GiB)"]
Spacing = tuple[PositiveFloat, PositiveFloat, PositiveFloat]
Size3 = tuple[PositiveInt, PositiveInt, PositiveInt]
Range = Annotated[
    tuple[PositiveFloat, PositiveFloat], AfterValidator(_ordered), "[smaller, larger], both > 0"
]
Percentiles = Annotated[
    tuple[Annotated[Number, Field(ge=0, le=100)], Annotated[Number, Field(ge=0, le=100)]],
    AfterValidator(_ordered),
    "[smaller, larger], from 0 to 100",
]
BitsPerVoxel = Annotated[Number, AfterValidator(_bits), "0.125, 0.25, 0.5, 1, 2 or 4"]
BitsOfLayers = Annotated[
    dict[str, Literal["exact"] | BitsPerVoxel],
    "mapping of layer names (* stands for anything) to bits",
]
Axes = Annotated[
    list[Annotated[Integer, Field(ge=0, le=2)]],
    AfterValidator(distinct),
    "list of 0, 1, 2, each at most once",
]
Orientation = Annotated[
    str, AfterValidator(_orientation), "three letters, one each of R/L, A/P and S/I, or none"
]
Channels = Annotated[list[PositiveInt], Field(min_length=2), "list of two or more integers ≥ 1"]
Tversky = Annotated[tuple[PositiveFloat, PositiveFloat], "[of false alarms, of misses], both > 0"]
RateFactors = Annotated[
    dict[str, PositiveFloat],
    "mapping of parameter names (* stands for anything) to numbers > 0",
]
ClassWeights = Annotated[dict[str, PositiveFloat], "mapping of class names to numbers > 0"]
Folds = Annotated[
    list[Annotated[Integer, Field(ge=0)] | Literal["all"]],
    Field(min_length=1),
    AfterValidator(distinct),
    "list of fold numbers, or [all]",
]
