"""The command ``seg3d check-gpu``."""

from __future__ import annotations

import click

from seg3d.cli.options import debug_option, device_option


@click.command("check-gpu")
@device_option
@debug_option
@click.pass_context
def check_gpu(ctx: click.Context, device: str) -> None:
    """Compare this GPU's results with ordinary PyTorch, and time a training step.

    It is meant to take about a minute. The exit status is 1 if the results are wrong.

    \b
    Example:
      seg3d check-gpu
      seg3d check-gpu --device cuda:1
    """
    import torch

    from seg3d.benchmarks.gpu.check import check_gpu as check
    from seg3d.common.device import choose_device
    from seg3d.common.errors import UserError

    chosen = choose_device(device)
    if chosen.type != "cuda":
        raise UserError(
            "check-gpu: there is no GPU to be checked, or PyTorch does not see it",
            given=f"device {chosen}",
            fix="install a CUDA build of PyTorch and NVIDIA's driver; nvidia-smi shows the GPU",
        )
    torch.backends.cudnn.benchmark = True
    with torch.cuda.device(chosen):
        click.echo(torch.cuda.get_device_name(chosen))
        right, words = check(chosen)
    for line in words:
        click.echo(line)
    ctx.exit(0 if right else 1)
