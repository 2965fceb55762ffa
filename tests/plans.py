"""Small plans and configs for tests."""

from __future__ import annotations

from typing import Any

from seg3d.config import AugmentConfig, Config, config_from_tree
from seg3d.plan import ChannelIntensity, LabelClass, Plan

AUGMENTATIONS = tuple(AugmentConfig.model_fields)


def small_plan(**changes: Any) -> Plan:
    """One channel as it is, three classes of values 0, 1, 2, patches of 16³ voxels."""
    return Plan(
        **{
            "dataset": "test",
            "orientation": "none",
            "spacing": None,
            "typical_spacing": (1.0, 1.0, 1.0),
            "channels": [ChannelIntensity(name="T1", kind="none")],
            "classes": classes([0], [1], [2]),
            "ignore": [],
            "patch_size": (16, 16, 16),
            "kernels": [(3, 3, 3), (3, 3, 3)],
            "strides": [(1, 1, 1), (2, 2, 2)],
            "features": [4, 8],
        }
        | changes
    )


def classes(*values: list[int]) -> list[LabelClass]:
    """Classes with these label values, background first."""
    return [LabelClass(name=f"class {number}", values=one) for number, one in enumerate(values)]


def only(augmentation: str | None = None, **settings: Any) -> dict[str, Any]:
    """The section ``augment`` with one augmentation always, or none, and no other."""
    off = {name: {"prob": 0.0} for name in AUGMENTATIONS}
    return off if augmentation is None else off | {augmentation: {"prob": 1.0} | settings}


def small_config(**sections: Any) -> Config:
    """A config without augmentation, for one process."""
    return config_from_tree({"augment": only(), "data": {"workers": 0}} | sections)
