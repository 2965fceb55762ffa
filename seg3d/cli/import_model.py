"""The command ``seg3d import``."""

from __future__ import annotations

from pathlib import Path

import click

from seg3d.cli.options import debug_option, path, text_path


@click.command("import")
@click.argument("model", type=path)
@click.option("--run", type=text_path, required=True, help="Folder of the run to be made.")
@debug_option
def import_model(model: Path, run: Path) -> None:
    """Make a run of an nnU-Net model: a folder with plans.json, dataset.json and fold_*.

    The run has the networks of all folds. predict, info and evaluate take it as they take a run
    that seg3d has trained.

    \b
    Example:
      seg3d import Dataset009_Spleen/nnUNetTrainer__nnUNetPlans__3d_fullres --run runs/spleen
      seg3d predict runs/spleen scans/ --output predictions/
    """
    from seg3d.common.printing import make_console, print_as_is
    from seg3d.nnunet import import_nnunet

    for file in import_nnunet(model, run):
        print_as_is(make_console(), file)
