"""The command ``seg3d train``."""

from __future__ import annotations

from pathlib import Path

import click

from seg3d.cli.options import debug_option, device_option, init_from_option, path, text_path
from seg3d.cli.segy_options import segy_options


@click.command()
@click.argument("config", type=path)
@click.option("--data", type=text_path, help="Dataset folder or list file; overrides data.folder.")
@click.option(
    # torchrun, which may start the command, stops at --run: it has several options so called.
    "--run",
    "--run-folder",
    "run_folder",
    type=text_path,
    help="Folder of the run.  [default: runs/CONFIG]",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a config key.")
@init_from_option
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
    init_from: Path | None,
) -> None:
    """Train a network as CONFIG says: a YAML file, or the name of a shipped one.

    The dataset's layout (MSD, nnU-Net, images/ and labels/, a CSV or JSON list) is recognised.

    \b
    Example:
      seg3d train medical_ct --data Task09_Spleen --set train.epochs=100
      seg3d train medical_ct --data tumours/ --init-from runs/medical_ct
      tensorboard --logdir runs
    """
    from seg3d.common.errors import DONE, INTERRUPTED
    from seg3d.common.one_voice import is_first
    from seg3d.common.printing import make_console, print_as_is
    from seg3d.common.standard_streams import going_on_unheard
    from seg3d.training.start import train as train_run

    ctx.with_resource(going_on_unheard())
    if fold is not None:
        overrides += (f"data.fold={fold}",)
    console = make_console(quiet=not is_first())
    trained = train_run(
        config,
        data=data,
        run=run_folder,
        device=device,
        resume=resume,
        overrides=overrides,
        init_from=init_from,
        console=console,
    )
    folder, ending = trained.run.folder, trained.ending
    print_as_is(console, f"{ending}: {folder}")
    if ending != "finished":
        console.print("  --resume continues it", highlight=False)
    print_as_is(console, f"  tensorboard --logdir {folder}")
    ctx.exit(INTERRUPTED if ending == "interrupted" else DONE)
