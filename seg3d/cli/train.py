"""The command ``seg3d train``."""

from __future__ import annotations

from pathlib import Path

import click

from seg3d.cli.exit_status import DONE, INTERRUPTED
from seg3d.cli.options import data_override, debug_option, device_option, path
from seg3d.cli.segy_options import segy_options


@click.command()
@click.argument("config", type=path)
@click.option("--data", type=path, help="Dataset folder or list file; overrides data.folder.")
@click.option("--run", "run_folder", type=path, help="Folder of the run.  [default: runs/CONFIG]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a config key.")
@click.option("--resume", is_flag=True, help="Continue the run from its last checkpoint.")
@device_option
@click.option("--fold", type=click.IntRange(min=0), help="Fold to train, counted from 0.")
@segy_options
@debug_option
@click.pass_context
def train(
    ctx: click.Context,
    config: Path,
    data: Path | None,
    run_folder: Path | None,
    overrides: tuple[str, ...],
    resume: bool,
    device: str,
    fold: int | None,
) -> None:
    """Train a network as CONFIG (a YAML file) says.

    The dataset's layout (MSD, nnU-Net, images/ and labels/, a CSV or JSON list) is recognised.

    \b
    Example:
      seg3d train configs/medical_ct.yaml --data Task09_Spleen --set train.epochs=100
      tensorboard --logdir runs
    """
    from seg3d.common.device import choose_device
    from seg3d.common.printing import make_console, print_as_is
    from seg3d.config import ignored_overrides, load_config
    from seg3d.runs.run_folder import Run, require_new_run, resume_run, sole_user
    from seg3d.training.loop import train as train_run
    from seg3d.training.preparation import default_run_folder, prepare

    choose_device(device)
    overrides += data_override(data)
    if fold is not None:
        overrides += (f"data.fold={fold}",)
    asked = load_config(config, overrides)
    run = Run(run_folder or default_run_folder(config, asked.data.fold))
    console = make_console()
    if resume:
        settings, differing = resume_run(run, asked, overrides)
        if differing:
            print_as_is(
                console,
                f"Note: the run keeps its own {run.config}; it differs from {config} in "
                f"{', '.join(differing)}. Use --set to change a key.",
            )
    else:
        require_new_run(run)
        settings = asked
    for note in ignored_overrides(settings, overrides):
        print_as_is(console, f"Note: {note}")
    with sole_user(run):
        prepared = prepare(settings, run, resume, console)
        ending = train_run(prepared, run, device, resume, console)
    print_as_is(console, f"{ending}: {run.folder}")
    if ending != "finished":
        console.print("  --resume continues it", highlight=False)
    print_as_is(console, f"  tensorboard --logdir {run.folder}")
    ctx.exit(INTERRUPTED if ending == "interrupted" else DONE)
