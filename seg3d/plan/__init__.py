"""What the dataset makes of the config: spacing, intensities, patch, network shape.

The plan is written to the run folder, is part of every checkpoint, and is all that prediction
needs besides the weights.
"""

from seg3d.plan.build import build_loss, build_network
from seg3d.plan.by_memory import (
    USABLE,
    Choice,
    Peak,
    little_of,
    memory_to_plan_for,
    plan_for_memory,
    predicted_peak,
)
from seg3d.plan.classes import (
    IGNORE_NAME,
    background_values,
    is_of_regions,
    label_classes,
    named_labels,
    regions_in,
    rest_of,
)
from seg3d.plan.fingerprint import MOST_CLASSES, CaseFingerprint, Labelled, label_counts
from seg3d.plan.inherited import inherited_config, inherited_plan
from seg3d.plan.make import make_plan, passes_per_step, source_of, typical_shape, with_patch
from seg3d.plan.network import as_shape, divisors_of
from seg3d.plan.parameters import by_factor
from seg3d.plan.plan import ChannelIntensity, LabelClass, NnunetRules, Plan
from seg3d.plan.plan_file import adopted, load_plan, save_plan

__all__ = [
    "MOST_CLASSES",
    "IGNORE_NAME",
    "USABLE",
    "CaseFingerprint",
    "ChannelIntensity",
    "Choice",
    "LabelClass",
    "Labelled",
    "NnunetRules",
    "Peak",
    "Plan",
    "as_shape",
    "adopted",
    "background_values",
    "build_loss",
    "build_network",
    "by_factor",
    "divisors_of",
    "inherited_config",
    "inherited_plan",
    "is_of_regions",
    "label_classes",
    "label_counts",
    "little_of",
    "load_plan",
    "make_plan",
    "memory_to_plan_for",
    "named_labels",
    "plan_for_memory",
    "passes_per_step",
    "predicted_peak",
    "regions_in",
    "rest_of",
    "save_plan",
    "source_of",
    "typical_shape",
    "with_patch",
]
