"""Turning the convolutions of any network into probed ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from seg3d.probing.convolutions import ProbedConv3d, ProbedConvTranspose3d
from seg3d.probing.layers import ProbedLayer
from seg3d.probing.names import make_sketch

PROBED: dict[type[nn.Module], type[ProbedLayer]] = {
    nn.Conv3d: ProbedConv3d,
    nn.ConvTranspose3d: ProbedConvTranspose3d,
    ProbedConv3d: ProbedConv3d,
    ProbedConvTranspose3d: ProbedConvTranspose3d,
}


@dataclass
class ProbeReport:
    """What :func:`probe_model` did; printed, it is a table.

    Attributes:
        converted: the sketch of every probed layer, by the layer's name.
        left: why a layer with weights was left as it was, by the layer's name.
    """

    converted: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [(name, "probed", sketch) for name, sketch in self.converted.items()]
        rows += [(name, "left", reason) for name, reason in self.left.items()]
        width = max((len(name) for name, _, _ in rows), default=0)
        lines = [f"{len(self.converted)} layers probed, {len(self.left)} left as they were"]
        lines += [f"{name:<{width}}  {fate:<6}  {detail}" for name, fate, detail in rows]
        return "\n".join(lines)


def probe_model(network: nn.Module, sketch: str = "onebit", rank: int = 64) -> ProbeReport:
    """Turn every Conv3d and ConvTranspose3d of ``network`` into a probed layer, in place.

    The layers remain the same objects, with the same parameters, hooks and names, so that
    optimisers and the keys of the state_dict need no care. Layers that are probed already are
    given the new sketch.

    Args:
        network: any module, for example one of MONAI's networks.
        sketch: name of the sketch, one of ``seg3d.probing.SKETCHES``.
        rank: number of probes of ``independent``, ``multichannel`` and ``orthogonal``.

    Returns:
        Which layers are probed now, and which others with weights are not, and why.

    Raises:
        UserError: the sketch is unknown, or the rank is not positive; nothing is changed then.
    """
    make_sketch(sketch, rank)
    report = ProbeReport()
    for name, module in network.named_modules():
        if not isinstance(module, _ConvNd | nn.Linear):
            continue
        reason = _reason_to_leave(module)
        if reason is not None:
            report.left[name] = reason
        else:
            if isinstance(module, ProbedLayer):
                module.set_sketch(sketch, rank)
            else:
                PROBED[type(module)].adopt(module, sketch, rank, 1)
            report.converted[name] = sketch
    return report


def _reason_to_leave(module: nn.Module) -> str | None:
    if isinstance(module, LazyModuleMixin):
        return "lazy: run a forward pass first"
    if is_parametrized(module) or "weight" not in module._parameters:
        return "its weight is computed from other parameters"
    if type(module) not in PROBED:
        known = isinstance(module, nn.Conv3d | nn.ConvTranspose3d)
        kind = type(module).__name__
        return f"{kind} is an unknown kind of 3D convolution" if known else f"{kind} is not 3D"
    if not module.get_parameter("weight").requires_grad:
        return "its weight is frozen"
    return None
