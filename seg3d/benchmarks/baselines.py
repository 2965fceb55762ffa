"""The other ways to train the same network in less memory, each a function of an exact network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.nets import DynUNet, UNet
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.checkpoint import checkpoint

from seg3d.networks import UNet3d
from seg3d.networks.blocks import Triple
from seg3d.probing.packing import pack, unpack

CHANNELS = (32, 64, 128, 256, 320, 320)
GROUP = 256


class PlainUNet3d(UNet3d):
    """`UNet3d` as ordinary PyTorch code: exact, and a decoder stage is given a concatenation.

    So does nnU-Net itself (dynamic-network-architectures, ``UNetDecoder``). Parameters, their
    names and the scores are those of `UNet3d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = CHANNELS,
        deep_supervision: bool = False,
        *,
        strides: Sequence[Triple] | None = None,
        blocks: Sequence[int] | None = None,
    ) -> None:
        how = {"strides": strides, "blocks": blocks}
        super().__init__(in_channels, out_channels, channels, "exact", deep_supervision, **how)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:  # type: ignore[override]
        """See :meth:`UNet3d.forward`; no scores are left to the loss."""
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        x = skips.pop()
        scores = []
        every = self.deep_supervision and self.training
        for level in reversed(range(len(self.decoder))):
            x = self.join(level, x, skips.pop())
            if level == 0 or every:
                scores.append(self.heads[level](x))
        return scores[::-1] if every else scores[-1]

    def join(self, level: int, x: Tensor, skip: Tensor) -> Tensor:
        """What a level of the decoder makes of the output of the level below and the skip."""
        x = torch.cat((self.up[level](x), skip), dim=1)
        del skip
        return self.decoder[level](x)


def dynunet(deep_supervision: bool = False, channels: Sequence[int] = CHANNELS) -> DynUNet:
    """MONAI's implementation of nnU-Net's network, with as many channels and levels."""
    levels = len(channels)
    return DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=4,
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=channels,
        norm_name=("instance", {"affine": True}),
        act_name=("leakyrelu", {"negative_slope": 0.01, "inplace": True}),
        deep_supervision=deep_supervision,
        deep_supr_num=levels - 2,
    )


def monai_unet(kind: type[UNet] = UNet, channels: Sequence[int] = CHANNELS) -> UNet:
    """MONAI's UNet, or its CheckpointUNet, with residual units and as many channels and levels."""
    return kind(3, 1, 4, channels, [2] * (len(channels) - 1), num_res_units=2)


# A module, and the method of it that is a part of the network.
Part = tuple[nn.Module, str]


def stages(network: nn.Module) -> list[Part]:
    """The stages of a `PlainUNet3d` or DynUNet: one in the encoder and one in the decoder a level.

    A stage of the decoder includes upsampling and concatenation.
    """
    if isinstance(network, DynUNet):
        down = [network.input_block, *network.downsamples, network.bottleneck]
        return [(stage, "forward") for stage in (*down, *network.upsamples)]
    assert isinstance(network, PlainUNet3d)
    return [*((stage, "forward") for stage in network.encoder), (network, "join")]


def blocks(network: nn.Module) -> list[Part]:
    """The parts of the stages that convolve: one convolution each, in DynUNet two."""
    if isinstance(network, DynUNet):
        return [(getattr(stage, "conv_block", stage), name) for stage, name in stages(network)]
    assert isinstance(network, PlainUNet3d)
    levels = (*network.encoder, *network.decoder)
    return [(block, "forward") for level in levels for block in level.children()]


def checkpointed(network: nn.Module, parts: Callable[[nn.Module], list[Part]]) -> nn.Module:
    """Keep the inputs of some parts only, and compute what is within again in the backward pass.

    Chen, Xu, Zhang and Guestrin, arXiv 1604.06174.

    Args:
        network: its parts are changed in place.
        parts: `blocks` or `stages`.
    """
    for module, name in parts(network):
        # Nothing in these networks is random, so no generator's state need be kept.
        part = getattr(module, name)
        again = partial(checkpoint, part, use_reentrant=False, preserve_rng_state=False)
        setattr(module, name, again)
    return network


class TwoBit(nn.Module):
    """Keep every activation in 2 bits, rounded at random so that its mean is right.

    ActNN (Chen et al., ICML 2021, arXiv 2104.14129): a minimum and a scale for every 256 values,
    which are rounded up or down to one of four levels. Activation functions keep one exact bit.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        weights = {parameter.shape for parameter in self.network.parameters()}
        image = x.untyped_storage()._cdata

        def pack(tensor: Tensor) -> Tensor | PackedTensor:
            # Autocast's copies of the weights are told from activations by their shapes.
            is_activation = (
                tensor.dim() == 5
                and tensor.is_floating_point()
                and tensor.shape not in weights
                and tensor.untyped_storage()._cdata != image
            )
            return PackedTensor(tensor) if is_activation else tensor

        def unpack(kept: Tensor | PackedTensor) -> Tensor:
            return kept.restore() if isinstance(kept, PackedTensor) else kept

        with saved_tensors_hooks(pack, unpack), _SignsOnly():
            return self.network(x)


class PackedTensor:
    """A tensor in 2 bits a value and 64 bits for every group of `GROUP` values."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.dtype = tensor.shape, tensor.dtype
        values = _in_rows(tensor, GROUP)
        self.codes = tensor.new_empty(len(values), GROUP // 4, dtype=torch.uint8)
        self.low = tensor.new_empty(len(values), 1, dtype=torch.float32)
        self.scale = torch.empty_like(self.low)
        for part in _parts(values):
            low, high = values[part].float().aminmax(dim=1, keepdim=True)
            scale = ((high - low) / 3).clamp_(min=1e-30)
            levels = (values[part] - low).div_(scale)
            levels.add_(torch.rand_like(levels)).floor_().clamp_(0, 3)
            self.codes[part] = pack(levels.to(torch.uint8), bits=2)
            self.low[part], self.scale[part] = low, scale

    def restore(self) -> Tensor:
        values = self.codes.new_empty(len(self.codes), GROUP, dtype=self.dtype)
        for part in _parts(values):
            levels = unpack(self.codes[part], bits=2).float()
            values[part] = levels.mul_(self.scale[part]).add_(self.low[part]).to(self.dtype)
        return values.flatten()[: self.shape.numel()].view(self.shape)


class _SignsOnly(TorchFunctionMode):
    """Let every leaky ReLU keep a bit a value instead of a tensor."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in (F.leaky_relu, F.leaky_relu_):
            return func(*args, **kwargs or {})

        def leaky_relu(
            input: Tensor, negative_slope: float = 0.01, inplace: bool = func is F.leaky_relu_
        ) -> Tensor:
            return _LeakyReLU.apply(input if inplace else input.clone(), negative_slope)

        return leaky_relu(*args, **kwargs or {})


class _LeakyReLU(torch.autograd.Function):
    """In place, and its sign is all that it keeps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.mark_dirty(x)
        ctx.slope = slope
        ctx.save_for_backward(pack(_in_rows(x > 0, 8).view(torch.uint8), bits=1))
        return F.leaky_relu_(x, slope)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (signs,) = ctx.saved_tensors
        rows = _in_rows(gradient, 8).clone()
        for part in _parts(rows):
            rows[part] *= torch.where(unpack(signs[part], bits=1).bool(), 1.0, ctx.slope)
        return rows.flatten()[: gradient.numel()].view(gradient.shape), None


def _in_rows(tensor: Tensor, length: int) -> Tensor:
    """All values in rows, the last one filled up with the last value."""
    flat = tensor.flatten()
    missing = -len(flat) % length
    return (torch.cat((flat, flat[-1:].expand(missing))) if missing else flat).view(-1, length)


def _parts(rows: Tensor) -> list[slice]:
    """Parts of 16 million values, so that copies are small."""
    step = 2**24 // rows.shape[1]
    return [slice(start, start + step) for start in range(0, len(rows), step)]


class Compiled(nn.Module):
    """torch.compile with a limit to what the backward pass is given.

    Up to the limit, operators that are cheap for what they give are computed again (PyTorch's
    min-cut partitioner and its knapsack solver, ``activation_memory_budget``). On fake tensors,
    which cannot be compiled, the partitioned graphs run operator by operator: what is saved is
    what torch.compile would save; the peak is without the fusion of operators, so rather too high.

    Args:
        network: any module.
        budget: what is saved, from 0 (only the inputs) to 1 (as without limit).
    """

    def __init__(self, network: nn.Module, budget: float) -> None:
        super().__init__()
        self.network = network
        self.budget = budget
        self._compiled: Callable[..., Any] | None = None

    def forward(self, x: Tensor) -> Any:
        from torch._functorch import config

        if isinstance(x, FakeTensor):
            parameters = dict(self.network.named_parameters())
            if self._compiled is None:
                self._compiled = _partitioned(self.network)
                # Tracing is done once, and not part of a training step.
                with (
                    config.patch(activation_memory_budget=self.budget),
                    _disable_current_modes(),
                    x.fake_mode,
                ):
                    self._compiled(parameters, x)
            return self._compiled(parameters, x)
        if self._compiled is None:
            self._compiled = torch.compile(self.network)
        with config.patch(activation_memory_budget=self.budget):
            return self._compiled(x)


def _partitioned(network: nn.Module) -> Callable[..., Any]:
    from torch._dynamo.backends.debugging import boxed_nop
    from torch._functorch.aot_autograd import aot_function
    from torch._functorch.partitioners import min_cut_rematerialization_partition

    def call(parameters: dict[str, Tensor], x: Tensor) -> Any:
        return torch.func.functional_call(network, parameters, (x,))

    # As it stands, but for freeing every tensor after its last use.
    run: Any = boxed_nop
    return aot_function(
        call,
        fw_compiler=run,
        bw_compiler=run,
        partition_fn=min_cut_rematerialization_partition,
    )


class Offloaded(nn.Module):
    """Keep what autograd saves in the memory of the CPU; only a GPU gains from it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        with save_on_cpu(pin_memory=True):
            return self.network(x)


# Ways to train an exact network, by name; it may be changed.
BASELINES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "plain": lambda network: network,
    "checkpoint-blocks": lambda network: checkpointed(network, blocks),
    "checkpoint-stages": lambda network: checkpointed(network, stages),
    "two-bit": TwoBit,
    "compile": lambda network: Compiled(network, 1),
    "compile-0.5": lambda network: Compiled(network, 0.5),
    "compile-0.2": lambda network: Compiled(network, 0.2),
    "offload": Offloaded,
}
