"""What a model of nnU-Net's is to seg3d: a config and a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from seg3d.common.errors import UserError
from seg3d.config import Config, config_from_tree
from seg3d.nnunet.checkpoint import NnunetCheckpoint
from seg3d.nnunet.dataset_file import Labels
from seg3d.nnunet.network import Shape
from seg3d.nnunet.plans_file import Configuration, Plans
from seg3d.plan import ChannelIntensity, NnunetRules, Plan

# Normalisations, and what seg3d calls them.
SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "unit",
    "RGBTo01Normalization": "rgb",
}
# Readers of files, and the orientation that they turn volumes to.
READERS = {
    "SimpleITKIO": "none",
    "NibabelIO": "none",
    "Tiff3DIO": "none",
    "NibabelIOWithReorient": "RAS",
    "SimpleITKIOWithReorient": "RAS",
}
SPLINES, LINEAR, NOTHING = (
    "resample_data_or_seg_to_shape",
    "resample_torch_fornnunet",
    "no_resampling_hack",
)
ORDERS = (0, 1, 3)
SMALLEST_STD = 1e-8
# As long as nnU-Net trains, unless it is told otherwise.
EPOCHS = 1000


def plan_of(
    path: Path,
    checkpoint: NnunetCheckpoint,
    plans: Plans,
    configuration: Configuration,
    shape: Shape,
    channels: tuple[str, ...],
    labels: Labels,
) -> Plan:
    """The plan of a model, whose plans are the file ``path``.

    Raises:
        UserError: if it asks for something that seg3d does not do.
    """
    _require(path, "preprocessor_name", configuration.preprocessor_name, ["DefaultPreprocessor"])
    _require(path, "image_reader_writer", plans.image_reader_writer, list(READERS))
    spacing, rules = _resampling(path, plans, configuration)
    where = f"nnU-Net: {plans.dataset_name or path.parent.name}, {checkpoint.configuration}"
    values: dict[str, Any] = {
        "dataset": f"{where}, {checkpoint.trainer}",
        "orientation": READERS[plans.image_reader_writer],
        "spacing": spacing,
        "typical_spacing": configuration.spacing,
        "channels": _intensities(path, plans, configuration, channels),
        "classes": labels.classes,
        "regions": labels.regions,
        "ignore": labels.ignore,
        "patch_size": configuration.patch_size,
        "batch_size": configuration.batch_size,
        "kernels": shape.kernels,
        "strides": shape.strides,
        "features": shape.features,
        "blocks": shape.blocks,
        "nnunet": rules,
    }
    try:
        return Plan.model_validate(values)
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3]
        )
        raise UserError(f"{path} describes no model that can be", given=said) from error


def config_of(checkpoint: NnunetCheckpoint, plan: Plan) -> Config:
    """The config of a run that would have made the model, as far as there is one."""
    axes = sorted(checkpoint.mirror_axes)
    data: dict[str, Any] = {"labels": {one.name: one.values for one in plan.classes}}
    if plan.regions is not None:
        data["regions_class_order"] = plan.regions
    return config_from_tree(
        {
            "data": data,
            "preprocess": {
                "orientation": plan.orientation,
                "spacing": "none" if plan.spacing is None else plan.spacing,
            },
            "patch": {"size": plan.patch_size},
            "augment": {"flip": {"axes": axes}},
            "network": {"preset": "plain" if plan.blocks is None else "resenc-l"},
            "train": {"batch_size": plan.batch_size, "epochs": EPOCHS},
            "predict": {"mirror": bool(axes), "overlap": 0.5},
        },
        source="nnU-Net",
    )


def _resampling(
    path: Path, plans: Plans, configuration: Configuration
) -> tuple[list[float] | None, NnunetRules]:
    names = configuration.resampling_fn_data, configuration.resampling_fn_probabilities
    for key, name in zip(("data", "probabilities"), names, strict=True):
        _require(path, f"resampling_fn_{key}", name, [SPLINES, LINEAR, NOTHING])
    if (NOTHING in names) and names[0] != names[1]:
        raise UserError(
            f"{path}: images and scores are to be resampled both, or neither",
            given=", ".join(names),
        )
    image, scores = (
        _orders(path, name, arguments)
        for name, arguments in zip(
            names,
            (
                configuration.resampling_fn_data_kwargs,
                configuration.resampling_fn_probabilities_kwargs,
            ),
            strict=True,
        )
    )
    if image[2:] != scores[2:]:
        raise UserError(
            f"{path}: images and scores are resampled by different rules of separate_z",
            given=f"{image[2:]} and {scores[2:]}",
            legal="the same force_separate_z and threshold for both",
        )
    spacing = None if names[0] == NOTHING else configuration.spacing
    x, y, z = (2 - axis for axis in plans.transpose_forward)
    return spacing, NnunetRules(
        axes=(x, y, z),
        image_order=image[0],
        image_order_z=image[1],
        scores_order=scores[0],
        scores_order_z=scores[1],
        separate_z=image[2],
        thick=image[3],
    )


def _orders(path: Path, name: str, given: dict[str, Any]) -> tuple[Any, Any, bool | None, float]:
    """Orders of the splines, in general and along a separate axis, and when there is one."""
    # What the functions have where the plans say nothing.
    order, order_z, separate = (3, 0, False) if name == SPLINES else (1, 0, None)
    if name == SPLINES:
        order, order_z = given.get("order", order), given.get("order_z", order_z)
    elif given.get("mode", "linear") != "linear" or given.get("aniso_axis_mode") not in (
        None,
        "nearest-exact",
    ):
        raise UserError(f"{path}: {name} is used in an unusual way", given=given)
    separate = given.get("force_separate_z", separate)
    threshold = given.get("separate_z_anisotropy_threshold", 3)
    if order not in ORDERS or order_z not in ORDERS or separate not in (None, True, False):
        raise UserError(
            f"{path}: {name} is used in an unusual way",
            given=given,
            legal="order and order_z 0, 1 or 3; force_separate_z true, false or null",
        )
    if not isinstance(threshold, int | float) or not threshold > 0:
        raise UserError(f"{path}: {name}: no threshold", given=threshold)
    return order, order_z, separate, float(threshold)


def _intensities(
    path: Path, plans: Plans, configuration: Configuration, channels: tuple[str, ...]
) -> list[ChannelIntensity]:
    schemes, masks = configuration.normalization_schemes, configuration.use_mask_for_norm
    if not len(schemes) == len(masks) == len(channels):
        raise UserError(
            f"{path} and {path.with_name('dataset.json').name} differ in the number of channels",
            given=f"{len(schemes)} normalization_schemes, {len(masks)} use_mask_for_norm, "
            f"{len(channels)} channels",
        )
    found = []
    for number, (name, scheme, mask) in enumerate(zip(channels, schemes, masks, strict=True)):
        _require(path, "normalization_schemes", scheme, list(SCHEMES))
        values: dict[str, Any] = {"name": name, "kind": SCHEMES[scheme]}
        if values["kind"] == "zscore":
            values["nonzero"] = mask
        elif values["kind"] == "ct":
            stated = plans.intensities.get(str(number))
            if stated is None:
                raise UserError(f"{path} says nothing of the intensities of channel {number}")
            values |= {
                "low": stated.percentile_00_5,
                "high": stated.percentile_99_5,
                "mean": stated.mean,
                "std": max(stated.std, SMALLEST_STD),
            }
        found.append(ChannelIntensity(**values))
    return found


def _require(path: Path, key: str, given: str, legal: list[str]) -> None:
    if given not in legal:
        raise UserError(
            f"{path}: {key} is not one that seg3d has", given=given, legal=", ".join(legal)
        )
