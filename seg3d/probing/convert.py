"""Turning the layers of any network into probed ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from seg3d.probing.activations import ProbedLeakyReLU, ProbedPReLU, ProbedReLU
from seg3d.probing.convolutions import ProbedConv3d, ProbedConvTranspose3d
from seg3d.probing.names import Bits, check_sketch
from seg3d.probing.norms import ProbedBatchNorm3d, ProbedGroupNorm, ProbedInstanceNorm3d
from seg3d.probing.pools import ProbedAvgPool3d, ProbedMaxPool3d
from seg3d.probing.probed_layer import ProbedLayer
from seg3d.probing.sequential import as_probed

PROBED: dict[type[nn.Module], type[ProbedLayer]] = {
    nn.Conv3d: ProbedConv3d,
    nn.ConvTranspose3d: ProbedConvTranspose3d,
    nn.InstanceNorm3d: ProbedInstanceNorm3d,
    nn.GroupNorm: ProbedGroupNorm,
    nn.BatchNorm3d: ProbedBatchNorm3d,
    nn.ReLU: ProbedReLU,
    nn.LeakyReLU: ProbedLeakyReLU,
    nn.PReLU: ProbedPReLU,
    nn.MaxPool3d: ProbedMaxPool3d,
    nn.AvgPool3d: ProbedAvgPool3d,
}
KEEPS_NOTHING = (
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.Upsample,
    nn.ConstantPad3d,
    nn.PixelShuffle,
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
)


@dataclass
class ProbeReport:
    """What :func:`probe_model` did; printed, it is a table.

    Attributes:
        converted: the sketch of every probed layer, by the layer's name.
        left: why a layer that has weights or may keep tensors was left as it was, by its name.
        shares: of the bytes that autograd keeps, by the name of the layer; see :meth:`measure`.
    """

    converted: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)

    def measure(
        self,
        network: nn.Module,
        input_shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        *,
        amp: bool = False,
    ) -> None:
        """Find out who keeps how much for the backward pass, without computing anything.

        Modules that are not layers come up where functions that their ``forward`` calls keep
        tensors. Arguments and errors are as for :func:`seg3d.memory.training_memory`.

        Args:
            network: the one that was given to :func:`probe_model`.
            input_shape: of the image, ``(B, C, D, H, W)``.
            dtype: of the computation.
            amp: get there by autocast.
        """
        from seg3d.memory import training_memory  # which knows of networks, and they of this

        memory = training_memory(network, input_shape, dtype, amp=amp)
        self.shares = {name: size / memory.saved for name, size in memory.saved_by_layer.items()}
        for name in self.shares:
            if name not in self.converted and name != "loss":
                self.left.setdefault(name, "functions that its forward calls")

    def __str__(self) -> str:
        summary = f"{len(self.converted)} layers probed, {len(self.left)} left as they were"
        if self.shares:
            summary += f" with {sum(map(self._share, self.left)):.1%} of the saved bytes"
        rows = [(name, "probed", sketch) for name, sketch in self.converted.items()]
        rows += [(name, "left", self._with_share(name)) for name in self.left]
        width = max((len(name) for name, _, _ in rows), default=0)
        lines = [f"{name:<{width}}  {fate:<6}  {detail}" for name, fate, detail in rows]
        return "\n".join([summary, *lines])

    def _share(self, name: str) -> float:
        return self.shares.get(name, 0.0)

    def _with_share(self, name: str) -> str:
        reason = self.left[name]
        return f"{self._share(name):.1%}  {reason}" if self.shares else reason


def probe_model(
    network: nn.Module, sketch: str = "rotated", rank: int = 64, bits: Bits = 1
) -> ProbeReport:
    """Turn the layers of ``network`` into probed ones, in place, as far as there are such.

    These are Conv3d, ConvTranspose3d, InstanceNorm3d, GroupNorm, BatchNorm3d, ReLU, LeakyReLU,
    PReLU, MaxPool3d and AvgPool3d. They remain the same objects, with the same parameters, hooks
    and names, so that optimisers and the keys of the state_dict need no care. Layers that are
    probed already are given the new sketch. ``nn.Sequential`` and blocks of MONAI's and nnU-Net's
    that are known (of exactly their classes, not of subclasses) hand tensors on, from now on,
    without concatenations and for work in place.

    Args:
        network: any module, for example one of MONAI's or nnU-Net's networks.
        sketch: name of the sketch, one of ``seg3d.probing.SKETCHES``.
        rank: number of probes of ``independent``, ``multichannel`` and ``orthogonal``.
        bits: kept per voxel by ``rotated``, one of ``seg3d.probing.names.BITS``.

    Returns:
        Which layers are probed now, and which others have weights or may keep tensors for the
        backward pass, and why they were left.

    Raises:
        UserError: the sketch is unknown, or the rank or the bits are not legal; nothing is
            changed then.
    """
    check_sketch(sketch, rank, bits)
    report = ProbeReport()
    for name, module in network.named_modules():
        if "parametrizations" in name.split("."):
            continue
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            as_probed(module)
        elif kind := _known_kinds(type(module)).get(type(module)):
            module.__class__ = kind
        if (reason := _reason_to_leave(module)) is not None:
            report.left[name] = reason
        elif isinstance(module, ProbedLayer):
            module.set_sketch(sketch, rank, bits)
            report.converted[name] = sketch
        elif type(module) in PROBED:
            PROBED[type(module)].adopt(module, sketch, rank, bits)
            report.converted[name] = sketch
    return report


def _known_kinds(kind: type[nn.Module]) -> dict[type[nn.Module], type[nn.Module]]:
    """The modules of ``kind``'s package that have a ``forward`` of ours, by their exact class.

    The packages are there if one has such a module: MONAI takes seconds to import, and nnU-Net's
    networks need not be installed.
    """
    package, _, _ = kind.__module__.partition(".")
    if package == "monai":
        from seg3d.probing.monai_blocks import KINDS

        return KINDS
    if package == "dynamic_network_architectures":
        from seg3d.probing.nnunet_blocks import KINDS

        return KINDS
    return {}


def _reason_to_leave(module: nn.Module) -> str | None:
    kind = type(module).__name__
    if isinstance(module, LazyModuleMixin):
        return "lazy: run a forward pass first"
    if is_parametrized(module) or (isinstance(module, _ConvNd) and "weight" not in _own(module)):
        return "its weight is computed from other parameters"
    if isinstance(module, ProbedLayer) or type(module) in PROBED:
        if isinstance(module, nn.InstanceNorm3d) and module.track_running_stats:
            return "it keeps running statistics"
        return None
    if kind.endswith(("1d", "2d")) or isinstance(module, nn.Linear):
        return f"{kind} is not 3D"
    for known in PROBED:
        if isinstance(module, known):
            return f"{kind} is an unknown kind of {known.__name__}"
    if _own(module):
        return f"there is no probed {kind}, which has weights of its own"
    is_layer = not list(module.children())
    if not is_layer or isinstance(module, KEEPS_NOTHING) or getattr(module, "p", None) == 0:
        return None
    return f"there is no probed {kind}"


def _own(module: nn.Module) -> list[str]:
    """The names of the parameters that the module itself has, and not one of its children."""
    return [name for name, parameter in module._parameters.items() if parameter is not None]
