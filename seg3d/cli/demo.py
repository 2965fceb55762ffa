"""The command ``seg3d demo``."""

from __future__ import annotations

from pathlib import Path

import click

from seg3d.cli.options import debug_option, device_option, path
from seg3d.common.errors import DONE, INTERRUPTED


@click.command()
@click.argument("sample", type=click.Choice(["brain", "faults"]), default="brain")
@click.option("--run", "run_folder", type=path, help="Folder.  [default: runs/demo_SAMPLE]")
@device_option
@debug_option
@click.pass_context
def demo(ctx: click.Context, sample: str, run_folder: Path | None, device: str) -> None:
    """Train, predict and evaluate on sample data, in a few minutes.

    brain: tissues in MR of the head. faults: faults in synthetic seismic surveys, SEG-Y in and
    out. The folder then holds the data, the run, the predictions and prediction.png.

    \b
    Example:
      seg3d demo brain
      seg3d demo faults
    """
    from seg3d.common.device import choose_device
    from seg3d.common.printing import make_console
    from seg3d.common.standard_streams import going_on_unheard
    from seg3d.demo import SAMPLES, run_demo

    ctx.with_resource(going_on_unheard())
    choose_device(device)
    folder = run_folder or Path("runs") / f"demo_{sample}"
    ending = run_demo(SAMPLES[sample], folder, device, make_console())
    if ending == "interrupted":
        click.echo("interrupted", err=True)
    ctx.exit(INTERRUPTED if ending == "interrupted" else DONE)
