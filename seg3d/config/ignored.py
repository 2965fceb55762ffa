"""Keys that change nothing, because of what other keys say."""

from __future__ import annotations

from collections.abc import Sequence

from seg3d.common.choices import PROBES
from seg3d.config.augment import AugmentConfig
from seg3d.config.overrides import keys_set
from seg3d.config.sections import Config


def ignored_overrides(config: Config, overrides: Sequence[str]) -> list[str]:
    """Say of every ``--set`` that changes nothing why it does not.

    Args:
        config: with the overrides applied.
        overrides: ``key.sub=value``, as they were applied.
    """
    reasons = keys_without_effect(config)
    said = []
    for number, override in enumerate(overrides):
        later = [other.partition("=")[0].strip() for other in overrides[number + 1 :]]
        for key in keys_set(override):
            if any(_within(key, other) for other in later):
                said.append(f"--set {key} has no effect: it is set again after that.")
                continue
            said += [
                f"--set {key} has no effect: {reason}."
                for name, reason in reasons.items()
                if _within(key, name)
            ]
    return said


def _within(key: str, section: str) -> bool:
    """Whether a key is another one, or stands below it."""
    return f"{key}.".startswith(f"{section}.")


def keys_without_effect(config: Config) -> dict[str, str]:
    """Every key that has no effect, and why."""
    train, loss, probing = config.train, config.loss, config.probing
    found = {}
    if train.optimizer != "sgd":
        found["train.momentum"] = f"train.optimizer is {train.optimizer}"
    if train.optimizer != "adamw":
        found["train.warmup"] = f"train.optimizer is {train.optimizer}"
    if loss.dice == 0:
        found |= dict.fromkeys(("loss.batch_dice", "loss.tversky"), "loss.dice is 0")
    if loss.cross_entropy == 0:
        found |= dict.fromkeys(("loss.focal", "loss.class_weights"), "loss.cross_entropy is 0")
    if probing.sketch != "rotated":
        found["probing.bits"] = f"probing.sketch is {probing.sketch}"
    if probing.sketch not in PROBES:
        found["probing.rank"] = f"probing.sketch is {probing.sketch}"
    if config.plan.memory is not None:
        found["patch.voxels"] = "plan.memory is given"
    # Plans of nnU-Net's, which are JSON, leave the patch to be planned.
    if config.plan.file is not None and config.plan.file.suffix != ".json":
        found |= dict.fromkeys(("plan.memory", "patch.voxels"), "plan.file is given")
    if config.patch.size == "whole":
        found["patch.foreground"] = "patch.size is whole"
    if config.patch.size != "auto":
        found["patch.voxels"] = "patch.size is given"
    if config.preprocess.intensity not in ("auto", "ct"):
        kind = config.preprocess.intensity
        found["preprocess.percentiles"] = f"preprocess.intensity is {kind}"
    for name in AugmentConfig.model_fields:
        section = getattr(config.augment, name)
        if section.prob == 0:
            for key in type(section).model_fields.keys() - {"prob"}:
                found[f"augment.{name}.{key}"] = f"augment.{name}.prob is 0"
    # Predictions are averaged over these flips too.
    found.pop("augment.flip.axes", None)
    if not config.augment.flip.axes:
        found["augment.flip.prob"] = found["predict.mirror"] = "augment.flip.axes is empty"
    return found
