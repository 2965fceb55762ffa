"""The plan that comes with weights, where the config of the new run says nothing else."""

from __future__ import annotations

from typing import Any

from seg3d.config import Config, UNet3dConfig, config_from_tree, config_tree
from seg3d.plan.fingerprint import CaseFingerprint, Source
from seg3d.plan.make import make_plan, typical_shape, with_patch
from seg3d.plan.network import padded_for_strides, patch_for_strides, require_legal_patch
from seg3d.plan.plan import ChannelIntensity, Plan
from seg3d.plan.presets import voxels_of

# What of a plan belongs to the network, and to what it was trained on.
OF_NETWORK = ("kernels", "strides", "features", "blocks")
OF_PATCH = ("patch_size", "whole", "batch_size")
AUTO = "auto"


def inherited_config(asked: Config, theirs: Config, given: Plan) -> Config:
    """The config of a new run, with the network and the preprocessing of the one that trained.

    Args:
        asked: of the new run; what it gives, other than ``auto``, counts.
        theirs: of the run that the weights are from.
        given: the plan of that run.
    """
    tree, inherited = config_tree(asked), config_tree(theirs)
    if inherited["network"].get("preset") == AUTO:
        inherited["network"]["preset"] = "plain" if given.blocks is None else "resenc-m"
    for name in ("preprocess", "network"):
        said = _said(asked, name)
        # Arguments of one network mean nothing to another.
        if name == "preprocess" or said.get("name", theirs.network.name) == theirs.network.name:
            tree[name] = inherited[name] | said
    if given.whole and not _said(asked, "patch"):
        tree["patch"]["size"] = "whole"
    return config_from_tree(tree)


def inherited_plan(
    asked: Config,
    config: Config,
    theirs: Config,
    given: Plan,
    dataset: Source,
    fingerprints: dict[str, CaseFingerprint],
) -> Plan:
    """The plan of a new run that begins with the weights of another.

    Args:
        asked: of the new run.
        config: what `inherited_config` made of it.
        theirs: of the run that the weights are from.
        given: the plan of that run.
        dataset: of the new run.
        fingerprints: of its cases.

    Raises:
        UserError: if the config gives a patch that the network does not take.
    """
    same = _same_network(asked, theirs)
    made = make_plan(_of_any_network(config) if same else config, dataset, fingerprints)
    plan = _with(made, given, *OF_NETWORK, *OF_PATCH) if same else made
    if same:
        # The rules say which axes these are, and how volumes are brought there.
        plan = _with(plan, given, "nnunet")
    if "spacing" not in _said(asked, "preprocess"):
        plan = _with(plan, given, "spacing", "typical_spacing")
    plan = plan.model_copy(update={"channels": _channels(asked, theirs, given, made)})
    if not isinstance(config.network, UNet3dConfig):
        return with_patch(config, plan)
    shape = typical_shape(config, plan, fingerprints)
    if config.patch.size == "whole":
        whole = padded_for_strides(plan, shape)
        plan = plan.model_copy(update={"patch_size": whole, "whole": True, "batch_size": 1})
    elif "voxels" in _said(asked, "patch"):
        size = patch_for_strides(voxels_of(config), plan, shape)
        plan = plan.model_copy(update={"patch_size": size, "whole": False})
    plan = with_patch(config, plan)
    require_legal_patch(config, plan.patch_size, plan.strides, "the patch that comes with weights")
    return plan


def _said(asked: Config, section: str) -> dict[str, Any]:
    """What a config gives in a section, other than ``auto``."""
    given = getattr(asked, section).model_dump(mode="json", exclude_unset=True)
    return {key: value for key, value in given.items() if value != AUTO}


def _same_network(asked: Config, theirs: Config) -> bool:
    """Whether the config asks for no other network; the heads are no matter of the plan."""
    said, inherited = _said(asked, "network"), config_tree(theirs)["network"]
    return all(
        inherited.get(key) == value for key, value in said.items() if key != "deep_supervision"
    )


def _of_any_network(config: Config) -> Config:
    """With the patch that the data ask for, whatever a network can do with it."""
    patch, network = config.patch.model_copy(update={"size": AUTO}), config.network
    if isinstance(network, UNet3dConfig):
        network = network.model_copy(update={"channels": AUTO})
    return config.model_copy(update={"patch": patch, "network": network})


def _with(plan: Plan, given: Plan, *names: str) -> Plan:
    return plan.model_copy(update={name: getattr(given, name) for name in names})


def _channels(asked: Config, theirs: Config, given: Plan, made: Plan) -> list[ChannelIntensity]:
    """Intensities as the weights know them, under the names of the dataset."""
    said, before = _said(asked, "preprocess"), config_tree(theirs)["preprocess"]
    kinds = {one.kind for one in given.channels}
    if (
        len(given.channels) != len(made.channels)
        or ("intensity" in said and kinds != {said["intensity"]})
        or said.get("percentiles", before["percentiles"]) != before["percentiles"]
    ):
        return made.channels
    return [
        one.model_copy(update={"name": ours.name})
        for one, ours in zip(given.channels, made.channels, strict=True)
    ]
